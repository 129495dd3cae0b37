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

}  // namespace

std::vector<MicroBatchPart> RunPass::Take(const RunOp& op, int64_t sequence, const TrainingRun& run, int64_t* rows) {
  if (next_datum_ == 0) {
    next_row_ = 0;
    result_ = RunResult();
    if (run.has_router_loss()) result_.router_loss = 0.0;
  }
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

// The routers' loss of a part is weighted by its share of the rows, so that all parts together count once.
MicroBatchPart RunPass::PartTo(size_t end, const RunOp& op, int64_t sequence, const TrainingRun& run) {
  std::vector<TrainSequence> sequences = Slice(op.sequences, next_datum_, end - next_datum_);
  const size_t rows = RowsOf(sequences);
  Taken taken;
  for (const TrainSequence& of_part : sequences) taken.lengths.push_back(of_part.token_ids.size());
  const double share = static_cast<double>(rows) / static_cast<double>(RowsOf(op.sequences));
  taken.router_loss_weight = share * op.router_loss_weight.value_or(1.0);
  RowLoss loss = op.loss;
  loss.weights = Slice(op.loss.weights, next_row_, rows);
  loss.advantages = Slice(op.loss.advantages, next_row_, rows);
  loss.old_logprobs = Slice(op.loss.old_logprobs, next_row_, rows);
  const uint64_t draw = MixSeed(static_cast<uint64_t>(sequence), next_datum_);
  MicroBatchPart part = run.PartOf(std::move(sequences), std::move(loss), draw);
  part.router_loss_scale *= taken.router_loss_weight;
  taken_.push_back(std::move(taken));
  next_datum_ = end;
  next_row_ += rows;
  return part;
}

std::optional<RunResult> RunPass::Put(const PartResult& result) {
  const Taken taken = std::move(taken_.front());
  taken_.pop_front();
  result_.loss += result.loss_sum;
  if (result_.router_loss.has_value()) *result_.router_loss += taken.router_loss_weight * result.router_loss;
  size_t first = 0;
  for (const size_t length : taken.lengths) {
    result_.logprobs.push_back(Slice(result.logprobs, first, length));
    first += length;
  }
  if (!all_taken_ || !taken_.empty()) return std::nullopt;
  next_datum_ = 0;
  return std::move(result_);
}

void RunPass::Drop() {
  next_datum_ = 0;
  taken_.clear();
}

}  // namespace lorad
