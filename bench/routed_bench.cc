// What MixLoRA costs, and whom: the step of plain and base rows alone, beside MixLoRA's rows, and beside as many more
// plain ones; and a routed FFN with the base's down projection computed once a row, as lorad does, against once for
// each of a row's experts, as the equation is written (MixLoRA, arXiv 2404.15159).
//   routed_bench [smollm|tinyllama] [rounds]
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <ATen/ops/empty.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/randn.h>

#include "adapters/apply.h"
#include "bench/step_model.h"
#include "model/base/check.h"
#include "model/base/guarded.h"
#include "model/layers/mlp.h"
#include "model/ops/autograd/row_ops.h"
#include "model/ops/expert_linear.h"
#include "model/safetensors_writer.h"
#include "scheduler/model_executor.h"

namespace lorad::bench {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int32_t kExperts = 8, kTopK = 2, kRank = 8;
constexpr int64_t kContext = 128;  // tokens of a sequence before the step
constexpr int64_t kOthers = 32, kRouted = 8;

// Runs each once a round, so that noise of the machine meets all alike; the time, in us, that a tenth of the rounds
// stayed below.
std::vector<double> LowTimes(const std::vector<std::function<void()>>& works, int rounds) {
  std::vector<std::vector<double>> times(works.size());
  for (int round = -1; round < rounds; ++round) {
    for (size_t i = 0; i < works.size(); ++i) {
      const Clock::time_point begin = Clock::now();
      works[i]();
      const double us = std::chrono::duration<double, std::micro>(Clock::now() - begin).count();
      if (round >= 0) times[i].push_back(us);
    }
  }
  std::vector<double> low;
  for (std::vector<double>& each : times) {
    std::nth_element(each.begin(), each.begin() + rounds / 10, each.end());
    low.push_back(each[static_cast<size_t>(rounds / 10)]);
  }
  return low;
}

// Decoding sequences, one token each; slot -1 is the base.
class Batch final {
 public:
  explicit Batch(const std::vector<int32_t>& slots) : rows_(slots.size()) {
    greedy_.temperature = 0;
    constexpr int64_t kBlocksEach = (kContext + kKvBlockTokens) / kKvBlockTokens;
    LORAD_CHECK_LE(kBlocksEach * std::ssize(slots), StepModel::kBlocks);
    for (size_t s = 0; s < slots.size(); ++s) ids_.push_back(static_cast<int32_t>(7 + 13 * s));
    for (size_t s = 0; s < slots.size(); ++s) {
      ExecRow& row = rows_[s];
      row.sequence = static_cast<SequenceId>(s);
      row.first_position = kContext;
      row.token_ids = absl::MakeConstSpan(&ids_[s], 1);
      row.prompt_ids = row.token_ids;
      for (int64_t b = 0; b < kBlocksEach; ++b) {
        row.blocks.push_back(static_cast<int32_t>(static_cast<int64_t>(s) * kBlocksEach + b));
      }
      if (slots[s] >= 0) row.terms = {{.slot = slots[s], .scale = 1.0f}};
      row.sample = true;
      row.sampling = &greedy_;
    }
  }
  void Run(ModelExecutor& executor) const {
    LORAD_CHECK(executor.Wait(executor.Launch(rows_, /*expected_us=*/0)).ok());
  }

