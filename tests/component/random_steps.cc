#include "tests/component/random_steps.h"

#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <utility>

#include "model/base/check.h"
#include "model/sampler/sampler.h"

namespace lorad {

struct StepDriver::Running {
  explicit Running(const Generation& g) : generation(&g), ids(g.prompt) {}

  const Generation* generation;
  std::vector<int32_t> ids;  // prompt, then generated
  std::vector<PageRun> blocks;
  int64_t computed = 0;
  Answer answer;
  bool failed = false;

  int64_t pending() const { return static_cast<int64_t>(ids.size()) - computed; }
  bool ended() const {
    const auto tokens = static_cast<int64_t>(answer.tokens.size());
    return failed || tokens == generation->sampling.max_tokens || tokens == generation->cancel_at_tokens;
  }
};

// Part of a step.
struct StepDriver::Row {
  Running* running;
  int64_t tokens;
  bool samples() const { return tokens == running->pending(); }
};

namespace {

at::Tensor Int32(const std::vector<int32_t>& values) { return at::tensor(values, at::TensorOptions().dtype(at::kInt)); }

bool SameTerms(const std::vector<SlotTerm>& a, const std::vector<SlotTerm>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const SlotTerm& x, const SlotTerm& y) { return x.slot == y.slot && x.scale == y.scale; });
}

// Appends rows, or lengthens the last segment when that has the same terms.
void Append(int64_t rows, const std::vector<SlotTerm>& terms, bool merge, RowSegments* segments) {
  if (rows == 0) return;
  const int32_t end = segments->starts.back() + static_cast<int32_t>(rows);
  if (merge && segments->groups() > 0) {
    const auto first = segments->terms.begin() + segments->term_starts[segments->term_starts.size() - 2];
    if (SameTerms({first, segments->terms.end()}, terms)) {
      segments->starts.back() = end;
      return;
    }
  }
  segments->starts.push_back(end);
  segments->terms.insert(segments->terms.end(), terms.begin(), terms.end());
  segments->term_starts.push_back(static_cast<int32_t>(segments->terms.size()));
}

}  // namespace

void StepDriver::GrowTo(Running* running, int64_t tokens) {
  const int64_t pages_per_block = pages_->PagesFor(model_->kv_layout().block_bytes());
  while (static_cast<int64_t>(running->blocks.size()) * kKvBlockTokens < tokens) {
    absl::StatusOr<PageRun> block = pages_->Reserve(pages_per_block, PageOwner::kKv);
    LORAD_CHECK(block.ok());
    std::memset(block->data(), 0xFF, static_cast<size_t>(pages_per_block * pages_->page_bytes()));
    running->blocks.push_back(*std::move(block));
  }
}

absl::StatusOr<at::Tensor> StepDriver::Forward(const std::vector<Row>& rows, bool merge_segments) {
  std::vector<int32_t> ids, positions, cu_rows = {0}, kv_slots, logit_rows;
  ForwardBatch batch;
  size_t width = 0;
  for (const Row& row : rows) {
    Running& running = *row.running;
    const int64_t end = running.computed + row.tokens;
    GrowTo(&running, end);
    for (int64_t position = running.computed; position < end; ++position) {
      const PageRun& block = running.blocks[static_cast<size_t>(position / kKvBlockTokens)];
      ids.push_back(running.ids[static_cast<size_t>(position)]);
      positions.push_back(static_cast<int32_t>(position));
      kv_slots.push_back(static_cast<int32_t>(block.first_page() * kKvBlockTokens + position % kKvBlockTokens));
    }
    cu_rows.push_back(static_cast<int32_t>(ids.size()));
    if (row.samples()) logit_rows.push_back(cu_rows.back() - 1);
    Append(row.tokens, running.generation->terms, merge_segments, &batch.rows);
    Append(row.samples() ? 1 : 0, running.generation->terms, merge_segments, &batch.head_rows);
    batch.max_context_tokens = std::max(batch.max_context_tokens, end);
    width = std::max(width, running.blocks.size());
  }
  std::vector<int32_t> table;
  for (const Row& row : rows) {
    for (const PageRun& block : row.running->blocks) table.push_back(static_cast<int32_t>(block.first_page()));
    table.resize((table.size() + width - 1) / width * width, -1);
  }
  batch.token_ids = Int32(ids);
  batch.positions = Int32(positions);
  batch.cu_rows = Int32(cu_rows);
  batch.kv_slots = Int32(kv_slots);
  batch.block_table = Int32(table).view({static_cast<int64_t>(rows.size()), static_cast<int64_t>(width)});
  batch.logit_rows = Int32(logit_rows);
  return model_->Forward(batch, {pages_->arena(), pages_->page_bytes(), model_->kv_layout()}, *seam_);
}

