#include "bench/step_model.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <utility>

#include <ATen/Parallel.h>

#include "absl/strings/str_cat.h"
#include "model/base/check.h"
#include "model/ops/cpu/parallel.h"
#include "model/safetensors_writer.h"

namespace lorad::bench {
namespace {

constexpr int64_t kPoolBytes = int64_t{4} << 30;
constexpr ModelShape kShapes[] = {{"smollm", 576, 30, 9, 3, 1536, 49152, true},
                                  {"tinyllama", 2048, 22, 32, 4, 5632, 32000, false}};

// The checkpoint's folder, gone at the end.
class ModelFolder final {
 public:
  explicit ModelFolder(const ModelShape& s) {
    char pattern[] = "/tmp/step_bench.XXXXXX";
    LORAD_CHECK(mkdtemp(pattern) != nullptr);
    path_ = pattern;
    std::ofstream(path_ + "/config.json")
        << "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"hidden_act\": \"silu\", "
        << "\"torch_dtype\": \"bfloat16\", \"max_position_embeddings\": 2048, \"rms_norm_eps\": 1e-05, "
        << "\"hidden_size\": " << s.hidden << ", \"intermediate_size\": " << s.inner
        << ", \"num_hidden_layers\": " << s.layers << ", \"num_attention_heads\": " << s.heads
        << ", \"num_key_value_heads\": " << s.kv_heads << ", \"vocab_size\": " << s.vocab
        << ", \"tie_word_embeddings\": " << (s.tied ? "true" : "false") << "}";
    std::vector<std::vector<uint16_t>> data;
    std::vector<TensorToWrite> tensors;
    const auto add = [&](const std::string& name, std::vector<int64_t> shape) {
      int64_t count = 1;
      for (const int64_t n : shape) count *= n;
      data.push_back(RandomBf16(count, data.size()));
      tensors.push_back({name, DType::kBF16, std::move(shape), {}});
    };
    const int64_t kv = s.hidden / s.heads * s.kv_heads;
    add("model.embed_tokens.weight", {s.vocab, s.hidden});
    if (!s.tied) add("lm_head.weight", {s.vocab, s.hidden});
    add("model.norm.weight", {s.hidden});
    for (int64_t l = 0; l < s.layers; ++l) {
      const std::string layer = absl::StrCat("model.layers.", l, ".");
      add(layer + "input_layernorm.weight", {s.hidden});
      add(layer + "post_attention_layernorm.weight", {s.hidden});
      add(layer + "self_attn.q_proj.weight", {s.hidden, s.hidden});
      add(layer + "self_attn.k_proj.weight", {kv, s.hidden});
      add(layer + "self_attn.v_proj.weight", {kv, s.hidden});
      add(layer + "self_attn.o_proj.weight", {s.hidden, s.hidden});
      add(layer + "mlp.gate_proj.weight", {s.inner, s.hidden});
      add(layer + "mlp.up_proj.weight", {s.inner, s.hidden});
      add(layer + "mlp.down_proj.weight", {s.hidden, s.inner});
    }
    for (size_t i = 0; i < data.size(); ++i) {
      tensors[i].bytes = {reinterpret_cast<const std::byte*>(data[i].data()), data[i].size() * 2};
    }
    LORAD_CHECK(WriteSafetensors(path_ + "/model.safetensors", tensors, {}).ok());
  }
  ~ModelFolder() { std::filesystem::remove_all(path_); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace

std::optional<StepBenchArgs> ReadStepBenchArgs(int argc, char** argv, int least_rounds) {
  const std::string name = argc > 1 ? argv[1] : kShapes[0].name;
  const int rounds = argc > 2 ? std::atoi(argv[2]) : 30;
  const auto* shape =
      std::find_if(std::begin(kShapes), std::end(kShapes), [&](const ModelShape& each) { return each.name == name; });
  if (shape == std::end(kShapes) || rounds < least_rounds) {
    std::fprintf(stderr, "%s [smollm|tinyllama] [rounds, at least %d]\n", argv[0], least_rounds);
    return std::nullopt;
  }
  at::set_num_threads(cpu::ComputeThreads());
  return StepBenchArgs{shape, rounds};
}

std::vector<uint16_t> RandomBf16(int64_t count, uint64_t seed) {
  std::vector<uint16_t> values(static_cast<size_t>(count));
  uint64_t state = seed * 2 + 1;
  for (uint16_t& v : values) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    v = static_cast<uint16_t>(0x3C00 | (state >> 40 & 0xFF) | (state >> 33 & 0x8000));  // 0.008 to 0.03, either sign
  }
  return values;
}

StepModel::StepModel(const ModelShape& shape, Quantization quantization) {
  const ModelFolder folder(shape);
  absl::StatusOr<std::unique_ptr<CausalLm>> model =
      CausalLm::Load(folder.path(), {.dtype = DType::kBF16, .quantization = quantization});
  LORAD_CHECK(model.ok());
  model_ = *std::move(model);
  const KvLayout layout = model_->kv_layout();
  absl::StatusOr<std::unique_ptr<PagePool>> pages = PagePool::Create(kPoolBytes, layout.block_bytes());
  LORAD_CHECK(pages.ok());
  pages_ = *std::move(pages);
  absl::StatusOr<PageRun> run = pages_->Reserve(kBlocks, PageOwner::kKv);
  LORAD_CHECK(run.ok() && run->first_page() == 0);
  kv_run_ = *std::move(run);
  std::fill(kv_run_.data(), kv_run_.data() + kBlocks * layout.block_bytes(), std::byte{0});
  kv_ = {pages_->arena(), layout.block_bytes(), layout};
}

StepAdapters::StepAdapters(const BaseShape& shape, PagePool* pages) : shape_(shape), pages_(pages), table_(shape) {
  table_.SetDType(DType::kBF16);
}

int32_t StepAdapters::AddLora(const std::vector<Site>& sites, int32_t rank) { return Add(sites, rank, 1); }

int32_t StepAdapters::AddMixLora(int32_t rank, int32_t experts, int32_t top_k) {
  const int32_t slot = Add({Site::kGateProj, Site::kUpProj, Site::kDownProj}, rank, experts);
  std::vector<float>& routers = routers_.emplace_back();
  for (const uint16_t v : RandomBf16(shape_.num_layers * experts * shape_.hidden_size, 1000 + routers_.size())) {
    routers.push_back((v & 0x8000) != 0 ? -0.02f : 0.02f);
  }
  for (int32_t layer = 0; layer < shape_.num_layers; ++layer) {
    table_.Set(Site::kFfn, layer, slot,
               {.experts = experts, .router = routers.data() + layer * experts * shape_.hidden_size});
  }
  table_.SetRouting(slot, {.choice = RoutingRule::Choice::kTopK, .top_k = top_k, .renormalise = true});
  return slot;
}

int32_t StepAdapters::Add(const std::vector<Site>& sites, int32_t rank, int32_t experts) {
  const int32_t slot = table_.slots();
  table_.Resize(slot + 1);
  const int64_t ranks = int64_t{rank} * experts;
  int64_t elements = 0;
  for (const Site site : sites) {
    const SiteShape* on = shape_.Find(site);
    LORAD_CHECK(on != nullptr);
    elements += ranks * (on->in_features + on->out_features) * shape_.num_layers;
  }
  absl::StatusOr<PageRun> run = pages_->Reserve(pages_->PagesFor(elements * 2), PageOwner::kAdapter);
  LORAD_CHECK(run.ok());
  const std::vector<uint16_t> values = RandomBf16(elements, static_cast<uint64_t>(slot));
  std::copy(values.begin(), values.end(), reinterpret_cast<uint16_t*>(run->data()));
  const std::byte* a = run->data();
  for (int32_t layer = 0; layer < shape_.num_layers; ++layer) {
    for (const Site site : sites) {
      const SiteShape* on = shape_.Find(site);
      const std::byte* const b_t = a + 2 * ranks * on->in_features;
      table_.Set(site, layer, slot, {.a = a, .b_t = b_t, .rank = rank, .experts = experts});
      a = b_t + 2 * ranks * on->out_features;
    }
  }
  bytes_of_slot_.push_back(elements * 2);
  runs_.push_back(*std::move(run));
  return slot;
}

}  // namespace lorad::bench