 private:
  SamplingOptions greedy_;
  std::vector<int32_t> ids_;
  std::vector<ExecRow> rows_;
};

void CompareSteps(const ModelShape& shape, int rounds) {
  StepModel step(shape);
  StepAdapters adapters(step.model().base_shape(), step.pages());
  const std::vector<Site> linears = {Site::kQProj,    Site::kKProj,  Site::kVProj,   Site::kOProj,
                                     Site::kGateProj, Site::kUpProj, Site::kDownProj};
  std::vector<int32_t> plain, mixlora;
  for (int i = 0; i < 4; ++i) plain.push_back(adapters.AddLora(linears, kRank));
  for (int i = 0; i < 2; ++i) mixlora.push_back(adapters.AddMixLora(kRank, kExperts, kTopK));
  SlotSeam seam(adapters.table());
  ModelExecutor executor(&step.model(), step.kv(), &seam);

  // Every other row is the base's, the others take turns.
  const auto others = [&](int64_t count) {
    std::vector<int32_t> slots;
    for (int64_t i = 0; i < count; ++i) slots.push_back(i % 2 == 0 ? -1 : plain[static_cast<size_t>(i / 2) % 4]);
    return slots;
  };
  const auto with = [](std::vector<int32_t> a, const std::vector<int32_t>& b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
  };
  std::vector<int32_t> routed;
  for (int64_t i = 0; i < kRouted; ++i) routed.push_back(mixlora[static_cast<size_t>(i) % 2]);
  const Batch alone(others(kOthers)), beside_routed(with(others(kOthers), routed)), only_routed(routed);
  const Batch beside_more(with(others(kOthers), others(kRouted))), only_more(others(kRouted));
  std::vector<std::function<void()>> works;
  for (const Batch* batch : {&alone, &beside_routed, &only_routed, &beside_more, &only_more}) {
    works.push_back([batch, &executor] { batch->Run(executor); });
  }
  const std::vector<double> us = LowTimes(works, rounds);
  std::printf("%s, bf16, decode, %lld rows of base and rank 8, %lld of MixLoRA (%d experts, top %d, rank %d)\n",
              shape.name, static_cast<long long>(kOthers), static_cast<long long>(kRouted), kExperts, kTopK, kRank);
  const char* names[] = {"plain and base alone", "beside MixLoRA", "MixLoRA alone", "beside as many more plain",
                         "as many plain alone"};
  for (size_t i = 0; i < us.size(); ++i) std::printf("  %-28s %8.2f ms\n", names[i], us[i] / 1e3);
  const double beside_mixlora_us = us[1] - us[2], beside_plain_us = us[3] - us[4];
  std::printf("  what the plain rows add: beside MixLoRA %.2f ms, beside plain %.2f ms, ratio %.2f\n",
              beside_mixlora_us / 1e3, beside_plain_us / 1e3, beside_mixlora_us / beside_plain_us);
  std::printf("  what a MixLoRA row adds, of a plain one: %.2f\n", (us[1] - us[0]) / (us[3] - us[0]));
}

// The FFN with all of an expert's equation computed for each pair of a row and an expert; every row is routed.
class LiteralMlp final {
 public:
  LiteralMlp(const ModelConfig& config, WeightLoader& weights)
      : up_(weights.LoadStacked({WeightName::kGateProj, WeightName::kUpProj}, 0), at::Tensor(),
            {0,
             -1,
             {{Site::kGateProj, 0, config.intermediate_size},
              {Site::kUpProj, config.intermediate_size, config.intermediate_size}}}),
        down_(weights.Load(WeightName::kDownProj, 0), at::Tensor(),
              {0, -1, {{Site::kDownProj, 0, config.hidden_size}}}) {}
  at::Tensor Forward(const at::Tensor& x, const StepContext& step) const {
    const RowRouting routing = step.seam.RouteFfn(0, x, step.batch.rows);
    LORAD_CHECK(routing.routed != nullptr);
    const RoutedRows& routed = *routing.routed;
    at::Tensor index = at::empty({std::ssize(routed.pairs.input_rows)}, x.options().dtype(at::kInt));
    std::copy(routed.pairs.input_rows.begin(), routed.pairs.input_rows.end(), index.mutable_data_ptr<int32_t>());
    at::Tensor pairs = at::index_select(up_.Base(x), 0, index);
    pairs = GatedActivationOf(up_.Finish(x, std::move(pairs), step.seam, routed.pairs), Activation::kSilu);
    RowSegments rows = routed.pairs;
    rows.input_rows.clear();
    const at::Tensor down = down_.Forward(pairs, step.seam, rows);
    at::Tensor y = at::empty(x.sizes(), x.options());
    ThrowIfError(CombineExperts({down, routed.row_pairs, routed.weights, at::Tensor(), at::Tensor(), y, routed.rows}));
    return y;
  }

