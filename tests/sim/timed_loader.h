#pragma once

#include <algorithm>
#include <limits>
#include <map>
#include <utility>
#include <vector>

#include "tests/support/fake_world.h"

namespace lorad {

// Answers the jobs of a world's loader as threads would that take time: so many readers, who begin in the order in
// which they were asked, and one packer.
class TimedLoader final {
 public:
  struct Options {
    int readers = 2;
    int64_t read_us = 10'000;
    int64_t pack_us = 1'000;
  };
  explicit TimedLoader(FakeWorld* world) : TimedLoader(world, Options()) {}
  TimedLoader(FakeWorld* world, const Options& options)
      : world_(world), options_(options), readers_free_us_(static_cast<size_t>(options.readers), 0) {}

  // Gives the new jobs to threads and the answers of those that are done to the engine. True: there were some.
  bool AnswerDue() {
    FakeLoader& loader = world_->loader;
    const int64_t now_us = world_->clock.NowUs();
    bool answered = false;
    for (size_t i = 0; i < loader.jobs.size();) {
      const Key key{loader.jobs[i].id, loader.jobs[i].pack};
      const auto [due, added] = due_us_.try_emplace(key, 0);
      if (added) due->second = Schedule(key.second, now_us);
      if (due->second > now_us) {
        ++i;
        continue;
      }
      due_us_.erase(due);
      world_->inbox.Put(LoaderCommand{loader.Answer(i)});
      answered = true;
    }
    return answered;
  }

  // When the next one will be done; the largest number: nobody works.
  int64_t NextUs() const {
    int64_t next_us = std::numeric_limits<int64_t>::max();
    for (const auto& [key, due_us] : due_us_) next_us = std::min(next_us, due_us);
    return next_us;
  }

 private:
  using Key = std::pair<AdapterId, bool>;  // of a version the read or the pack; it has one at a time

  int64_t Schedule(bool pack, int64_t now_us) {
    int64_t& free_us = pack ? packer_free_us_ : *std::min_element(readers_free_us_.begin(), readers_free_us_.end());
    free_us = std::max(free_us, now_us) + (pack ? options_.pack_us : options_.read_us);
    return free_us;
  }

  FakeWorld* const world_;
  const Options options_;
  std::map<Key, int64_t> due_us_;
  std::vector<int64_t> readers_free_us_;
  int64_t packer_free_us_ = 0;
};

}  // namespace lorad
