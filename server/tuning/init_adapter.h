#pragma once

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "adapters/base_tables.h"
#include "adapters/image.h"
#include "lorad/v1/finetuning.pb.h"
#include "server/backend.h"

namespace lorad {

class CausalLm;

// What a job or a run goes on from: the adapter that `name_or_path` is served as, else a folder; "": nothing. `spec`,
// of which only the dropout and what only the training of routers knows may be set, gets the modules, ranks, scales and
// replaced parts that the adapter has.
//
// Errors   as ReadAdapter; InvalidArgument for a spec that says more; Unimplemented for an adapter that has what is not
//          trained, as tokens of its own or invocation tokens.
absl::StatusOr<std::optional<AdapterImage>> TakeInitAdapter(const std::string& name_or_path, const Backend& backend,
                                                            const CausalLm& model, const BaseTables& base_tables,
                                                            v1::AdapterSpec* spec);

// Writes it into `folder`, which is not there yet: what a job begins from is its own, whatever becomes of the adapter.
absl::Status KeepInitAdapter(const AdapterImage& image, const BaseShape& base, const BaseTables& base_tables,
                             const std::string& folder);

}  // namespace lorad