 private:
  LinearLayer up_, down_;
};

// The weights of one FFN, from a file as they are loaded.
MatchedWeights FfnWeights(const ModelShape& shape) {
  char folder[] = "/tmp/routed_bench.XXXXXX";
  LORAD_CHECK(mkdtemp(folder) != nullptr);
  const std::vector<uint16_t> data = RandomBf16(shape.hidden * shape.inner, 1);
  const absl::Span<const std::byte> bytes(reinterpret_cast<const std::byte*>(data.data()), data.size() * 2);
  const std::vector<TensorToWrite> tensors = {{"down", DType::kBF16, {shape.hidden, shape.inner}, bytes},
                                              {"gate", DType::kBF16, {shape.inner, shape.hidden}, bytes},
                                              {"up", DType::kBF16, {shape.inner, shape.hidden}, bytes}};
  LORAD_CHECK(WriteSafetensors(std::string(folder) + "/model.safetensors", tensors, {}).ok());
  const Checkpoint checkpoint = OpenCheckpoint(folder).value();
  std::filesystem::remove_all(folder);  // it stays mapped
  return {{{WeightName::kDownProj, 0}, checkpoint.at("down")},
          {{WeightName::kGateProj, 0}, checkpoint.at("gate")},
          {{WeightName::kUpProj, 0}, checkpoint.at("up")}};
}

// But for roundings of bf16, which are relative to the largest.
void CheckAlike(const at::Tensor& found, const at::Tensor& expected) {
  const at::Tensor a = found.to(at::kFloat), b = expected.to(at::kFloat);
  float largest = 0, apart = 0;
  for (int64_t i = 0; i < a.numel(); ++i) {
    largest = std::max(largest, std::abs(b.const_data_ptr<float>()[i]));
    apart = std::max(apart, std::abs(a.const_data_ptr<float>()[i] - b.const_data_ptr<float>()[i]));
  }
  LORAD_CHECK(apart < 0.02f * largest);
}

void CompareDown(const ModelShape& shape, int rounds) {
  ModelConfig config;
  config.hidden_size = shape.hidden;
  config.intermediate_size = shape.inner;
  config.activation = Activation::kSilu;
  config.gated_ffn = true;
  WeightLoader weights(FfnWeights(shape), at::kBFloat16, Quantization::kNone, nullptr);
  WeightLoader same_weights(FfnWeights(shape), at::kBFloat16, Quantization::kNone, nullptr);
  const MlpLayer once(config, 0, weights);
  const LiteralMlp literal(config, same_weights);

  BaseShape base;
  base.num_layers = 1;
  base.hidden_size = shape.hidden;
  base.sites = {{Site::kGateProj, "gate", shape.hidden, shape.inner},
                {Site::kUpProj, "up", shape.hidden, shape.inner},
                {Site::kDownProj, "down", shape.inner, shape.hidden}};
  const std::unique_ptr<PagePool> pages = std::move(PagePool::Create(int64_t{64} << 20, 1 << 16)).value();
  StepAdapters adapters(base, pages.get());
  const int32_t slot = adapters.AddMixLora(kRank, kExperts, kTopK);
  SlotSeam seam(adapters.table());
  std::printf("an FFN %lld -> %lld -> %lld, every row routed: down once a row / once for each of its %d experts\n",
              static_cast<long long>(shape.hidden), static_cast<long long>(shape.inner),
              static_cast<long long>(shape.hidden), kTopK);
  for (const int32_t rows : {1, 4, 16, 64, 256}) {
    ForwardBatch batch;
    batch.rows = {.starts = {0, rows}, .term_starts = {0, 1}, .terms = {{.slot = slot, .scale = 1.0f}}};
    const KvView kv = {};
    const RopeRows rope = {};
    const StepContext step = {batch, kv, seam, rope, rope};
    const at::Tensor x = at::randn({rows, shape.hidden}).to(at::kBFloat16);
    CheckAlike(once.Forward(x, step), literal.Forward(x, step));
    const std::vector<double> us =
        LowTimes({[&] { once.Forward(x, step); }, [&] { literal.Forward(x, step); }}, rounds);
    std::printf("  %4d rows %9.1f us / %9.1f us = %.2f\n", rows, us[0], us[1], us[0] / us[1]);
  }
}

}  // namespace
}  // namespace lorad::bench

int main(int argc, char** argv) {
  using namespace lorad::bench;
  const auto args = ReadStepBenchArgs(argc, argv, /*least_rounds=*/10);
  if (!args.has_value()) return 2;
  CompareDown(*args->shape, args->rounds);
  CompareSteps(*args->shape, args->rounds);
  return 0;
}
