#include "scheduler/tuning/run_pass.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "adapters/train/shared_batch.h"
#include "tests/support/status_matchers.h"
#include "tests/support/test_files.h"
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

PartResult ResultOf(const MicroBatchPart& part) {
  PartResult result;
  result.logprobs = part.loss.weights;  // so that each row can be told
  result.loss_sum = 1.0;
  return result;
}

class RunPassTest : public testing::Test {
 protected:
  std::unique_ptr<TrainingRun> MakeRun(double dropout) {
    TrainConfig config = SmallConfig(/*rank=*/2, /*steps=*/0);
    config.dropout = dropout;
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
        result_ = pass_.Put(ResultOf(part));
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

// What two calls, each followed by a step of plain gradient descent, gave.
struct Learnt {
  std::vector<double> losses, router_losses;
  std::string state;  // the run's, as a file
};

class CutTest : public RunPassTest {
 protected:
  // The operation `sequence`, at most `rows` at a time.
  RunResult Do(const RunOp& op, int64_t sequence, const TrainingRun& run, int64_t rows) {
    std::optional<RunResult> result;
    while (!result.has_value()) {
      int64_t left = rows;
      std::vector<BatchMember> members;
      for (MicroBatchPart& part : pass_.Take(op, sequence, run, &left)) {
        members.push_back({std::move(part), [&](const PartResult& of_part) { result = pass_.Put(of_part); }});
      }
      SharedBatch batch(base_.model.get(), {}, std::move(members));
      absl::StatusOr<bool> ended = false;
      while (ended.ok() && !*ended) ended = batch.Advance();
      EXPECT_THAT(ended, IsOk());
      if (!ended.ok()) return {};
    }
    return *result;
  }

  Learnt Learn(TrainConfig config, double router_loss_weight, int64_t rows) {
    RunOp op = FourSequences();
    op.loss.weights.assign(op.loss.weights.size(), 0.1f);
    op.router_loss_weight = router_loss_weight;
    config.optimizer = {.kind = OptimizerKind::kSgd, .learning_rate = 0.1, .max_grad_norm = 0.0};
    const auto run = TrainingRun::Create(config, base_.model.get(), base_.tables);
    EXPECT_THAT(run, IsOk());
    Learnt learnt;
    for (const int64_t sequence : {1, 2}) {  // B is zero at first
      const RunResult result = Do(op, sequence, **run, rows);
      learnt.losses.push_back(result.loss);
      learnt.router_losses.push_back(result.router_loss.value_or(0.0));
      EXPECT_THAT((*run)->OptimStep(config.optimizer), IsOk());
    }
    EXPECT_THAT((*run)->SaveState(dir_.File("state")), IsOk());
    learnt.state = ReadFile(dir_.File("state"));
    return learnt;
  }

  const TempDir dir_;
};

// Of a safetensors file, all f32.
std::vector<float> FloatsOf(const std::string& file) {
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, file.data(), sizeof(header_bytes));
  const std::string data = file.substr(sizeof(header_bytes) + header_bytes);
  std::vector<float> floats(data.size() / sizeof(float));
  std::memcpy(floats.data(), data.data(), floats.size() * sizeof(float));
  return floats;
}

void ExpectSame(const Learnt& cut, const Learnt& whole) {
  constexpr double kTolerance = 1e-6;
  for (size_t i = 0; i < whole.losses.size(); ++i) {
    EXPECT_NEAR(cut.losses[i], whole.losses[i], kTolerance * whole.losses[i]);
    EXPECT_NEAR(cut.router_losses[i], whole.router_losses[i], kTolerance * whole.router_losses[i]);
  }
  const std::vector<float> expected = FloatsOf(whole.state), got = FloatsOf(cut.state);
  ASSERT_EQ(got.size(), expected.size());
  double largest = 0, difference = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    largest = std::max<double>(largest, std::abs(expected[i]));
    difference = std::max<double>(difference, std::abs(got[i] - expected[i]));
  }
  EXPECT_LE(difference, kTolerance * largest);
}

// The loss of how rows are dealt is a product of two means over all of a call's rows: of parts by themselves it would
// be another.
TEST_F(CutTest, LossesAndGradientsOfRoutersAreThoseOfTheUncutOperation) {
  for (const char* kind : {"mixlora", "mixlora-dynamic", "mixlora-switch", "mola"}) {
    for (const double drawn : {0.0, 0.2}) {
      TrainConfig config = SmallConfig(/*rank=*/2, /*steps=*/0);
      config.routed = SmallRouting(kind);
      config.routed->expert_dropout = config.routed->jitter_noise = config.dropout = drawn;
      const Learnt whole = Learn(config, /*router_loss_weight=*/0.5, kAllRows);
      EXPECT_GT(whole.router_losses[1], 0.0);
      for (const int64_t rows : {8, 5, 1}) {
        SCOPED_TRACE(absl::StrCat(kind, ", drawn ", drawn, ", rows ", rows));
        ExpectSame(Learn(config, 0.5, rows), whole);
      }
    }
  }
}

// What is no product, the mean of the routers' squares, needs no second forward.
TEST_F(CutTest, AMeanOverRowsIsWeightedByThem) {
  TrainConfig config = SmallConfig(/*rank=*/2, /*steps=*/0);
  config.routed = SmallRouting("mixlora-switch");
  config.routed->aux_loss_coef = 0.0;
  config.routed->z_loss_coef = 1.0;
  const Learnt whole = Learn(config, 0.5, kAllRows);
  for (const int64_t rows : {8, 5, 1}) ExpectSame(Learn(config, 0.5, rows), whole);
  const auto run = TrainingRun::Create(config, base_.model.get(), base_.tables);
  ASSERT_THAT(run, IsOk());
  EXPECT_EQ(Cut(FourSequences(), 1, **run, 8).size(), 2u);
}

TEST_F(CutTest, NoiseIsOfSequenceNumberAndPlaceAlone) {
  TrainConfig config = SmallConfig(/*rank=*/2, /*steps=*/0);
  config.routed = SmallRouting("mixlora");
  const auto router_loss = [&](double noise, int64_t sequence) {
    config.routed->jitter_noise = noise;
    const auto run = TrainingRun::Create(config, base_.model.get(), base_.tables);
    EXPECT_THAT(run, IsOk());
    return Do(FourSequences(), sequence, **run, kAllRows).router_loss.value_or(0.0);
  };
  EXPECT_EQ(router_loss(0.0, 1), router_loss(0.0, 2));
  EXPECT_EQ(router_loss(0.3, 1), router_loss(0.3, 1));
  EXPECT_NE(router_loss(0.3, 1), router_loss(0.3, 2));
  EXPECT_NE(router_loss(0.3, 1), router_loss(0.0, 1));
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
