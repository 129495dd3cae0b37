// Adapters below the scheduler: rows of many adapters and of the base in one step, through pool, slot table and seam.
#include <ATen/ops/allclose.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/isfinite.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "adapters/apply.h"
#include "adapters/image.h"
#include "adapters/pool.h"
#include "model/memory/page_pool.h"
#include "tests/component/answer.h"
#include "tests/component/golden_base.h"
#include "tests/component/random_adapter.h"
#include "tests/component/random_steps.h"

namespace lorad {
namespace {

constexpr int64_t kPageBytes = 4096;
constexpr int64_t kPoolBytes = int64_t{48} << 20;
constexpr int kSeeds = 20;

// A pool with adapters in it, all leased.
class Adapters final {
 public:
  explicit Adapters(const BaseShape& base)
      : pages_(*PagePool::Create(kPoolBytes, kPageBytes)), pool_(pages_.get(), base), seam_(pool_.slots()) {}

  // Returns the slot.
  int32_t Add(const AdapterImage& image) {
    PackedLayout layout = PlanLayout(image, DType::kF32);
    AdapterReservation reservation = pool_.Reserve(++last_id_, layout).value();
    Pack(image, layout, reservation.data());
    pool_.Commit(std::move(reservation));
    leases_.push_back(pool_.Acquire(last_id_).value());
    return leases_.back().slot();
  }
  StepDriver Driver(CausalLm& model) { return StepDriver(&model, &seam_, pages_.get(), &pool_); }

 private:
  const std::unique_ptr<PagePool> pages_;
  AdapterPool pool_;
  SlotSeam seam_;
  AdapterId last_id_ = 0;
  std::vector<AdapterLease> leases_;
};

Generation RandomGeneration(Rng& rng, int64_t vocab, std::vector<SlotTerm> terms) {
  Generation generation;
  generation.prompt = RandomPrompt(rng, Chance(rng, 0.1) ? Pick(rng, 100, 150) : Pick(rng, 1, 40), vocab);
  generation.sampling.max_tokens = Pick(rng, 1, 16);
  generation.sampling.logprobs = 2;
  generation.sampling.temperature = 0.0f;
  if (Chance(rng, 0.2)) {
    generation.sampling.temperature = 0.8f;
    generation.sampling.seed = rng();
  }
  if (Chance(rng, 0.15)) generation.cancel_at_tokens = Pick(rng, 1, generation.sampling.max_tokens);
  generation.terms = std::move(terms);
  return generation;
}

class AdapterRowsTest : public testing::TestWithParam<std::string> {
 protected:
  CausalLm& model() const { return GoldenBase(GetParam()); }
  const BaseShape& base() const { return model().base_shape(); }
  int64_t vocab() const { return model().config().vocab_size; }

