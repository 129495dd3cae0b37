// Where the time of a step goes: a model of a known shape with random weights, and adapters on it, through the executor
// that the daemon uses, against what reading the weights costs at the least.
//   step_bench [smollm|tinyllama] [steps] [part of a case's name]
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <ATen/Parallel.h>
#include <benchmark/benchmark.h>

#include "absl/strings/str_cat.h"
#include "adapters/apply.h"
#include "adapters/slot_table.h"
#include "model/base/check.h"
#include "model/causal_lm.h"
#include "model/memory/page_pool.h"
#include "model/ops/cpu/parallel.h"
#include "model/safetensors_writer.h"
#include "scheduler/model_executor.h"

namespace lorad::bench {
namespace {

using Clock = std::chrono::steady_clock;
double Us(Clock::duration d) { return std::chrono::duration<double, std::micro>(d).count(); }

struct ModelShape {
  const char* name;
  int64_t hidden, layers, heads, kv_heads, inner, vocab;
  bool tied;
};
constexpr ModelShape kShapes[] = {{"smollm", 576, 30, 9, 3, 1536, 49152, true},
                                  {"tinyllama", 2048, 22, 32, 4, 5632, 32000, false}};

// Small random bf16 numbers.
std::vector<uint16_t> RandomBf16(int64_t count, uint64_t seed) {
  std::vector<uint16_t> values(static_cast<size_t>(count));
  uint64_t state = seed * 2 + 1;
  for (uint16_t& v : values) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    v = static_cast<uint16_t>(0x3C00 | (state >> 40 & 0xFF) | (state >> 33 & 0x8000));  // 0.008 to 0.03, either sign
  }
  return values;
}

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

// Adapters without files: the slot table and what it points to, each in one run of pages as in the daemon.
class Adapters final {
 public:
  Adapters(const BaseShape& shape, const std::vector<Site>& sites, const std::vector<int32_t>& ranks, PagePool* pages)
      : table_(shape) {
    table_.SetDType(DType::kBF16);
    table_.Resize(static_cast<int32_t>(ranks.size()));
    for (size_t slot = 0; slot < ranks.size(); ++slot) {
      int64_t elements = 0;
      for (const Site site : sites) elements += ranks[slot] * Width(shape, site) * shape.num_layers;
      absl::StatusOr<PageRun> run = pages->Reserve(pages->PagesFor(elements * 2), PageOwner::kAdapter);
      LORAD_CHECK(run.ok());
      const std::vector<uint16_t> values = RandomBf16(elements, slot);
      std::copy(values.begin(), values.end(), reinterpret_cast<uint16_t*>(run->data()));
      const std::byte* a = run->data();
      for (int32_t layer = 0; layer < shape.num_layers; ++layer) {
        for (const Site site : sites) {
          const int32_t rank = ranks[slot];
          table_.Set(site, layer, static_cast<int32_t>(slot),
                     {a, a + 2 * rank * shape.Find(site)->in_features, rank, 1.0f});
          a += 2 * rank * Width(shape, site);
        }
      }
      bytes_of_slot_.push_back(elements * 2);
      runs_.push_back(*std::move(run));
    }
  }
  const SlotTable& table() const { return table_; }
  int64_t bytes(size_t slot) const { return bytes_of_slot_[slot]; }

 private:
  static int64_t Width(const BaseShape& shape, Site site) {
    const SiteShape* on = shape.Find(site);
    LORAD_CHECK(on != nullptr);
    return on->in_features + on->out_features;
  }

  SlotTable table_;
  std::vector<PageRun> runs_;
  std::vector<int64_t> bytes_of_slot_;
};

// Sums the time up to each call of the seam, and in it.
class TimedSeam final : public AdapterSeam {
 public:
  explicit TimedSeam(AdapterSeam* inner) : inner_(inner) {}
  at::Tensor FinishLinear(const SiteGroup& group, const at::Tensor& x, at::Tensor y, const at::Tensor& base_bias,
                          const RowSegments& rows) override {
    const char* const before = Before(group.parts[0].site);
    Lap(before);
    y = inner_->FinishLinear(group, x, std::move(y), base_bias, rows);
    Lap("adapters");
    return y;
  }
  RowRouting RouteFfn(int layer, const at::Tensor& x, const RowSegments& rows) override {
    return inner_->RouteFfn(layer, x, rows);
  }
  at::Tensor FinishEmbedding(const at::Tensor& ids, at::Tensor raw, const RowSegments& rows) override {
    Lap("embedding");
    return inner_->FinishEmbedding(ids, std::move(raw), rows);
  }
  const NormOverride* Norm(int layer, Site site, const RowSegments& rows) override {
    return inner_->Norm(layer, site, rows);
  }
  void Begin() { last_ = Clock::now(); }
  void End() { Lap("logits, sampling"); }
  std::map<std::string, double> TakeUs() { return std::exchange(us_, {}); }

