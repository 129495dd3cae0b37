// Prints how fast this machine reads memory that is not in its caches, in GB/s: the highest of ten passes over 1 GiB,
// with as many threads as cores. A decode step cannot be faster than the bytes it must read at this rate.
#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <vector>

int main() {
  constexpr int64_t kWords = (int64_t{1} << 30) / 8;
  constexpr int kPasses = 10;
  std::vector<uint64_t> words(kWords);
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < kWords; ++i) words[static_cast<size_t>(i)] = static_cast<uint64_t>(i);

  double best = 0;
  uint64_t sum = 0;
  for (int pass = 0; pass < kPasses; ++pass) {
    const auto begin = std::chrono::steady_clock::now();
#pragma omp parallel for schedule(static) reduction(+ : sum)
    for (int64_t i = 0; i < kWords; ++i) sum += words[static_cast<size_t>(i)];
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    best = std::max(best, 8e-9 * static_cast<double>(kWords) / seconds.count());
  }
  std::printf("%.1f GB/s with %d threads (%llu)\n", best, omp_get_max_threads(),
              static_cast<unsigned long long>(sum & 1));
  return 0;
}
