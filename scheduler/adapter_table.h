#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "adapters/image.h"
#include "adapters/lease.h"
#include "adapters/loader.h"
#include "adapters/residency.h"
#include "adapters/state.h"
#include "model/kv/prefix_cache.h"
#include "scheduler/adapter_info.h"
#include "scheduler/command.h"

namespace lorad {

// One version of an adapter, from the command that names it until its memory is given back.
struct AdapterVersion {
  AdapterId id = 0;
  std::string name;
  std::string path;
  AdapterState state = AdapterState::kUnknown;
  WantedPhase phase = WantedPhase::kOnDisk;
  // Taken from adapter_dir at its first use: forgotten, not remembered as failed, when that fails.
  bool from_folder = false;
  bool replaces = false;  // not yet what its name means
  bool pinned = false;
  bool warm = false;    // kept packed in host memory (WarmAdapters has it, written)
  int64_t running = 0;  // sequences
  int64_t waiting = 0;
  int64_t started_us = 0;  // of the load under way
  bool hangs = false;      // that load lasts so long that it may never end

  std::string error;  // why it could not be read again

  // After the first read, which found it good.
  bool known = false;
  std::string digest;
  std::string kind;
  std::vector<std::string> targets;
  std::vector<std::string> warnings;
  std::vector<std::string> replaced;  // sorted; no two adapters of a composition may have one in common
  int32_t rank_min = 0;
  int32_t rank_max = 0;
  int32_t num_labels = 0;                      // of its classifier; 0 = none
  std::shared_ptr<const Tokenizer> tokenizer;  // AdapterInfo::tokenizer
  int64_t vocab_size = 0;                      // AdapterImage::vocab_size
  std::vector<int32_t> invocation_tokens;      // aLoRA: AdapterImage::invocation_tokens
  int64_t bytes = 0;
  int64_t pages = 0;

  std::shared_ptr<const AdapterImage> image;  // phases kStaged and kPacking; none where a warm one is copied
  PackedLayout layout;
  std::shared_ptr<ExpertLoad> expert_load;  // of a routed adapter: over all its stays in the pool
  PrefixTrees prefixes;            // KV blocks of this content, once known: they go with the last version that has it
  AdapterReservation reservation;  // phase kPacking: a loader writes into it, so it stays until that ends

  std::vector<AdapterReply> load_replies;
  std::vector<AdapterReply> pin_replies;
  std::vector<StatusReply> unload_replies;

  std::shared_ptr<const AdapterInfo> info;  // as listed; empty when it has changed since

  void DropImage() {
    image = nullptr;
    layout = PackedLayout();
  }
};

// Names, and the versions behind them. Engine thread only; says nothing of when to load or evict.
class AdapterTable final {
 public:
  // What the name means now, or nullptr. A version that replaces it is `replacing`.
  AdapterVersion* Current(const std::string& name) const;
  AdapterVersion* Replacing(const std::string& name) const;
  AdapterVersion* Find(AdapterId id) const;

  // A new version under `name`: its meaning, or, where the name has one, what will replace it.
  AdapterVersion* Add(const std::string& name, const std::string& path);
  // The replacing version becomes what the name means; returns the one before, now nameless.
  AdapterVersion* Switch(const std::string& name);
  // The name lets go of the version, which lives until Erase. What was to replace it takes its place.
  void Detach(AdapterVersion* version);
  void Erase(AdapterVersion* version);

  void RememberFailure(const AdapterVersion& version, const absl::Status& status);
  bool ForgetFailure(const std::string& name);

  void Touch(AdapterVersion* version);  // its listing changed
  bool changed() const { return changed_; }

  // Versions that something may have to be done about: loads, replies, drains. The others, ten thousand perhaps, cost a
  // turn nothing.
  std::vector<AdapterVersion*> Watched() const;
  void Watch(AdapterVersion* version) { watched_.insert(version->id); }
  void UnwatchQuiet();
  // Whether there is none: nothing is being read, packed, answered or drained.
  bool IsQuiet() const;

  int64_t names() const { return static_cast<int64_t>(names_.size()); }
  const std::unordered_map<AdapterId, std::unique_ptr<AdapterVersion>>& versions() const { return versions_; }

  // All of them for lists, by name. Clears changed().
  std::vector<std::shared_ptr<const AdapterInfo>> List();

 private:
  struct Name {
    AdapterVersion* current = nullptr;
    AdapterVersion* replacing = nullptr;
  };
  std::map<std::string, Name> names_;
  std::unordered_map<AdapterId, std::unique_ptr<AdapterVersion>> versions_;
  std::set<AdapterId> watched_;
  std::map<std::string, std::shared_ptr<const AdapterInfo>> failures_;
  std::deque<std::string> failure_order_;
  AdapterId next_id_ = 1;
  bool changed_ = true;
};

AdapterInfo InfoOf(const AdapterVersion& version);

// Moves `version` to `state`; a move that state.h does not allow is our bug.
void MoveTo(AdapterVersion* version, AdapterState state);

}  // namespace lorad
