#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "model/text/tokenizer.h"
#include "server/config.h"
#include "server/log.h"
#include "server/model_facts.h"
#include "server/serving_device.h"

namespace lorad {

class CausalLm;

// What the daemon takes of the folder --model. Errors: those of its readers.

// Tells of its progress on stderr when that is a terminal, and in the log at the end.
absl::StatusOr<std::unique_ptr<CausalLm>> LoadBaseModel(const ServerConfig& config, const ServingDevice& device,
                                                        Log* log);

// Null where the folder has none, which is a warning: such a model is served by token ids.
absl::StatusOr<std::shared_ptr<const Tokenizer>> LoadTokenizer(const std::string& model_dir, Log* log);

absl::StatusOr<ModelFacts> FactsOf(const ServerConfig& config, const ServingDevice& device, const CausalLm& model);

}  // namespace lorad
