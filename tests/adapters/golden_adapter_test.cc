// Adapters that peft wrote, answered as peft answers: read from disk, packed into the pool, applied unmerged.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "adapters/apply.h"
#include "adapters/checkpoint_tables.h"
#include "adapters/kinds/kind.h"
#include "adapters/pool.h"
#include "model/causal_lm.h"
#include "tests/support/golden_runner.h"
#include "tests/support/source_dir.h"
#include "tests/support/status_matchers.h"
#include "tests/support/test_files.h"

namespace lorad {
namespace {

constexpr double kTolerance = 5e-4;
const std::string kGolden = SourceDir() + "/tests/golden/";

// A base with all its golden adapters in the pool.
class Served final {
 public:
  explicit Served(const std::string& base, DType dtype = DType::kF32)
      : cases_(ReadGoldenCases(kGolden + base + "/cases.json")),
        model_(CausalLm::Load(kGolden + base + "/model", {.dtype = dtype}).value()),
        pages_(PagePool::Create(int64_t{256} << 20, 64 << 10).value()),
        pool_(std::make_unique<AdapterPool>(pages_.get(), model_->base_shape())),
        tables_(OpenBaseTables(kGolden + base + "/model", model_->base_shape()).value()) {
    for (GoldenCase& golden : ReadGoldenCompositions(kGolden + base)) cases_.push_back(std::move(golden));
    for (const GoldenCase& golden : cases_) {
      for (const auto& [name, scale] : AdaptersOf(golden)) {
        if (!leases_.contains(name)) Load(base, name, dtype);
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

 private:
  void Load(const std::string& base, const std::string& name, DType dtype) {
    const auto files = LocalFiles();
    const std::string dir = kGolden + base + "/adapters/" + name;
    const absl::StatusOr<AdapterImage> image =
        ReadAdapter(dir, model_->base_shape(), *files, {.pool_dtype = dtype, .base_tables = tables_});
    ASSERT_THAT(image, IsOk()) << dir;
    AdapterReservation reservation = pool_->Reserve(next_id_, PlanLayout(*image, dtype)).value();
    Pack(*image, reservation.layout(), reservation.data());
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
};

class GoldenAdapterTest : public testing::TestWithParam<std::string> {
 protected:
  void ExpectAnswers(Served& served, const std::vector<GoldenCase>& cases, const GoldenSchedule& schedule) {
    SlotSeam seam(served.slots());
    const auto terms_of = [&](const GoldenCase& golden) { return served.TermsOf(golden); };
    const auto answers = RunGolden(served.model(), seam, cases, terms_of, schedule);
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

INSTANTIATE_TEST_SUITE_P(Bases, Bf16AdapterTest, testing::ValuesIn(Bf16Bases()),
                         [](const auto& info) { return info.param; });

INSTANTIATE_TEST_SUITE_P(Bases, GoldenAdapterTest, testing::ValuesIn(GoldenBases(kGolden)),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace lorad
