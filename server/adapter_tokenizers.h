#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "model/base/file_source.h"
#include "model/text/tokenizer.h"
#include "scheduler/snapshot.h"

namespace lorad {

// The tokenizers that adapters bring in their folders. Most are copies of the base's, and large: a folder with the same
// files as the base's has none of its own, and folders with the same files share one. Threads: any.
class AdapterTokenizers final {
 public:
  explicit AdapterTokenizers(const std::string& model_dir);

  // Null: the folder has no tokenizer, or the base's. Errors: as Tokenizer::Load.
  absl::StatusOr<std::shared_ptr<const Tokenizer>> Read(FileSource& files, const std::string& dir);

 private:
  std::string base_digest_;  // "" = the base has none
  std::mutex mutex_;
  std::map<std::string, std::weak_ptr<const Tokenizer>> by_digest_;
};

// An adapter's own tokenizer; null: the base's. None: nobody has read the adapter yet, or there is none of that name.
std::optional<std::shared_ptr<const Tokenizer>> KnownTokenizerOf(const std::string& adapter,
                                                                 const EngineSnapshot& snapshot);

}  // namespace lorad
