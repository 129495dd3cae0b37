#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace lorad::bench {

// Shapes of bases; the weights are random, bf16.
struct ModelShape {
  const char* name;
  int64_t hidden, layers, heads, kv_heads, inner, vocab;
  bool tied;
};

// Small random bf16 numbers.
std::vector<uint16_t> RandomBf16(int64_t count, uint64_t seed);

// A folder of /tmp, gone at the end.
class TemporaryFolder final {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// The checkpoint of a Llama.
class LlamaFolder final {
 public:
  // kNormsAlone: the matrices are a hole in the file, which takes no disk; whoever loads them writes over them.
  enum class Weights { kRandom, kNormsAlone };
  explicit LlamaFolder(const ModelShape& shape, Weights weights = Weights::kRandom);
  const std::string& path() const { return folder_.path(); }

 private:
  const TemporaryFolder folder_;
};

// Writes a PEFT folder of plain LoRA with random weights on these modules ("q_proj", …) of every layer.
void WriteLora(const std::string& path, const ModelShape& shape, int64_t rank, const std::vector<std::string>& modules);

}  // namespace lorad::bench
