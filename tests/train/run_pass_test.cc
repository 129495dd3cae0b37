#include "scheduler/tuning/run_pass.h"

#include <map>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "adapters/train/shared_batch.h"
#include "tests/support/status_matchers.h"
#include "tests/train/train_fixture.h"

namespace lorad {
namespace {

constexpr int64_t kAllRows = 1000;

// Sequences of 3, 5, 2 and 4 rows, each told by its first token.
RunOp FourSequences() {
  RunOp op;
  for (const int32_t rows : {3, 5, 2, 4}) {
    const std::vector<int32_t> tokens(static_cast<size_t>(rows), rows);
    op.sequences.push_back({tokens, tokens});
    for (int32_t row = 0; row < rows; ++row) op.loss.weights.push_back(static_cast<float>(10 * rows + row));
  }
  return op;
}

PartResult ResultOf(const MicroBatchPart& part, double router_loss) {
  PartResult result;
  result.logprobs = part.loss.weights;  // so that each row can be told
  result.loss_sum = 1.0;
  result.router_loss = router_loss;
  return result;
}

class RunPassTest : public testing::Test {
 protected:
  std::unique_ptr<TrainingRun> MakeRun(double dropout, const char* kind = nullptr) {
    TrainConfig config = SmallConfig(/*rank=*/2, /*steps=*/0);
    config.dropout = dropout;
    if (kind != nullptr) config.routed = SmallRouting(kind);
    auto run = TrainingRun::Create(config, base_.model.get(), base_.tables);
    EXPECT_THAT(run, IsOk());
    return *std::move(run);
  }

  // All parts of the operation, at most `rows` at a time, and what it gave.
  std::vector<MicroBatchPart> Cut(const RunOp& op, int64_t sequence, const TrainingRun& run, int64_t rows) {
    std::vector<MicroBatchPart> all;
    result_.reset();
    while (!result_.has_value()) {
      int64_t left = rows;
      for (MicroBatchPart& part : pass_.Take(op, sequence, run, &left)) {
        EXPECT_FALSE(result_.has_value());
        result_ = pass_.Put(ResultOf(part, /*router_loss=*/2.0));
        all.push_back(std::move(part));
      }
    }
    return all;
  }

