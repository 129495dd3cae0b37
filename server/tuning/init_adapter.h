#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "adapters/base_tables.h"
#include "adapters/image.h"
#include "lorad/v1/finetuning.pb.h"
#include "model/sites.h"
#include "server/backend.h"

namespace lorad {

// What a job goes on from.
struct InitAdapter {
  AdapterImage image;
  v1::AdapterSpec spec;  // the modules, ranks and scales that it has
};

// `name_or_path`: an adapter that is served, else a folder. Only LoRA and DoRA on linears, embedding and head can be
// gone on from. Errors: as ReadAdapter; Unimplemented for what else is in it.
absl::StatusOr<InitAdapter> ReadInitAdapter(const std::string& name_or_path, const Backend& backend,
                                            const BaseShape& base, const BaseTables& base_tables);

}  // namespace lorad
