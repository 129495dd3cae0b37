#pragma once

#include <random>
#include <string>
#include <vector>

namespace lorad {

// Changes inputs at random: bits, bytes, numbers, stretches, pieces of other inputs, words of a dictionary. The same
// seed makes the same inputs everywhere.
class Mutator final {
 public:
  Mutator(uint64_t seed, std::vector<std::string> words) : random_(seed), words_(std::move(words)) {}

  // One to a few changes of `input`; `other` gives pieces.
  std::string Mutate(std::string input, const std::string& other);
  size_t Below(size_t limit) { return limit == 0 ? 0 : random_() % limit; }

 private:
  void Change(std::string* input, const std::string& other);
  void OverwriteNumber(std::string* input);
  void ReplaceDigits(std::string* input);

  std::mt19937_64 random_;
  const std::vector<std::string> words_;
};

}  // namespace lorad
