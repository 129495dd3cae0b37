#include "adapters/train/random_order.h"

namespace lorad {

uint64_t MixSeed(uint64_t seed, uint64_t counter) {
  uint64_t x = seed + 0x9E3779B97F4A7C15ull * (counter + 1);
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

RandomOrder::RandomOrder(uint64_t count, uint64_t seed) : count_(count), seed_(seed) {
  while (half_bits_ < 31 && (uint64_t{1} << (2 * half_bits_)) < count_) ++half_bits_;
}

uint64_t RandomOrder::Scramble(uint64_t value) const {
  constexpr int kRounds = 6;
  const uint64_t mask = (uint64_t{1} << half_bits_) - 1;
  uint64_t left = value >> half_bits_, right = value & mask;
  for (uint64_t round = 0; round < kRounds; ++round) {
    const uint64_t next = left ^ (MixSeed(seed_ ^ (right << 8), round) & mask);
    left = right;
    right = next;
  }
  return left << half_bits_ | right;
}

uint64_t RandomOrder::At(uint64_t index) const {
  uint64_t value = Scramble(index);
  while (value >= count_) value = Scramble(value);
  return value;
}

}  // namespace lorad
