#pragma once

#include "absl/status/status.h"
#include "adapters/base_tables.h"
#include "model/base/file_source.h"
#include "model/safetensors.h"

namespace lorad {

// Whether a table in an adapter's file is the base's own, rounded to the file's type (training may have widened or
// narrowed the base). Reads some rows at a time. Errors: Unimplemented, naming `tensor_name`, for a table that
// differs, or that nothing can be compared with.
absl::Status CheckEqualsBaseTable(FileSource& files, const std::string& path, const std::string& tensor_name,
                                  const SafetensorsEntry& entry, Site site, const BaseTables& base_tables);

}  // namespace lorad