void StepDriver::Step(const std::vector<Row>& rows, bool merge_segments) {
  const absl::StatusOr<at::Tensor> logits = Forward(rows, merge_segments);
  ASSERT_TRUE(logits.ok()) << logits.status();
  std::vector<SampleRow> samples;
  std::vector<Running*> sampled;
  for (const Row& row : rows) {
    Running& running = *row.running;
    if (row.samples()) {
      const Generation& generation = *running.generation;
      samples.push_back({.logit_row = static_cast<int64_t>(samples.size()),
                         .options = &generation.sampling,
                         .prompt_ids = generation.prompt,
                         .generated_ids = absl::MakeConstSpan(running.ids).subspan(generation.prompt.size()),
                         .banned_ids = {}});
      sampled.push_back(&running);
    }
    running.computed += row.tokens;
  }
  SampleResult result = Sample(*logits, samples);
  for (size_t i = 0; i < sampled.size(); ++i) {
    sampled[i]->failed = !result.errors[i].ok();
    ASSERT_EQ(sampled[i]->failed, sampled[i]->generation->poisoned) << result.errors[i];
    if (sampled[i]->failed) continue;
    sampled[i]->ids.push_back(result.tokens[i].token_id);
    sampled[i]->answer.tokens.push_back(std::move(result.tokens[i]));
  }
}

Answer StepDriver::RunAlone(const Generation& generation) {
  Running running(generation);
  while (!running.ended() && !testing::Test::HasFatalFailure()) {
    Step({{&running, running.pending()}}, /*merge_segments=*/true);
  }
  return std::move(running.answer);
}

std::vector<Answer> StepDriver::RunInRandomSteps(const std::vector<Generation>& generations, Rng& rng) {
  const int64_t budget = Pick(rng, 1, 60);
  const bool merge_segments = Chance(rng, 0.5);
  std::deque<Running> all;
  for (const Generation& generation : generations) all.emplace_back(generation);
  std::vector<Running*> active;
  size_t joined = 0;
  while ((joined < all.size() || !active.empty()) && !testing::Test::HasFatalFailure()) {
    while (joined < all.size() && (active.empty() || Chance(rng, 0.3))) active.push_back(&all[joined++]);
    std::shuffle(active.begin(), active.end(), rng);
    std::vector<Row> rows;
    int64_t left = budget;
    for (Running* running : active) {
      if (left == 0 || Chance(rng, 0.1)) continue;
      const int64_t most = std::min(left, running->pending());
      const int64_t tokens = Chance(rng, 0.5) ? most : Pick(rng, 1, most);
      rows.push_back({running, tokens});
      left -= tokens;
    }
    if (rows.empty()) continue;
    Step(rows, merge_segments);
    for (Running* running : active) {
      if (running->ended()) running->blocks.clear();
    }
    std::erase_if(active, [](const Running* running) { return running->ended(); });
    if (Chance(rng, 0.2)) {
      pages_->Compact(Pick(rng, 1, 64) * pages_->page_bytes(), [](PageOwner) {});
      if (adapters_ != nullptr) adapters_->RefreshAddresses();
    }
  }
  std::vector<Answer> answers;
  for (Running& running : all) answers.push_back(std::move(running.answer));
  return answers;
}

at::Tensor StepDriver::OneStep(const std::vector<Generation>& generations) {
  std::deque<Running> all;
  std::vector<Row> rows;
  for (const Generation& generation : generations) {
    all.emplace_back(generation);
    rows.push_back({&all.back(), all.back().pending()});
  }
  absl::StatusOr<at::Tensor> logits = Forward(rows, /*merge_segments=*/true);
  EXPECT_TRUE(logits.ok()) << logits.status();
  return logits.ok() ? *std::move(logits) : at::Tensor();
}

}  // namespace lorad
