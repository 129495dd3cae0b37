#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "adapters/base_tables.h"
#include "adapters/image.h"
#include "model/base/file_source.h"
#include "model/base/new_folder.h"
#include "model/sites.h"

namespace lorad {

// Keeps the file's order of keys: of rank_pattern and alpha_pattern the first key that matches wins.
using AdapterConfigJson = nlohmann::ordered_json;

struct AdapterReadOptions {
  DType pool_dtype = DType::kF32;    // weights must stay finite in it
  BaseTables base_tables = nullptr;  // without it a folder that holds a copy of a base table is refused
  int64_t max_pool_bytes = 0;        // a larger adapter, as it would lie in the pool, is refused unread; 0: no limit
};

// A kind of adapter: a reader and a writer of folders, nothing else. kinds/table.cc lists them.
struct AdapterKind {
  const char* name;
  // Whether adapter_config.json is of this kind. Exactly one kind recognises a config, or it is refused by name.
  bool (*recognises)(const AdapterConfigJson& config);
  // Reads a folder. Errors: Unimplemented, naming the key, for anything that would change the maths and is not
  // supported; InvalidArgument for a config or tensors that do not fit the base; DataLoss for corrupt, incomplete or
  // contradictory files.
  absl::StatusOr<AdapterImage> (*read)(const std::string& dir, const AdapterConfigJson& config, const BaseShape& base,
                                       FileSource& files, const AdapterReadOptions& options);
  // Writes what `read` gave for this base into `folder`, in the format it came from: the programs of that format read
  // it, reading it gives the image again, digest included, and the same image gives the same bytes.
  absl::Status (*write)(const AdapterImage& image, const BaseShape& base, const BaseTables& base_tables,
                        const NewFolder& folder);
};

absl::Span<const AdapterKind> AdapterKinds();

// adapter_config.json of `dir`, an object. Errors: NotFound; DataLoss for what is no JSON; InvalidArgument for one too
// deep or too large.
absl::StatusOr<AdapterConfigJson> ReadAdapterConfig(const std::string& dir, FileSource& files);

// Reads adapter_config.json of `dir`, picks the kind and reads the folder. NotFound: no such folder or no config.
absl::StatusOr<AdapterImage> ReadAdapter(const std::string& dir, const BaseShape& base, FileSource& files,
                                         const AdapterReadOptions& options = {});

// Writes an image that ReadAdapter gave for `base`, by its kind. `folder` is not published.
absl::Status WriteAdapter(const AdapterImage& image, const BaseShape& base, const BaseTables& base_tables,
                          const NewFolder& folder);

}  // namespace lorad
