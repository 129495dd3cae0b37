#include "scheduler/adapter_table.h"

#include <algorithm>
#include <utility>

#include "model/base/check.h"

namespace lorad {
namespace {

constexpr size_t kFailuresRemembered = 100;

bool IsVersionQuiet(const AdapterVersion& version) {
  const bool resident = version.phase == WantedPhase::kResident;
  if (!resident && (version.phase != WantedPhase::kOnDisk || version.pinned)) return false;
  if (version.state != AdapterState::kHost && version.state != AdapterState::kResident) return false;
  return version.load_replies.empty() && version.pin_replies.empty();
}

}  // namespace

AdapterVersion* AdapterTable::Current(const std::string& name) const {
  const auto found = names_.find(name);
  return found == names_.end() ? nullptr : found->second.current;
}

AdapterVersion* AdapterTable::Replacing(const std::string& name) const {
  const auto found = names_.find(name);
  return found == names_.end() ? nullptr : found->second.replacing;
}

AdapterVersion* AdapterTable::Find(AdapterId id) const {
  const auto found = versions_.find(id);
  return found == versions_.end() ? nullptr : found->second.get();
}

AdapterVersion* AdapterTable::Add(const std::string& name, const std::string& path) {
  auto owned = std::make_unique<AdapterVersion>();
  AdapterVersion* const version = owned.get();
  version->id = next_id_++;
  version->name = name;
  version->path = path;
  versions_.emplace(version->id, std::move(owned));
  Name& entry = names_[name];
  if (entry.current == nullptr) {
    entry.current = version;
  } else {
    LORAD_CHECK(entry.replacing == nullptr);
    entry.replacing = version;
    version->replaces = true;
  }
  Touch(version);
  return version;
}

AdapterVersion* AdapterTable::Switch(const std::string& name) {
  Name& entry = names_.at(name);
  LORAD_CHECK(entry.replacing != nullptr);
  AdapterVersion* const before = std::exchange(entry.current, std::exchange(entry.replacing, nullptr));
  entry.current->replaces = false;
  Touch(entry.current);
  return before;
}

void AdapterTable::Detach(AdapterVersion* version) {
  const auto found = names_.find(version->name);
  if (found != names_.end()) {
    Name& entry = found->second;
    if (entry.replacing == version) entry.replacing = nullptr;
    if (entry.current == version) {
      entry.current = std::exchange(entry.replacing, nullptr);
      if (entry.current != nullptr) entry.current->replaces = false;
    }
    if (entry.current == nullptr) names_.erase(found);
  }
  version->replaces = false;
  Touch(version);
}

void AdapterTable::Erase(AdapterVersion* version) {
  LORAD_CHECK(Current(version->name) != version && Replacing(version->name) != version);
  LORAD_CHECK(version->running == 0 && version->waiting == 0);
  watched_.erase(version->id);
  versions_.erase(version->id);
  changed_ = true;
}

void AdapterTable::RememberFailure(const AdapterVersion& version, const absl::Status& status) {
  ForgetFailure(version.name);
  AdapterInfo info = InfoOf(version);
  info.state = AdapterState::kFailed;
  info.error = std::string(status.message());
  failures_[version.name] = std::make_shared<const AdapterInfo>(std::move(info));
  failure_order_.push_back(version.name);
  if (failure_order_.size() > kFailuresRemembered) {
    failures_.erase(failure_order_.front());
    failure_order_.pop_front();
  }
  changed_ = true;
}

bool AdapterTable::ForgetFailure(const std::string& name) {
  if (failures_.erase(name) == 0) return false;
  failure_order_.erase(std::find(failure_order_.begin(), failure_order_.end(), name));
  changed_ = true;
  return true;
}

void AdapterTable::Touch(AdapterVersion* version) {
  version->info = nullptr;
  changed_ = true;
  Watch(version);
}

std::vector<AdapterVersion*> AdapterTable::Watched() const {
  std::vector<AdapterVersion*> watched;
  watched.reserve(watched_.size());
  for (const AdapterId id : watched_) watched.push_back(versions_.at(id).get());
  return watched;
}

void AdapterTable::UnwatchQuiet() {
  std::erase_if(watched_, [this](AdapterId id) { return IsVersionQuiet(*versions_.at(id)); });
}

bool AdapterTable::IsQuiet() const {
  return std::all_of(watched_.begin(), watched_.end(),
                     [this](AdapterId id) { return IsVersionQuiet(*versions_.at(id)); });
}

std::vector<std::shared_ptr<const AdapterInfo>> AdapterTable::List() {
  changed_ = false;
  std::vector<std::shared_ptr<const AdapterInfo>> list;
  list.reserve(versions_.size() + failures_.size());
  const auto put = [&list](AdapterVersion* version) {
    if (version->info == nullptr) version->info = std::make_shared<const AdapterInfo>(InfoOf(*version));
    list.push_back(version->info);
  };
  for (const auto& [name, entry] : names_) put(entry.current);
  const auto named = static_cast<int64_t>(list.size());
  if (versions_.size() > names_.size()) {
    for (AdapterVersion* version : Watched()) {
      if (version->state == AdapterState::kDraining) put(version);
    }
  }
  for (const auto& [name, info] : failures_) list.push_back(info);
  std::stable_sort(list.begin() + named, list.end(), [](const auto& a, const auto& b) { return a->name < b->name; });
  std::inplace_merge(list.begin(), list.begin() + named, list.end(),
                     [](const auto& a, const auto& b) { return a->name < b->name; });
  return list;
}

AdapterInfo InfoOf(const AdapterVersion& version) {
  AdapterInfo info;
  info.name = version.name;
  info.path = version.path;
  info.kind = version.kind;
  info.state = version.state;
  info.rank_min = version.rank_min;
  info.rank_max = version.rank_max;
  info.bytes = version.bytes;
  info.pinned = version.pinned;
  info.warm = version.warm;
  info.digest = version.digest;
  info.targets = version.targets;
  info.running_requests = version.running;
  info.waiting_requests = version.waiting;
  info.warnings = version.warnings;
  info.error = version.error;
  info.expert_load = version.expert_load;
  info.tokenizer = version.tokenizer;
  return info;
}

void MoveTo(AdapterVersion* version, AdapterState state) {
  LORAD_CHECK(CanFollow(version->state, state));
  version->state = state;
  version->info = nullptr;
}

}  // namespace lorad
