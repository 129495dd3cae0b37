#pragma once

#include <cstdint>

namespace lorad {

// A hash of two numbers, for seeds that depend on a seed and a counter. Source: splitmix64.
uint64_t MixSeed(uint64_t seed, uint64_t counter);
// Of the seed of a job or a run, what is drawn for different things.
inline constexpr uint64_t kOrderStream = 1, kDropoutStream = 2;

// A permutation of [0, count) that needs no memory: a Feistel network over the next power of four, walked until it
// lands inside. The same (count, seed) gives the same order everywhere.
class RandomOrder final {
 public:
  RandomOrder(uint64_t count, uint64_t seed);
  uint64_t At(uint64_t index) const;

 private:
  uint64_t Scramble(uint64_t value) const;

  const uint64_t count_;
  const uint64_t seed_;
  int half_bits_ = 1;
};

}  // namespace lorad
