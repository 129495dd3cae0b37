#include "bench/llama_folder.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "model/base/check.h"
#include "model/safetensors_writer.h"

namespace lorad::bench {
namespace {

struct Tensor {
  std::string name;
  std::vector<int64_t> shape;

  bool is_norm() const { return shape.size() == 1; }
  int64_t elements() const {
    int64_t count = 1;
    for (const int64_t n : shape) count *= n;
    return count;
  }
};

struct Linear {
  const char* module;
  int64_t out, in;
};

std::vector<Linear> LinearsOf(const ModelShape& s) {
  const int64_t kv = s.hidden / s.heads * s.kv_heads;
  return {{"self_attn.q_proj", s.hidden, s.hidden}, {"self_attn.k_proj", kv, s.hidden},
          {"self_attn.v_proj", kv, s.hidden},       {"self_attn.o_proj", s.hidden, s.hidden},
          {"mlp.gate_proj", s.inner, s.hidden},     {"mlp.up_proj", s.inner, s.hidden},
          {"mlp.down_proj", s.hidden, s.inner}};
}

std::vector<Tensor> TensorsOf(const ModelShape& s) {
  std::vector<Tensor> tensors = {{"model.embed_tokens.weight", {s.vocab, s.hidden}}};
  if (!s.tied) tensors.push_back({"lm_head.weight", {s.vocab, s.hidden}});
  tensors.push_back({"model.norm.weight", {s.hidden}});
  for (int64_t l = 0; l < s.layers; ++l) {
    const std::string layer = absl::StrCat("model.layers.", l, ".");
    tensors.push_back({layer + "input_layernorm.weight", {s.hidden}});
    tensors.push_back({layer + "post_attention_layernorm.weight", {s.hidden}});
    for (const Linear& linear : LinearsOf(s)) {
      tensors.push_back({absl::StrCat(layer, linear.module, ".weight"), {linear.out, linear.in}});
    }
  }
  return tensors;
}

void WriteConfig(const std::string& path, const ModelShape& s) {
  std::ofstream(path) << "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", "
                      << "\"hidden_act\": \"silu\", \"torch_dtype\": \"bfloat16\", "
                      << "\"max_position_embeddings\": 4096, \"rms_norm_eps\": 1e-05, \"hidden_size\": " << s.hidden
                      << ", \"intermediate_size\": " << s.inner << ", \"num_hidden_layers\": " << s.layers
                      << ", \"num_attention_heads\": " << s.heads << ", \"num_key_value_heads\": " << s.kv_heads
                      << ", \"vocab_size\": " << s.vocab << ", \"tie_word_embeddings\": " << (s.tied ? "true" : "false")
                      << "}";
}

void WriteRandom(const std::string& path, const std::vector<Tensor>& tensors) {
  std::vector<std::vector<uint16_t>> data;
  std::vector<TensorToWrite> to_write;
  for (const Tensor& tensor : tensors) {
    const std::vector<uint16_t>& made = data.emplace_back(RandomBf16(tensor.elements(), data.size()));
    to_write.push_back({tensor.name, DType::kBF16, tensor.shape, {}});
    to_write.back().bytes = {reinterpret_cast<const std::byte*>(made.data()), made.size() * 2};
  }
  LORAD_CHECK(WriteSafetensors(path, to_write, {}).ok());
}

// Norms of ones, and holes.
void WriteNorms(const std::string& path, const std::vector<Tensor>& tensors) {
  std::vector<std::string> entries;
  int64_t bytes = 0;
  for (const Tensor& tensor : tensors) {
    const int64_t end = bytes + tensor.elements() * 2;
    entries.push_back(absl::StrCat("\"", tensor.name, "\": {\"dtype\": \"BF16\", \"shape\": [",
                                   absl::StrJoin(tensor.shape, ", "), "], \"data_offsets\": [", bytes, ", ", end,
                                   "]}"));
    bytes = end;
  }
  std::string header = absl::StrCat("{", absl::StrJoin(entries, ", "), "}");
  header.append((64 - (header.size() + 8) % 64) % 64, ' ');
  const auto header_bytes = static_cast<uint64_t>(header.size());
  const auto data_at = static_cast<int64_t>(header_bytes) + 8;

  const int file = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  LORAD_CHECK(file >= 0 && ftruncate(file, data_at + bytes) == 0);
  const auto write_at = [&](int64_t at, const void* data, size_t size) {
    LORAD_CHECK(pwrite(file, data, size, at) == static_cast<ssize_t>(size));
  };
  write_at(0, &header_bytes, 8);  // little-endian, as every host that lorad runs on
  write_at(8, header.data(), header.size());
  int64_t at = data_at;
  for (const Tensor& tensor : tensors) {
    if (tensor.is_norm()) {
      constexpr uint16_t kOne = 0x3F80;
      const std::vector<uint16_t> ones(static_cast<size_t>(tensor.elements()), kOne);
      write_at(at, ones.data(), ones.size() * 2);
    }
    at += tensor.elements() * 2;
  }
  close(file);
}

}  // namespace

std::vector<uint16_t> RandomBf16(int64_t count, uint64_t seed) {
  std::vector<uint16_t> values(static_cast<size_t>(count));
  uint64_t state = seed * 2 + 1;
  for (uint16_t& v : values) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    v = static_cast<uint16_t>(0x3C00 | (state >> 40 & 0xFF) | (state >> 33 & 0x8000));  // 0.008 to 0.03, either sign
  }
  return values;
}

TemporaryFolder::TemporaryFolder() {
  char pattern[] = "/tmp/lorad_bench.XXXXXX";
  LORAD_CHECK(mkdtemp(pattern) != nullptr);
  path_ = pattern;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code error;
  std::filesystem::remove_all(path_, error);
}

LlamaFolder::LlamaFolder(const ModelShape& shape, Weights weights) {
  WriteConfig(path() + "/config.json", shape);
  const std::string file = path() + "/model.safetensors";
  if (weights == Weights::kRandom) {
    WriteRandom(file, TensorsOf(shape));
  } else {
    WriteNorms(file, TensorsOf(shape));
  }
}

void WriteLora(const std::string& path, const ModelShape& shape, int64_t rank,
               const std::vector<std::string>& modules) {
  std::error_code error;
  LORAD_CHECK(std::filesystem::create_directories(path, error));
  std::vector<Tensor> tensors;
  for (int64_t l = 0; l < shape.layers; ++l) {
    for (const Linear& linear : LinearsOf(shape)) {
      const std::string module = linear.module;
      const std::string last = module.substr(module.find('.') + 1);
      if (std::find(modules.begin(), modules.end(), last) == modules.end()) continue;
      const std::string prefix = absl::StrCat("base_model.model.model.layers.", l, ".", module, ".lora_");
      tensors.push_back({prefix + "A.weight", {rank, linear.in}});
      tensors.push_back({prefix + "B.weight", {linear.out, rank}});
    }
  }
  WriteRandom(path + "/adapter_model.safetensors", tensors);
  std::ofstream(path + "/adapter_config.json")
      << "{\"peft_type\": \"LORA\", \"task_type\": \"CAUSAL_LM\", \"r\": " << rank << ", \"lora_alpha\": " << 2 * rank
      << ", \"lora_dropout\": 0.0, \"bias\": \"none\", \"target_modules\": [\"" << absl::StrJoin(modules, "\", \"")
      << "\"]}";
}

}  // namespace lorad::bench