  const TrainBase base_ = LoadTrainBase("llama3");
  RunPass pass_;
  std::optional<RunResult> result_;
};

TEST_F(RunPassTest, EachRowHasItsOwnWeightAndAnswerHoweverItIsCut) {
  const RunOp op = FourSequences();
  const auto run = MakeRun(/*dropout=*/0.0);
  const std::map<int64_t, size_t> parts_by_rows = {{kAllRows, 1}, {8, 2}, {5, 4}, {1, 4}};
  for (const auto& [rows, parts] : parts_by_rows) {
    EXPECT_EQ(Cut(op, /*sequence=*/1, *run, rows).size(), parts) << rows;
    ASSERT_EQ(result_->logprobs.size(), op.sequences.size());
    std::vector<float> joined;
    for (size_t i = 0; i < op.sequences.size(); ++i) {
      EXPECT_EQ(result_->logprobs[i].size(), op.sequences[i].token_ids.size());
      joined.insert(joined.end(), result_->logprobs[i].begin(), result_->logprobs[i].end());
    }
    EXPECT_EQ(joined, op.loss.weights);
    EXPECT_FALSE(result_->router_loss.has_value());
  }
}

TEST_F(RunPassTest, MasksAreOfSequenceNumberAndPlaceAlone) {
  const RunOp op = FourSequences();
  const auto run = MakeRun(/*dropout=*/0.1);
  const auto seeds = [&](int64_t sequence, int64_t rows) {
    std::map<int32_t, uint64_t> by_token;
    for (const MicroBatchPart& part : Cut(op, sequence, *run, rows)) {
      EXPECT_EQ(part.sequences.size(), 1u);
      EXPECT_EQ(part.dropout, 0.1);
      by_token[part.sequences[0].token_ids[0]] = part.dropout_seed;
    }
    return by_token;
  };
  const std::map<int32_t, uint64_t> whole = seeds(7, kAllRows);
  EXPECT_EQ(whole.size(), 4u);
  EXPECT_EQ(seeds(7, 5), whole);
  EXPECT_EQ(seeds(7, 1), whole);
  std::set<uint64_t> distinct;
  for (const int64_t sequence : {7, 8}) {
    for (const auto& [token, seed] : seeds(sequence, kAllRows)) distinct.insert(seed);
  }
  EXPECT_EQ(distinct.size(), 8u);
}

TEST_F(RunPassTest, PartsTogetherHaveTheRoutersLossOnceAtItsWeight) {
  RunOp op = FourSequences();
  op.router_loss_weight = 0.5;
  const auto run = MakeRun(/*dropout=*/0.0, "mixlora");
  for (const int64_t rows : {kAllRows, int64_t{5}}) {
    double scales = 0;
    for (const MicroBatchPart& part : Cut(op, 1, *run, rows)) scales += part.router_loss_scale;
    EXPECT_NEAR(scales, 0.5, 1e-12);
    EXPECT_NEAR(result_->router_loss.value_or(0), 0.5 * 2.0, 1e-12);
  }
}

// A weight of 0 leaves the routers' loss alone in the gradients, and of it what is a mean over rows: that does not
// depend on how the rows are cut. A gradient for each part would be up to four times it.
TEST_F(RunPassTest, GradientsOfTheRoutersLossAreThoseOfTheUncutOperation) {
  RunOp op = FourSequences();
  op.loss.weights.assign(op.loss.weights.size(), 0.0f);
  TrainConfig config = SmallConfig(/*rank=*/2, /*steps=*/0);
  config.routed = SmallRouting("mixlora-switch");
  config.routed->aux_loss_coef = 0.0;
  config.routed->z_loss_coef = 1.0;
  const auto run = TrainingRun::Create(config, base_.model.get(), base_.tables);
  ASSERT_THAT(run, IsOk());
  OptimizerConfig nothing_moves;
  nothing_moves.learning_rate = 0.0;
  const auto norm_of = [&](int64_t rows) -> absl::StatusOr<double> {
    std::optional<RunResult> result;
    while (!result.has_value()) {
      int64_t left = rows;
      std::vector<BatchMember> members;
      for (MicroBatchPart& part : pass_.Take(op, /*sequence=*/1, **run, &left)) {
        members.push_back({std::move(part), [&](const PartResult& of_part) { result = pass_.Put(of_part); }});
      }
      SharedBatch batch(base_.model.get(), {}, std::move(members));
      absl::StatusOr<bool> ended = false;
      while (ended.ok() && !*ended) ended = batch.Advance();
      if (!ended.ok()) return ended.status();
    }
    return (*run)->OptimStep(nothing_moves);
  };
  const absl::StatusOr<double> whole = norm_of(kAllRows);
  ASSERT_THAT(whole, IsOk());
  EXPECT_GT(*whole, 0.0);
  for (const int64_t rows : {8, 5, 1}) {
    const absl::StatusOr<double> cut = norm_of(rows);
    ASSERT_THAT(cut, IsOk());
    EXPECT_NEAR(*cut, *whole, 1e-4 * *whole) << rows;
  }
}

TEST_F(RunPassTest, AnOperationThatFailedMidwayIsForgotten) {
  const RunOp op = FourSequences();
  const auto run = MakeRun(/*dropout=*/0.1);
  int64_t rows = 8;
  ASSERT_EQ(pass_.Take(op, 1, *run, &rows).size(), 2u);
  pass_.Drop();
  EXPECT_EQ(Cut(op, 2, *run, kAllRows).size(), 4u);
  EXPECT_EQ(result_->logprobs.size(), 4u);
}

}  // namespace
}  // namespace lorad
