#include "scheduler/tuning/run_pass.h"

#include <utility>

#include "adapters/train/random_order.h"

namespace lorad {
namespace {

template <typename T>
std::vector<T> Slice(const std::vector<T>& of, size_t first, size_t count) {
  if (of.empty()) return {};
  const auto begin = of.begin() + static_cast<int64_t>(first);
  return {begin, begin + static_cast<int64_t>(count)};
}

size_t RowsOf(const std::vector<TrainSequence>& sequences) {
  size_t rows = 0;
  for (const TrainSequence& sequence : sequences) rows += sequence.token_ids.size();
  return rows;
}

// Nothing is learnt of the part: its rows only go through the model.
void Count(MicroBatchPart* part) {
  for (TrainSequence& sequence : part->sequences) sequence.targets.assign(sequence.targets.size(), kNotTrained);
  part->loss = RowLoss();
  part->loss.scale = 0.0;
  part->router_loss_scale = 0.0;
}

}  // namespace

void RunPass::Begin(const RunOp& op, const TrainingRun& run, int64_t rows) {
  Drop();
  begun_ = true;
  result_ = RunResult();
  if (run.has_router_loss()) result_.router_loss = 0.0;
  const bool in_one_batch =
      op.sequences.size() == 1 || static_cast<int64_t>(RowsOf(op.sequences)) * run.row_cost() <= rows;
  const bool is_one_part = op.sequences.size() == 1 || (in_one_batch && !run.draws());
  if (is_one_part || !run.balances_experts() || op.router_loss_weight == 0.0) return;
  tally_ = std::make_shared<RouterTally>();
  counting_ = !in_one_batch;
}

std::vector<MicroBatchPart> RunPass::Take(const RunOp& op, int64_t sequence, const TrainingRun& run, int64_t* rows) {
  if (!begun_) Begin(op, run, *rows);
  std::vector<MicroBatchPart> parts;
  size_t end = next_datum_;
  for (; end < op.sequences.size(); ++end) {
    const int64_t cost = static_cast<int64_t>(op.sequences[end].token_ids.size()) * run.row_cost();
    if ((!parts.empty() || end > next_datum_) && cost > *rows) break;
    *rows -= cost;
    if (run.draws()) parts.push_back(PartTo(end + 1, op, sequence, run));
  }
  if (!run.draws()) parts.push_back(PartTo(end, op, sequence, run));
  all_taken_ = next_datum_ == op.sequences.size();
  return parts;
}

// All parts together have the routers' loss once: with a tally each gives its share of it, else it is weighted by its
// share of the rows.
MicroBatchPart RunPass::PartTo(size_t end, const RunOp& op, int64_t sequence, const TrainingRun& run) {
  std::vector<TrainSequence> sequences = Slice(op.sequences, next_datum_, end - next_datum_);
  const size_t rows = RowsOf(sequences);
  Taken taken;
  for (const TrainSequence& of_part : sequences) taken.lengths.push_back(of_part.token_ids.size());
  const double share = static_cast<double>(rows) / static_cast<double>(RowsOf(op.sequences));
  taken.router_loss_weight = (tally_ == nullptr ? share : 1.0) * op.router_loss_weight.value_or(1.0);
  RowLoss loss = op.loss;
  loss.weights = Slice(op.loss.weights, next_row_, rows);
  loss.advantages = Slice(op.loss.advantages, next_row_, rows);
  loss.old_logprobs = Slice(op.loss.old_logprobs, next_row_, rows);
  const uint64_t draw = MixSeed(static_cast<uint64_t>(sequence), next_datum_);
  MicroBatchPart part = run.PartOf(std::move(sequences), std::move(loss), draw);
  part.router_loss_scale *= taken.router_loss_weight;
  part.router_tally = tally_;
  if (counting_) Count(&part);
  taken_.push_back(std::move(taken));
  next_datum_ = end;
  next_row_ += rows;
  return part;
}

std::optional<RunResult> RunPass::Put(const PartResult& result) {
  const Taken taken = std::move(taken_.front());
  taken_.pop_front();
  const bool ended = all_taken_ && taken_.empty();
  if (counting_) {
    if (!ended) return std::nullopt;
    tally_->complete = true;
    counting_ = false;
    next_datum_ = next_row_ = 0;
    return std::nullopt;
  }
  result_.loss += result.loss_sum;
  if (result_.router_loss.has_value()) *result_.router_loss += taken.router_loss_weight * result.router_loss;
  size_t first = 0;
  for (const size_t length : taken.lengths) {
    result_.logprobs.push_back(Slice(result.logprobs, first, length));
    first += length;
  }
  if (!ended) return std::nullopt;
  begun_ = false;
  return std::move(result_);
}

void RunPass::Drop() {
  begun_ = counting_ = false;
  tally_.reset();
  next_datum_ = next_row_ = 0;
  taken_.clear();
}

}  // namespace lorad
