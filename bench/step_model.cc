#include "bench/step_model.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include <ATen/Parallel.h>

#include "model/base/check.h"
#include "model/ops/cpu/parallel.h"

namespace lorad::bench {
namespace {

constexpr int64_t kPoolBytes = int64_t{4} << 30;
constexpr ModelShape kShapes[] = {{"smollm", 576, 30, 9, 3, 1536, 49152, true},
                                  {"tinyllama", 2048, 22, 32, 4, 5632, 32000, false}};

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

StepModel::StepModel(const ModelShape& shape, Quantization quantization) {
  const LlamaFolder folder(shape);
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
