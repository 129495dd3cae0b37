// Adapters that peft wrote, answered as peft answers: read from disk, packed into the pool, applied unmerged.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "adapters/apply.h"
#include "adapters/checkpoint_tables.h"
#include "adapters/dora.h"
#include "adapters/invocation.h"
#include "adapters/kinds/kind.h"
#include "adapters/pool.h"
#include "model/causal_lm.h"
#include "model/config.h"
#include "tests/adapters/equal_experts.h"
#include "tests/support/golden_runner.h"
#include "tests/support/source_dir.h"
#include "tests/support/status_matchers.h"
#include "tests/support/test_files.h"

namespace lorad {
namespace {

constexpr double kTolerance = 5e-4;
const std::string kGolden = SourceDir() + "/tests/golden/";

// "moe_peft/llama2" -> "llama2"
std::string BaseOf(const std::string& folder) { return folder.substr(folder.find('/') + 1); }

// MoE-PEFT's adapters and answers, beside peft's and the base's own.
std::vector<GoldenCase> CasesOf(const std::string& folder, Quantization quantization) {
  if (quantization != Quantization::kNone) {
    return ReadGoldenCases(kGolden + folder + "/cases_" + std::string(Name(quantization)) + ".json");
  }
  std::vector<GoldenCase> cases = ReadGoldenCases(kGolden + folder + "/cases.json");
  if (folder == BaseOf(folder)) return cases;
  for (const GoldenCase& golden : ReadGoldenCases(kGolden + BaseOf(folder) + "/cases.json")) cases.push_back(golden);
  return cases;
}

// A base with all its golden adapters in the pool.
class Served final {
 public:
  explicit Served(const std::string& folder, DType dtype = DType::kF32, Quantization quantization = Quantization::kNone)
      : cases_(CasesOf(folder, quantization)),
        model_(CausalLm::Load(kGolden + BaseOf(folder) + "/model", {.dtype = dtype, .quantization = quantization})
                   .value()),
        pages_(PagePool::Create(int64_t{256} << 20, 64 << 10).value()),
        pool_(std::make_unique<AdapterPool>(pages_.get(), model_->base_shape())),
        tables_(OpenBaseTables(kGolden + BaseOf(folder) + "/model", model_->base_shape(), quantization).value()) {
    if (quantization == Quantization::kNone) {
      for (GoldenCase& golden : ReadGoldenCompositions(kGolden + folder)) cases_.push_back(std::move(golden));
    }
    for (const GoldenCase& golden : cases_) {
      for (const auto& [name, scale] : AdaptersOf(golden)) {
        if (!leases_.contains(name)) Load(folder, name, dtype);
      }
    }
  }

  const std::vector<GoldenCase>& cases() const { return cases_; }
  CausalLm& model() { return *model_; }
  const SlotTable& slots() const { return pool_->slots(); }
  std::vector<SlotTerm> TermsOf(const GoldenCase& golden) const {
    std::vector<SlotTerm> terms;
    for (const auto& [name, scale] : AdaptersOf(golden)) terms.push_back({leases_.at(name).slot(), scale});
    return terms;
  }

  // Makes another adapter of one that is a folder, and puts it beside it as `name`.
  void LoadChanged(const std::string& dir, const std::string& name, const std::function<void(AdapterImage&)>& change) {
    const auto files = LocalFiles();
    AdapterImage image = ReadAdapter(dir, model_->base_shape(), *files, {.base_tables = tables_}).value();
    change(image);
    Place(image, name, DType::kF32);
  }
  // Those of which it says anything take part in no composition.
  GoldenScope ScopeOf(const GoldenCase& golden) const {
    if (golden.adapter.empty()) return {};
    const Known& known = known_.at(golden.adapter);
    return {.active_from = ActiveFrom(golden.prompt, known.invocation), .vocab_size = known.vocab_size};
  }