 private:
  static const char* Before(Site site) {
    switch (site) {
      case Site::kQProj:
        return "norm, q|k|v";
      case Site::kOProj:
        return "rope, attention, o";
      case Site::kGateProj:
        return "norm, gate|up";
      case Site::kDownProj:
        return "activation, down";
      default:
        return "norm, lm_head";
    }
  }
  void Lap(const char* name) {
    const Clock::time_point now = Clock::now();
    us_[name] += Us(now - last_);
    last_ = now;
  }
  AdapterSeam* const inner_;
  Clock::time_point last_;
  std::map<std::string, double> us_;
};

struct Case {
  std::string name;
  int64_t sequences;
  int64_t tokens;   // of each in the step
  int64_t context;  // before the step
  Adapters* adapters = nullptr;
};

class Bench final {
 public:
  Bench(const ModelShape& shape, std::string only) : folder_(shape), only_(std::move(only)) {
    absl::StatusOr<std::unique_ptr<CausalLm>> model = CausalLm::Load(folder_.path(), {DType::kBF16});
    LORAD_CHECK(model.ok());
    model_ = *std::move(model);
    const KvLayout layout = model_->kv_layout();
    absl::StatusOr<std::unique_ptr<PagePool>> pages = PagePool::Create(kPoolBytes, layout.block_bytes());
    LORAD_CHECK(pages.ok());
    pages_ = *std::move(pages);
    absl::StatusOr<PageRun> kv = pages_->Reserve(kBlocks, PageOwner::kKv);
    LORAD_CHECK(kv.ok() && kv->first_page() == 0);
    kv_ = *std::move(kv);
    std::fill(kv_.data(), kv_.data() + kBlocks * layout.block_bytes(), std::byte{0});
    view_ = {pages_->arena(), layout.block_bytes(), layout};
  }
  CausalLm& model() { return *model_; }
  PagePool* pages() { return pages_.get(); }

  void Run(const Case& c, int steps, double read_bytes_per_us) {
    if (c.name.find(only_) == std::string::npos) return;
    const SlotTable none(model_->base_shape());
    SlotSeam slots(c.adapters == nullptr ? none : c.adapters->table());
    // A step without adapters takes the executor's own seam, which is not timed: one with a term that touches nothing
    // is the same work.
    SlotTable untouched(model_->base_shape());
    untouched.Resize(1);
    SlotSeam nothing(untouched);
    TimedSeam seam(c.adapters == nullptr ? &nothing : &slots);
    ModelExecutor executor(model_.get(), view_, &seam);
    const std::vector<int32_t> ids(static_cast<size_t>(c.tokens), 7);
    SamplingOptions greedy;
    greedy.temperature = 0;
    std::vector<ExecRow> rows(static_cast<size_t>(c.sequences));
    const int64_t blocks = (c.context + c.tokens + kKvBlockTokens - 1) / kKvBlockTokens;
    LORAD_CHECK_LE(blocks * c.sequences, kBlocks);
    int64_t bytes =
        model_->weight_bytes() + c.sequences * c.context * model_->kv_layout().block_bytes() / kKvBlockTokens;
    for (int64_t s = 0; s < c.sequences; ++s) {
      ExecRow& row = rows[static_cast<size_t>(s)];
      row.sequence = static_cast<SequenceId>(s);
      row.first_position = c.context;
      row.token_ids = ids;
      row.prompt_ids = ids;
      for (int64_t b = 0; b < blocks; ++b) row.blocks.push_back(static_cast<int32_t>(s * blocks + b));
      const int32_t slot = c.adapters == nullptr ? 0 : static_cast<int32_t>(s % c.adapters->table().slots());
      row.terms = {{.slot = slot, .scale = 1.0f}};
      row.sample = true;
      row.sampling = &greedy;
      if (c.adapters != nullptr && s < c.adapters->table().slots()) bytes += c.adapters->bytes(static_cast<size_t>(s));
    }
    // The step of the lowest third of the times, and its parts.
    std::vector<std::pair<double, std::map<std::string, double>>> times;
    for (int i = 0; i < steps; ++i) {
      const Clock::time_point begin = Clock::now();
      seam.Begin();
      LORAD_CHECK(executor.Wait(executor.Launch(rows)).ok());
      seam.End();
      times.emplace_back(Us(Clock::now() - begin), seam.TakeUs());
    }
    const auto third = times.begin() + steps / 3;
    std::nth_element(times.begin(), third, times.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    const double read_us = static_cast<double>(bytes) / read_bytes_per_us;
    std::printf("%-34s %8.2f ms  %7.1f tokens/s  x %.2f of reading %lld MB\n", c.name.c_str(), third->first / 1e3,
                static_cast<double>(c.sequences * c.tokens) / third->first * 1e6, third->first / read_us,
                static_cast<long long>(bytes >> 20));
    for (const auto& [part, us] : third->second) std::printf("    %-28s %8.2f ms\n", part.c_str(), us / 1e3);
    std::fflush(stdout);
  }

 private:
  static constexpr int64_t kBlocks = 640;
  static constexpr int64_t kPoolBytes = int64_t{4} << 30;
  ModelFolder folder_;
  const std::string only_;  // cases whose names have it
  std::unique_ptr<CausalLm> model_;
  std::unique_ptr<PagePool> pages_;
  PageRun kv_;
  KvView view_;
};

// Bytes per us that all threads read together, from memory.
double ReadBandwidth() {
  const std::vector<uint64_t> words((int64_t{256} << 20) / 8, 1);
  double best_us = 1e30;
  for (int i = 0; i < 8; ++i) {
    const Clock::time_point begin = Clock::now();
    cpu::ParallelFor(static_cast<int64_t>(words.size()) / 64, 1, [&](int64_t first, int64_t end) {
      uint64_t sums[64] = {};
      for (int64_t w = first; w < end; ++w)
        for (int j = 0; j < 64; ++j) sums[j] += words[static_cast<size_t>(w * 64 + j)];
      for (const uint64_t sum : sums) benchmark::DoNotOptimize(sum);
    });
    best_us = std::min(best_us, Us(Clock::now() - begin));
  }
  return static_cast<double>(words.size() * 8) / best_us;
}

}  // namespace
}  // namespace lorad::bench

