#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "tests/support/fake_world.h"

namespace lorad {

// One seeded run of an engine core under random traffic: arrivals, cancels, deadlines, priorities, loads, replaces,
// unloads, pins, folders that change, fail and hang, failing steps, prompts that come later; by the seed with either
// order, weights, limits of adapters, a limit on the first token, a prefix cache, a rope that switches, steps
// behind others, and adapters that the host keeps packed. The invariants are checked after each turn (FakeWorld::Turn).
class Simulation final {
 public:
  explicit Simulation(uint64_t seed);

  void Run(int turns);
  // Ends all traffic, lets everything finish and gives back all adapters.
  void WindDown();

  // What is wrong with the run, a line each; empty = nothing.
  std::vector<std::string> Faults();
  int64_t answered_in_full() const { return answered_in_full_; }
  int64_t invoked() const { return invoked_; }  // aLoRAs that became active within a prompt
  const FakeWorld& world() const { return world_; }

 private:
  struct Client {
    Request request;
    std::vector<std::vector<AdapterId>> versions;  // that each sequence was accepted on; none = base
    bool refused = false;                          // by Submit
    bool cancelled = false;
  };
  struct Reply {
    std::string what;
    int times = 0;
  };

  int64_t Draw(int64_t least, int64_t most);  // both included
  bool Chance(int percent) { return Draw(1, 100) <= percent; }
  void PutFolder(const std::string& name);
  std::string AnyName();
  std::vector<int32_t> LikeBefore(std::vector<int32_t> own);
  std::vector<RequestAdapter> Compose(const std::string& first);
  void Arrive();
  void CancelOne();
  void CommandAdapter();
  void ChangeFolder();
  void FailAStep();
  void AnswerSomeLoads();
  void GivePrompts(int percent);
  void TakeTurn();
  void NoteVersions();
  int64_t StagedImages() const;
  std::shared_ptr<Reply> Expect(std::string what);

  std::mt19937_64 random_;
  FakeWorld world_;
  std::vector<Client> clients_;
  std::vector<std::shared_ptr<Reply>> replies_;
  std::map<RequestId, size_t> client_of_;
  std::vector<size_t> without_prompt_;  // clients whose prompt was not given yet
  uint64_t next_content_ = 1;
  int64_t answered_in_full_ = 0;
  int64_t invoked_ = 0;
  int64_t held_back_ = 0;  // at the end, though no hanging folder was in their way
};

}  // namespace lorad