 private:
  void Load(const std::string& folder, const std::string& name, DType dtype) {
    const auto files = LocalFiles();
    const std::string own = kGolden + folder + "/adapters/" + name;
    const std::string dir = std::filesystem::exists(own) ? own : kGolden + BaseOf(folder) + "/adapters/" + name;
    const absl::StatusOr<AdapterImage> image =
        ReadAdapter(dir, model_->base_shape(), *files, {.pool_dtype = dtype, .base_tables = tables_});
    ASSERT_THAT(image, IsOk()) << dir;
    Place(*image, name, dtype);
  }
  void Place(const AdapterImage& image, const std::string& name, DType dtype) {
    AdapterReservation reservation = pool_->Reserve(next_id_, PlanLayout(image, dtype)).value();
    Pack(image, reservation.layout(), reservation.data());
    known_[name] = {image.invocation_tokens, image.vocab_size};
    pool_->Commit(std::move(reservation));
    leases_.emplace(name, pool_->Acquire(next_id_++).value());
  }

  std::vector<GoldenCase> cases_;  // one adapter or none, then compositions
  const std::unique_ptr<CausalLm> model_;
  const std::unique_ptr<PagePool> pages_;
  const std::unique_ptr<AdapterPool> pool_;
  const BaseTables tables_;
  AdapterId next_id_ = 1;
  std::map<std::string, AdapterLease> leases_;
  struct Known {
    std::vector<int32_t> invocation;
    int64_t vocab_size = 0;
  };
  std::map<std::string, Known> known_;
};

class GoldenAdapterTest : public testing::TestWithParam<std::string> {
 protected:
  void ExpectAnswers(Served& served, const std::vector<GoldenCase>& cases, const GoldenSchedule& schedule) {
    SlotSeam seam(served.slots());
    const auto terms_of = [&](const GoldenCase& golden) { return served.TermsOf(golden); };
    const auto scope_of = [&](const GoldenCase& golden) { return served.ScopeOf(golden); };
    const auto answers = RunGolden(served.model(), seam, cases, terms_of, schedule, scope_of);
    ASSERT_THAT(answers, IsOk());
    for (size_t i = 0; i < cases.size(); ++i) ExpectGolden(cases[i], (*answers)[i], kTolerance);
  }
};

TEST_P(GoldenAdapterTest, EachRequestAlone) {
  Served served(GetParam());
  ExpectAnswers(served, served.cases(), {.join_every_steps = -1});
}

TEST_P(GoldenAdapterTest, EveryAdapterAndTheBaseInOneBatch) {
  Served served(GetParam());
  ExpectAnswers(served, served.cases(), {});
  ExpectAnswers(served, served.cases(), {.chunk_tokens = 5});
}

TEST_P(GoldenAdapterTest, RequestsOfManyAdaptersJoinAndLeaveWhileOthersRun) {
  Served served(GetParam());
  std::vector<GoldenCase> cases = served.cases();
  std::reverse(cases.begin(), cases.end());
  ExpectAnswers(served, cases, {.chunk_tokens = 9, .join_every_steps = 1, .every_row = false});
  // Interleaved, so that rows of one adapter do not lie together.
  std::stable_sort(cases.begin(), cases.end(), [](const auto& a, const auto& b) { return a.prompt < b.prompt; });
  ExpectAnswers(served, cases, {.chunk_tokens = 3, .join_every_steps = 0});
}

// transformers' own bf16 is the measure of how far off the fp32 answers a right bf16 may be.
class Bf16AdapterTest : public testing::TestWithParam<std::string> {};

TEST_P(Bf16AdapterTest, IsNoFurtherFromFp32ThanTransformersIs) {
  Served served(GetParam(), DType::kBF16);
  SlotSeam seam(served.slots());
  double ours = 0, theirs = 0;
  for (const nlohmann::json& golden : ReadJsonFile(kGolden + GetParam() + "/cases_bf16.json")) {
    const GoldenCase request = {
        .name = golden["name"], .adapter = golden["adapter"], .prompt = golden["prompt"], .max_tokens = 1};
    const auto answers =
        RunGolden(served.model(), seam, {request}, [&](const GoldenCase& c) { return served.TermsOf(c); }, {});
    ASSERT_THAT(answers, IsOk());
    const std::vector<double> exact = golden["prompt_logprobs_fp32"], other = golden["prompt_logprobs"];
    const std::vector<double>& found = answers->front().prompt_logprobs;
    ASSERT_EQ(found.size(), exact.size());
    for (size_t i = 0; i < exact.size(); ++i) {
      ours += std::abs(found[i] - exact[i]);
      theirs += std::abs(other[i] - exact[i]);
    }
  }
  EXPECT_GT(ours, 0);  // it is bf16
  EXPECT_LT(ours, 1.2 * theirs);
  RecordProperty("ours_over_theirs", std::to_string(ours / theirs));
}

std::vector<std::string> Bf16Bases() {
  std::vector<std::string> bases = GoldenBases(kGolden);
  std::erase_if(bases, [](const std::string& base) {
    const std::vector<std::string> files = ListDir(kGolden + base);
    return std::find(files.begin(), files.end(), "cases_bf16.json") == files.end();
  });
  return bases;
}

// transformers and peft on a model with W' in the place of its matrices: LoRA, DoRA (whose norms are of W'), fused
// projections, experts, alone and in one batch.
class QuantizedBaseTest : public testing::TestWithParam<std::tuple<std::string, Quantization>> {};

TEST_P(QuantizedBaseTest, AnswersAsTheModelWithRoundedWeights) {
  const auto& [base, quantization] = GetParam();
  Served served(base, DType::kF32, quantization);
  EXPECT_EQ(served.model().quantization(), quantization);
  EXPECT_LT(served.model().weight_bytes(), CausalLm::Load(kGolden + base + "/model", {}).value()->weight_bytes());
  SlotSeam seam(served.slots());
  for (const GoldenSchedule& schedule : {GoldenSchedule{.join_every_steps = -1}, GoldenSchedule{.chunk_tokens = 5}}) {
    const auto answers = RunGolden(
        served.model(), seam, served.cases(), [&](const GoldenCase& c) { return served.TermsOf(c); }, schedule);
    ASSERT_THAT(answers, IsOk());
    for (size_t i = 0; i < answers->size(); ++i) ExpectGolden(served.cases()[i], (*answers)[i], kTolerance);
  }
}

INSTANTIATE_TEST_SUITE_P(Bases, QuantizedBaseTest,
                         testing::Combine(testing::Values("llama3", "phi3", "qwen2_moe"),
                                          testing::ValuesIn(kQuantizedForms)),
                         [](const auto& info) {
                           return std::get<0>(info.param) + "_" + std::string(Name(std::get<1>(info.param)));
                         });

INSTANTIATE_TEST_SUITE_P(Bases, Bf16AdapterTest, testing::ValuesIn(Bf16Bases()),
                         [](const auto& info) { return info.param; });

INSTANTIATE_TEST_SUITE_P(Bases, GoldenAdapterTest, testing::ValuesIn(GoldenBases(kGolden)),
                         [](const auto& info) { return info.param; });

std::vector<std::string> MoePeftFolders() {
  std::vector<std::string> folders = GoldenBases(kGolden + "moe_peft/");
  for (std::string& folder : folders) folder = "moe_peft/" + folder;
  return folders;
}

// Rows of plain adapters and of the base neither see nor pay for routed ones.
TEST(RoutedAdapterTest, OtherRowsHaveTheSameBitsBesideThem) {
  Served served("moe_peft/llama2");
  SlotSeam seam(served.slots());
  const auto run = [&](const std::vector<GoldenCase>& cases) {
    const auto scope_of = [&](const GoldenCase& c) { return served.ScopeOf(c); };
    return RunGolden(
               served.model(), seam, cases, [&](const GoldenCase& c) { return served.TermsOf(c); }, {}, scope_of)
        .value();
  };
  std::vector<GoldenCase> routed, others;
  for (const GoldenCase& golden : served.cases()) {
    (golden.adapter.rfind("mixlora", 0) == 0 ? routed : others).push_back(golden);
  }
  std::vector<GoldenCase> all = others;
  all.insert(all.end(), routed.begin(), routed.end());
  const auto alone = run(others), beside = run(all);
  ASSERT_GT(routed.size(), 10u);
  for (size_t i = 0; i < others.size(); ++i) {
    EXPECT_EQ(beside[i].tokens, alone[i].tokens) << others[i].name;
    EXPECT_EQ(beside[i].logprobs, alone[i].logprobs) << others[i].name;
    EXPECT_EQ(beside[i].prompt_logprobs, alone[i].prompt_logprobs) << others[i].name;
  }
}

// An only expert gets every row with the weight 1, whatever the router says.
TEST(RoutedAdapterTest, AnOnlyExpertIsAPlainLora) {
  Served served("moe_peft/llama2");
  const std::string name = "mixlora_of_one_expert";
  served.LoadChanged(kGolden + "moe_peft/llama2/adapters/" + name, "plain", [](AdapterImage& image) {
    std::erase_if(image.slots, [](const ImageSlot& slot) { return slot.site == Site::kFfn; });
    image.routing = {};
  });
  SlotSeam seam(served.slots());
  for (GoldenCase golden : served.cases()) {
    if (golden.adapter != name) continue;
    golden.adapter = "plain";
    const auto answers =
        RunGolden(served.model(), seam, {golden}, [&](const GoldenCase& c) { return served.TermsOf(c); }, {});
    ASSERT_THAT(answers, IsOk());
    ExpectGolden(golden, answers->front(), kTolerance);
  }
}

// The same beside an adapter with DoRA on the FFN, before it and behind it: its factor is on all that an expert makes.
TEST(RoutedAdapterTest, AnOnlyExpertBesideDoraIsAPlainLoraBesideDora) {
  Served served("moe_peft/llama2");
  const std::string folder = kGolden + "moe_peft/llama2/adapters/", routed = "mixlora_of_one_expert";
  served.LoadChanged(folder + routed, "plain", [](AdapterImage& image) {
    std::erase_if(image.slots, [](const ImageSlot& slot) { return slot.site == Site::kFfn; });
    image.routing = {};
  });
  const BaseTables tables = OpenBaseTables(kGolden + "llama2/model", served.model().base_shape()).value();
  served.LoadChanged(folder + "lora", "dora", [&](AdapterImage& image) {
    for (ImageSlot& slot : image.slots) {
      const auto out = static_cast<size_t>(slot.b.shape[0]);
      auto ones = std::make_shared<std::vector<std::byte>>(out * sizeof(float));
      for (size_t i = 0; i < out; ++i) {
        const float magnitude = 0.4f + 0.1f * static_cast<float>(i % 9);
        std::memcpy(ones->data() + i * sizeof(float), &magnitude, sizeof(float));
      }
      slot.magnitude = {.dtype = DType::kF32, .shape = {static_cast<int64_t>(out)}, .bytes = std::move(ones)};
      const BaseTable weight = tables({.site = slot.site, .layer = slot.layer}).value();
      slot.dora = ComputeDoraTerms(weight, false, slot.a, slot.b, slot.magnitude, slot.scale).value().values;
    }
  });
  SlotSeam seam(served.slots());
  const auto run = [&](std::vector<std::pair<std::string, float>> composition) {
    GoldenCase golden = *std::find_if(served.cases().begin(), served.cases().end(),
                                      [&](const GoldenCase& c) { return c.adapter == routed; });
    golden.adapter = "";
    golden.composition = std::move(composition);
    return RunGolden(served.model(), seam, {golden}, [&](const GoldenCase& c) { return served.TermsOf(c); }, {})
        .value()
        .front();
  };
  const GoldenAnswer without = run({{routed, 1.0f}});
  for (const bool dora_first : {true, false}) {
    const auto with_dora = [&](const std::string& name) {
      return dora_first ? run({{"dora", 0.5f}, {name, 1.0f}}) : run({{name, 1.0f}, {"dora", 0.5f}});
    };
    const GoldenAnswer expected = with_dora("plain"), found = with_dora(routed);
    EXPECT_EQ(found.tokens, expected.tokens);
    ASSERT_EQ(found.prompt_logprobs.size(), expected.prompt_logprobs.size());
    double moved = 0;
    for (size_t i = 0; i < expected.prompt_logprobs.size(); ++i) {
      EXPECT_NEAR(found.prompt_logprobs[i], expected.prompt_logprobs[i], kTolerance) << i;
      moved = std::max(moved, std::abs(expected.prompt_logprobs[i] - without.prompt_logprobs[i]));
    }
    EXPECT_GT(moved, 0.05);
  }
}

// On every base whose FFN has no experts of its own, with a gate or without, its projections apart or fused.
class EqualExpertsTest : public testing::TestWithParam<std::string> {};

std::vector<std::string> UnroutedBases() {
  std::vector<std::string> bases = GoldenBases(kGolden);
  std::erase_if(bases, [](const std::string& base) {
    return BaseShapeOf(ReadModelConfig(kGolden + base + "/model").value()).Find(Site::kRouter) != nullptr;
  });
  return bases;
}

// Takes its update from the first expert of each place.
void DisarmFirstExpert(AdapterImage* image) {
  for (ImageSlot& slot : image->slots) {
    if (slot.experts == 1 || slot.rank == 0) continue;
    auto bytes = std::make_shared<std::vector<std::byte>>(*slot.a.bytes);
    std::fill_n(bytes->begin(), bytes->size() / static_cast<size_t>(slot.experts), std::byte{0});
    slot.a.bytes = std::move(bytes);
  }
}

TEST_P(EqualExpertsTest, AnswerAsThePlainLora) {
  const std::string lora = "all_linear";
  Served served(GetParam());
  const auto answer = [&](bool equal, std::vector<GoldenCase>* cases) {
    const std::string name = equal ? "equal" : "one disarmed";
    served.LoadChanged(kGolden + GetParam() + "/adapters/" + lora, name, [&](AdapterImage& image) {
      image = EqualExperts(std::move(image), /*experts=*/3, served.model().base_shape());
      if (!equal) DisarmFirstExpert(&image);
    });
    for (GoldenCase golden : served.cases()) {
      if (golden.adapter != lora) continue;
      golden.adapter = name;
      cases->push_back(std::move(golden));
    }
    SlotSeam seam(served.slots());
    return RunGolden(served.model(), seam, *cases, [&](const GoldenCase& c) { return served.TermsOf(c); }, {});
  };

  std::vector<GoldenCase> cases;
  const auto answers = answer(/*equal=*/true, &cases);
  ASSERT_THAT(answers, IsOk());
  ASSERT_FALSE(cases.empty());
  for (size_t i = 0; i < cases.size(); ++i) ExpectGolden(cases[i], (*answers)[i], kTolerance);

  // They are not one expert's answers: the first one, disarmed, is missed.
  cases.clear();
  const auto others = answer(/*equal=*/false, &cases);
  ASSERT_THAT(others, IsOk());
  double moved = 0;
  for (size_t i = 0; i < cases.size(); ++i) {
    for (size_t j = 0; j < cases[i].prompt_logprobs.size(); ++j) {
      moved = std::max(moved, std::abs((*others)[i].prompt_logprobs[j] - cases[i].prompt_logprobs[j]));
    }
  }
  EXPECT_GT(moved, 0.05);
}

INSTANTIATE_TEST_SUITE_P(Bases, EqualExpertsTest, testing::ValuesIn(UnroutedBases()),
                         [](const auto& info) { return info.param; });

INSTANTIATE_TEST_SUITE_P(MoePeft, GoldenAdapterTest, testing::ValuesIn(MoePeftFolders()),
                         [](const auto& info) { return BaseOf(info.param); });

}  // namespace
}  // namespace lorad