int main(int argc, char** argv) {
  using namespace lorad::bench;
  using lorad::Site;
  const std::string name = argc > 1 ? argv[1] : "smollm";
  const int steps = argc > 2 ? std::atoi(argv[2]) : 30;
  const auto* shape =
      std::find_if(std::begin(kShapes), std::end(kShapes), [&](const auto& s) { return s.name == name; });
  if (shape == std::end(kShapes) || steps < 1) {
    std::fprintf(stderr, "step_bench [smollm|tinyllama] [steps] [part of a case's name]\n");
    return 2;
  }
  at::set_num_threads(lorad::cpu::ComputeThreads());
  Bench bench(*shape, argc > 3 ? argv[3] : "");
  const std::vector<Site> attention = {Site::kQProj, Site::kKProj, Site::kVProj, Site::kOProj};
  std::vector<Site> linears = attention;
  linears.insert(linears.end(), {Site::kGateProj, Site::kUpProj, Site::kDownProj});
  Adapters rank8(bench.model().base_shape(), attention, std::vector<int32_t>(16, 8), bench.pages());
  Adapters mixed(bench.model().base_shape(), linears, {8, 16, 32, 64, 8, 16, 32, 64, 8, 16, 32, 64, 8, 16, 32, 64},
                 bench.pages());
  const double bandwidth = ReadBandwidth();
  std::printf("%s, bf16, %d threads, reads %.1f GB/s\n", shape->name, lorad::cpu::ComputeThreads(), bandwidth / 1e3);
  for (const int64_t batch : {1, 4, 16}) {
    const std::string rows = "decode " + std::to_string(batch) + ", ";
    bench.Run({rows + "base", batch, 1, 256}, steps, bandwidth);
    bench.Run({rows + "rank 8 on q,k,v,o", batch, 1, 256, &rank8}, steps, bandwidth);
    bench.Run({rows + "ranks 8-64 on all linears", batch, 1, 256, &mixed}, steps, bandwidth);
  }
  for (const int64_t tokens : {32, 256}) {
    const std::string rows = "prefill " + std::to_string(tokens) + ", ";
    bench.Run({rows + "base", 1, tokens, 0}, steps / 3 + 1, bandwidth);
    bench.Run({rows + "ranks 8-64 on all linears", 1, tokens, 0, &mixed}, steps / 3 + 1, bandwidth);
  }
  return 0;
}
