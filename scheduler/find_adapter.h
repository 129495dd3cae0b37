#pragma once

#include <string>

#include "scheduler/snapshot.h"

namespace lorad {

// What is listed first under the name, or null: what it means to new requests, else an old version that drains, else
// a load that failed.
const AdapterInfo* FindListed(const AdapterListing& listing, const std::string& name);

// What the name means to new requests, or null: also where a load failed, or an old version drains, since the folder
// may load anew.
const AdapterInfo* FindLive(const AdapterListing& listing, const std::string& name);

}  // namespace lorad