  // The base, one adapter, or two adapters added up.
  std::vector<SlotTerm> RandomTerms(Rng& rng, const std::vector<int32_t>& slots) const {
    const auto slot = [&] { return slots[static_cast<size_t>(Pick(rng, 0, static_cast<int64_t>(slots.size()) - 1))]; };
    if (Chance(rng, 0.3)) return {};
    std::vector<SlotTerm> terms = {{.slot = slot(), .scale = 1.0f}};
    if (Chance(rng, 0.2)) terms.push_back({.slot = slot(), .scale = 0.5f});
    return terms;
  }
};

TEST_P(AdapterRowsTest, RequestsOfAnyAdaptersGetWhatTheyGetAlone) {
  BatchedEqualsAlone compared;
  for (int seed = 0; seed < kSeeds && !HasFailure(); ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    Rng rng(static_cast<uint64_t>(seed));
    Adapters adapters(base());
    std::vector<int32_t> slots;
    for (int64_t i = Pick(rng, 1, 8); i > 0; --i) slots.push_back(adapters.Add(*RandomAdapter(rng, base())));
    std::vector<Generation> generations;
    for (int64_t i = Pick(rng, 2, 12); i > 0; --i) {
      generations.push_back(RandomGeneration(rng, vocab(), RandomTerms(rng, slots)));
    }
    StepDriver driver = adapters.Driver(model());
    const std::vector<Answer> batched = driver.RunInRandomSteps(generations, rng);
    for (size_t i = 0; i < generations.size(); ++i) {
      const Generation& generation = generations[i];
      compared.Compare(absl::StrCat("request ", i), driver.RunAlone(generation), batched[i],
                       {.greedy = generation.sampling.temperature == 0.0f});
    }
  }
  EXPECT_GT(compared.compared_tokens(), 20 * compared.unclaimed_tokens());
  EXPECT_GT(compared.compared_tokens(), 30 * kSeeds);
}

TEST_P(AdapterRowsTest, AnAdapterChangesWhatItsRowsGet) {
  Rng rng(1);
  Adapters adapters(base());
  const int32_t slot = adapters.Add(*RandomAdapter(rng, base()));
  StepDriver driver = adapters.Driver(model());
  Generation generation = RandomGeneration(rng, vocab(), {});
  const at::Tensor without = driver.OneStep({generation});
  generation.terms = {{.slot = slot, .scale = 1.0f}};
  const at::Tensor with = driver.OneStep({generation});
  EXPECT_FALSE(at::allclose(with, without, /*rtol=*/0.0, /*atol=*/0.1));
}

TEST_P(AdapterRowsTest, BaseRowsAreBitEqualWithAndWithoutAdaptersInTheStep) {
  for (int seed = 0; seed < kSeeds && !HasFailure(); ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    Rng rng(static_cast<uint64_t>(seed));
    Adapters adapters(base());
    const int32_t slot = adapters.Add(*RandomAdapter(rng, base()));
    std::vector<Generation> mixed, base_only;
    for (int64_t i = 0; i < 12; ++i) {
      base_only.push_back(RandomGeneration(rng, vocab(), {}));
      mixed.push_back(base_only.back());
      if (i % 3 == 1) mixed.back().terms = {{.slot = slot, .scale = 1.0f}};
    }
    StepDriver driver = adapters.Driver(model());
    const at::Tensor mixed_logits = driver.OneStep(mixed);
    const at::Tensor base_logits = driver.OneStep(base_only);
    for (int64_t i = 0; i < 12; ++i) {
      const bool untouched = mixed[static_cast<size_t>(i)].terms.empty();
      EXPECT_EQ(at::equal(mixed_logits[i], base_logits[i]), untouched) << "request " << i;
    }
  }
}

TEST_P(AdapterRowsTest, AnAdapterOfNanReachesNoRowButItsOwn) {
  for (int seed = 0; seed < kSeeds && !HasFailure(); ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    Rng rng(static_cast<uint64_t>(seed));
    Adapters adapters(base());
    const std::vector<int32_t> healthy = {adapters.Add(*RandomAdapter(rng, base())),
                                          adapters.Add(*RandomAdapter(rng, base()))};
    const int32_t nan = adapters.Add(*NanAdapter(base(), static_cast<int32_t>(Pick(rng, 1, 24))));
    std::vector<Generation> generations;
    for (int64_t i = 0; i < 9; ++i) {
      generations.push_back(RandomGeneration(rng, vocab(), RandomTerms(rng, healthy)));
      if (i % 3 != 1) continue;
      generations.back().terms = {{.slot = nan, .scale = 1.0f}};
      generations.back().poisoned = true;
    }
    StepDriver driver = adapters.Driver(model());
    const at::Tensor logits = driver.OneStep(generations);
    for (int64_t i = 0; i < 9; ++i) {
      const bool poisoned = generations[static_cast<size_t>(i)].poisoned;
      EXPECT_EQ(at::isfinite(logits[i]).any().item<bool>(), !poisoned) << "request " << i;
      EXPECT_EQ(at::isfinite(logits[i]).all().item<bool>(), !poisoned) << "request " << i;
    }
    BatchedEqualsAlone compared;
    const std::vector<Answer> batched = driver.RunInRandomSteps(generations, rng);
    for (size_t i = 0; i < generations.size(); ++i) {
      if (generations[i].poisoned) continue;
      compared.Compare(absl::StrCat("request ", i), driver.RunAlone(generations[i]), batched[i],
                       {.greedy = generations[i].sampling.temperature == 0.0f});
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Bases, AdapterRowsTest,
                         testing::Values("llama3", "llama_linear", "mistral", "qwen2", "qwen3", "opt_post", "phi"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace lorad
