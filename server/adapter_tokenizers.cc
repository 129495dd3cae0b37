#include "server/adapter_tokenizers.h"

#include "model/base/status_macros.h"
#include "scheduler/find_adapter.h"

namespace lorad {

AdapterTokenizers::AdapterTokenizers(const std::string& model_dir) {
  base_digest_ = Tokenizer::DigestOf(*LocalFiles(), model_dir).value_or("");
}

absl::StatusOr<std::shared_ptr<const Tokenizer>> AdapterTokenizers::Read(FileSource& files, const std::string& dir) {
  const absl::StatusOr<std::string> digest = Tokenizer::DigestOf(files, dir);
  if (absl::IsNotFound(digest.status())) return nullptr;
  RETURN_IF_ERROR(digest.status());
  if (*digest == base_digest_) return nullptr;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (auto known = by_digest_[*digest].lock()) return known;
  }
  absl::StatusOr<std::shared_ptr<const Tokenizer>> loaded = Tokenizer::Load(files, dir);  // seconds, when it is large
  if (absl::IsNotFound(loaded.status())) return nullptr;  // vocab.json without merges.txt
  RETURN_IF_ERROR(loaded.status());
  const std::lock_guard<std::mutex> lock(mutex_);
  std::erase_if(by_digest_, [](const auto& entry) { return entry.second.expired(); });
  std::weak_ptr<const Tokenizer>& shared = by_digest_[*digest];
  if (auto known = shared.lock()) return known;  // another thread was faster
  shared = *loaded;
  return loaded;
}

std::optional<std::shared_ptr<const Tokenizer>> KnownTokenizerOf(const std::string& adapter,
                                                                 const EngineSnapshot& snapshot) {
  if (adapter.empty()) return std::shared_ptr<const Tokenizer>();
  const AdapterInfo* const live = FindLive(*snapshot.adapters, adapter);
  if (live == nullptr || live->digest.empty()) return std::nullopt;  // its first read has not ended
  return live->tokenizer;
}

}  // namespace lorad
