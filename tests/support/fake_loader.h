#pragma once

#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "scheduler/state.h"

namespace lorad {

// A folder as the fake loader finds it.
struct FakeFolder {
  uint64_t content = 0;
  int64_t bytes = 4096;
  absl::Status error = {};  // not ok: reading it fails
  bool hangs = false;       // reading it never ends
  bool has_bias = false;    // it replaces the bias of the only site
  int32_t num_labels = 0;   // of a classifier
  std::vector<int32_t> invocation_tokens = {};
  int64_t vocab_size = 0;  // of an enlarged vocabulary
  std::shared_ptr<const Tokenizer> tokenizer = nullptr;
};

// Nothing but an address, which is all that the engine looks at.
inline std::shared_ptr<const Tokenizer> FakeTokenizer() {
  const auto owner = std::make_shared<int>();
  return {owner, reinterpret_cast<const Tokenizer*>(owner.get())};
}

// One small site, so that the real pool and slot table carry the content.
inline PackedLayout FakeLayout(int64_t bytes) {
  PackedLayout layout;
  layout.slots.push_back({.site = Site::kQProj, .layer = 0, .rank = 1, .a_offset_bytes = 0, .b_offset_bytes = 64});
  layout.total_bytes = bytes;
  return layout;
}

inline BaseShape FakeShape() {
  BaseShape shape;
  shape.num_layers = 1;
  shape.sites.push_back({.site = Site::kQProj, .module_path = "q", .in_features = 8, .out_features = 8});
  return shape;
}

// Keeps the jobs that the engine gives until the test has them answered.
class FakeLoader final {
 public:
  struct Job {
    AdapterId id = 0;
    bool pack = false;
    std::string path = {};
    std::string expected_digest = {};
    int64_t bytes = 0;
    uint64_t content = 0;
    std::shared_ptr<PackedAdapter> keep = nullptr;
    std::shared_ptr<const PackedAdapter> packed = nullptr;  // to be copied
    std::byte* destination = nullptr;
  };

  LoaderCalls Calls() {
    return {.stage =
                [this](AdapterId id, std::string path, std::string digest) {
                  jobs.push_back({.id = id, .path = std::move(path), .expected_digest = std::move(digest)});
                  return absl::OkStatus();
                },
            .pack =
                [this](AdapterId id, std::shared_ptr<const AdapterImage> image, PackedLayout layout,
                       std::byte* destination, std::shared_ptr<PackedAdapter> keep) {
                  jobs.push_back({.id = id,
                                  .pack = true,
                                  .bytes = layout.total_bytes,
                                  .content = content_of.at(id),
                                  .keep = std::move(keep),
                                  .destination = destination});
                  return absl::OkStatus();
                },
            .copy =
                [this](AdapterId id, std::shared_ptr<const PackedAdapter> packed, std::byte* destination) {
                  jobs.push_back({.id = id, .pack = true, .packed = std::move(packed), .destination = destination});
                  return absl::OkStatus();
                },
            .cancel = [](AdapterId) {}};
  }

  bool CanAnswer(const Job& job) const {
    if (job.pack) return true;
    const auto folder = folders.find(job.path);
    return folder == folders.end() || !folder->second.hangs;
  }

  // Answers job `index` of `jobs` and takes it out.
  LoaderEvent Answer(size_t index) {
    const Job job = jobs[index];
    jobs.erase(jobs.begin() + static_cast<int64_t>(index));
    if (job.packed != nullptr) {
      std::memcpy(job.destination, job.packed->memory->data(), static_cast<size_t>(job.packed->layout.total_bytes));
      return AdapterPacked{.id = job.id};
    }
    if (job.pack) {
      std::memset(job.destination, 0x5a, static_cast<size_t>(job.bytes));
      std::memcpy(job.destination, &job.content, sizeof(job.content));
      if (job.keep != nullptr) {
        std::memcpy(job.keep->memory->data(), job.destination, static_cast<size_t>(job.bytes));
      }
      return AdapterPacked{.id = job.id};
    }
    const auto found = folders.find(job.path);
    if (found == folders.end()) {
      return AdapterLoadFailed{.id = job.id, .status = absl::NotFoundError(absl::StrCat("no such folder: ", job.path))};
    }
    const FakeFolder& folder = found->second;
    if (!folder.error.ok()) return AdapterLoadFailed{.id = job.id, .status = folder.error};
    auto image = std::make_shared<AdapterImage>();
    image->kind = "lora";
    image->digest = absl::StrCat("digest-", folder.content);
    image->num_labels = folder.num_labels;
    image->invocation_tokens = folder.invocation_tokens;
    image->vocab_size = folder.vocab_size;
    if (folder.has_bias) image->slots.push_back({.site = Site::kQProj, .layer = 0, .bias = {.shape = {8}}});
    if (!job.expected_digest.empty() && job.expected_digest != image->digest) {
      return AdapterLoadFailed{.id = job.id, .status = absl::DataLossError("changed on disk")};
    }
    content_of[job.id] = folder.content;
    return AdapterStaged{
        .id = job.id, .image = std::move(image), .layout = FakeLayout(folder.bytes), .tokenizer = folder.tokenizer};
  }

  std::map<std::string, FakeFolder> folders;
  std::map<AdapterId, uint64_t> content_of;  // of each version that was read
  std::vector<Job> jobs;
};

}  // namespace lorad
