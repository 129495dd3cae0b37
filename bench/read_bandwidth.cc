// Prints how fast this machine reads memory that is not in its caches, in GB/s: the highest of ten passes over 1 GiB,
// with as many threads as cores, from huge pages and from small ones. A decode step cannot be faster than the bytes it
// must read at this rate.
#include <omp.h>
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

namespace {

constexpr int64_t kWords = (int64_t{1} << 30) / 8;
constexpr int64_t kWordsAtOnce = 32;  // as many sums as keep several loads under way

uint64_t* Map(int advice) {
  void* data = ::mmap(nullptr, kWords * 8, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) std::abort();
  ::madvise(data, kWords * 8, advice);
  auto* words = static_cast<uint64_t*>(data);
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < kWords; ++i) words[i] = static_cast<uint64_t>(i);
  return words;
}

// GB/s of one pass; adds to `sum` what was read.
double Read(const uint64_t* words, uint64_t& sum) {
  const auto begin = std::chrono::steady_clock::now();
  uint64_t total = 0;
#pragma omp parallel for schedule(static) reduction(+ : total)
  for (int64_t block = 0; block < kWords / kWordsAtOnce; ++block) {
    uint64_t sums[kWordsAtOnce];
    for (int64_t i = 0; i < kWordsAtOnce; ++i) sums[i] = words[block * kWordsAtOnce + i];
    for (int64_t half = kWordsAtOnce / 2; half > 0; half /= 2) {
      for (int64_t i = 0; i < half; ++i) sums[i] += sums[half + i];
    }
    total += sums[0];
  }
  sum += total;
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  return 8e-9 * static_cast<double>(kWords) / seconds.count();
}

}  // namespace

int main() {
  constexpr int kPasses = 10;
  const uint64_t* huge = Map(MADV_HUGEPAGE);
  const uint64_t* small = Map(MADV_NOHUGEPAGE);
  double from_huge = 0, from_small = 0;
  uint64_t sum = 0;
  for (int pass = 0; pass < kPasses; ++pass) {
    from_huge = std::max(from_huge, Read(huge, sum));
    from_small = std::max(from_small, Read(small, sum));
  }
  std::printf("%.1f GB/s with %d threads; from small pages %.1f GB/s (%llu)\n", from_huge, omp_get_max_threads(),
              from_small, static_cast<unsigned long long>(sum & 1));
  return 0;
}
