#include "tests/support/golden_runner.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <utility>

#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "model/base/check.h"
#include "model/base/status_macros.h"

namespace lorad {
namespace {

constexpr int64_t kPageBytes = 64;

struct Running {
  const GoldenCase* wanted;
  std::vector<SlotTerm> terms;
  std::vector<int32_t> ids;     // prompt and what was generated
  std::vector<int32_t> blocks;  // numbers of first pages
  GoldenScope scope;
  int64_t computed = 0;
  GoldenAnswer answer;

  bool done() const { return static_cast<int64_t>(answer.tokens.size()) == wanted->max_tokens; }
  int64_t prompt_size() const { return static_cast<int64_t>(wanted->prompt.size()); }
};

// Memory for the blocks of all requests, handed out in shuffled order, a page of waste between them.
class Arena final {
 public:
  Arena(const KvLayout& layout, int64_t at_least_blocks) {
    const int64_t pages_per_block = (layout.block_bytes() + kPageBytes - 1) / kPageBytes + 1;
    constexpr int64_t kStride = 7;  // coprime with the count: a permutation
    const int64_t num_blocks = at_least_blocks + (at_least_blocks % kStride == 0 ? 1 : 0);
    const int64_t bytes = num_blocks * pages_per_block * kPageBytes;
    bytes_.assign(static_cast<size_t>(bytes + kPageBytes), std::byte{0xFF});  // not a number in any dtype
    const uintptr_t misaligned = reinterpret_cast<uintptr_t>(bytes_.data()) % kPageBytes;
    view_ = {bytes_.data() + (kPageBytes - misaligned) % kPageBytes, kPageBytes, layout};
    for (int64_t i = 0; i < num_blocks; ++i) {
      free_.push_back(static_cast<int32_t>(i * kStride % num_blocks * pages_per_block));
    }
  }
  const KvView& view() const { return view_; }
  int32_t Take() {
    LORAD_CHECK(!free_.empty());
    const int32_t block = free_.back();
    free_.pop_back();
    return block;
  }

 private:
  std::vector<std::byte> bytes_;
  KvView view_;
  std::vector<int32_t> free_;
};

void AppendSegment(int64_t rows, const std::vector<SlotTerm>& terms, RowSegments* segments) {
  segments->starts.push_back(segments->starts.back() + static_cast<int32_t>(rows));
  segments->terms.insert(segments->terms.end(), terms.begin(), terms.end());
  segments->term_starts.push_back(static_cast<int32_t>(segments->terms.size()));
}

at::Tensor Int32(const std::vector<int32_t>& values) { return at::tensor(values, at::TensorOptions().dtype(at::kInt)); }

double Logprob(const float* logits, int64_t vocab, int32_t token) {
  const float largest = *std::max_element(logits, logits + vocab);
  double sum = 0;
  for (int64_t i = 0; i < vocab; ++i) sum += std::exp(static_cast<double>(logits[i]) - largest);
  return logits[token] - largest - std::log(sum);
}

// A step's rows as they are gathered, request by request.
struct StepRows {
  struct Want {
    Running* request;
    int64_t position;
  };
  std::vector<int32_t> ids, positions, cu_rows = {0}, slots, logit_rows;
  RowSegments rows, head_rows;
  std::vector<Running*> requests;
  std::vector<Want> wants;  // one per logit row
  std::vector<int64_t> sequence_tokens;
  int64_t max_context = 0;

  void Add(Running* request, int64_t count, bool every_row) {
    int64_t wanted = 0, wanted_before = 0;
    const int64_t before = std::clamp<int64_t>(request->scope.active_from - request->computed, 0, count);
    for (int64_t p = request->computed; p < request->computed + count; ++p) {
      const bool last = p + 1 == static_cast<int64_t>(request->ids.size());
      if (every_row || last) {
        logit_rows.push_back(static_cast<int32_t>(ids.size()));
        wants.push_back({request, p});
        ++wanted;
        wanted_before += p < request->scope.active_from;
      }
      ids.push_back(request->ids[p]);
      positions.push_back(static_cast<int32_t>(p));
      slots.push_back(static_cast<int32_t>(request->blocks[p / kKvBlockTokens] * kKvBlockTokens + p % kKvBlockTokens));
    }
    cu_rows.push_back(static_cast<int32_t>(ids.size()));
    AppendSegment(before, {}, &rows);
    AppendSegment(count - before, request->terms, &rows);
    AppendSegment(wanted_before, {}, &head_rows);
    AppendSegment(wanted - wanted_before, request->terms, &head_rows);
    requests.push_back(request);
    sequence_tokens.push_back(static_cast<int64_t>(request->ids.size()));
    request->computed += count;
    max_context = std::max(max_context, request->computed);
  }

  ForwardBatch Batch() const {
    size_t width = 0;
    for (const Running* request : requests) width = std::max(width, request->blocks.size());
    std::vector<int32_t> table(requests.size() * width, -1);
    for (size_t s = 0; s < requests.size(); ++s) {
      std::copy(requests[s]->blocks.begin(), requests[s]->blocks.end(),
                table.begin() + static_cast<int64_t>(s * width));
    }
    return {Int32(ids),
            Int32(positions),
            Int32(cu_rows),
            Int32(slots),
            Int32(table).view({static_cast<int64_t>(requests.size()), static_cast<int64_t>(width)}),
            Int32(logit_rows),
            rows,
            head_rows,
            max_context,
            sequence_tokens};
  }
};

absl::Status RunStep(CausalLm& model, AdapterSeam& seam, const GoldenSchedule& schedule,
                     const std::vector<Running*>& active, Arena& arena) {
  StepRows step;
  for (Running* request : active) {
    int64_t count = static_cast<int64_t>(request->ids.size()) - request->computed;
    if (schedule.chunk_tokens > 0) count = std::min(count, schedule.chunk_tokens);
    while (static_cast<int64_t>(request->blocks.size()) * kKvBlockTokens < request->computed + count) {
      request->blocks.push_back(arena.Take());
    }
    step.Add(request, count, schedule.every_row);
  }
  ASSIGN_OR_RETURN(const at::Tensor logits, model.Forward(step.Batch(), arena.view(), seam));
  LORAD_CHECK(logits.scalar_type() == at::kFloat && logits.size(0) == static_cast<int64_t>(step.wants.size()));
  for (size_t i = 0; i < step.wants.size(); ++i) {
    Running& request = *step.wants[i].request;
    const int64_t vocab = request.scope.vocab_size > 0 ? request.scope.vocab_size : model.config().vocab_size;
    const float* row = logits.const_data_ptr<float>() + static_cast<int64_t>(i) * logits.stride(0);
    const int64_t next = step.wants[i].position + 1;
    if (next < request.prompt_size()) {
      if (!request.answer.tokens.empty()) continue;  // computed again
      request.answer.prompt_logprobs.push_back(Logprob(row, vocab, request.ids[next]));
    } else if (next == static_cast<int64_t>(request.ids.size())) {
      const auto token = static_cast<int32_t>(std::max_element(row, row + vocab) - row);
      request.answer.tokens.push_back(token);
      request.answer.logprobs.push_back(Logprob(row, vocab, token));
      request.ids.push_back(token);
      const RopeSwitch& rope = model.config().rope_switch;
      if (rope.VariantOf(next + 1) != rope.VariantOf(next)) request.computed = 0;
    }
  }
  return absl::OkStatus();
}

}  // namespace

std::vector<GoldenCase> ReadGoldenCases(const std::string& path) {
  std::ifstream in(path);
  LORAD_CHECK(in.good());
  const nlohmann::json json = nlohmann::json::parse(in, nullptr, /*allow_exceptions=*/false);
  LORAD_CHECK(json.is_array() && !json.empty());
  std::vector<GoldenCase> cases;
  for (const nlohmann::json& item : json) {
    GoldenCase golden;
    golden.name = item["name"];
    golden.adapter = item["adapter"];
    golden.expect = item.value("expect", "");
    for (const nlohmann::json& adapter : item.value("adapters", nlohmann::json::array())) {
      golden.composition.emplace_back(adapter["name"], adapter["scale"]);
    }
    golden.prompt = item["prompt"].get<std::vector<int32_t>>();
    golden.max_tokens = item["max_tokens"];
    golden.tokens = item["tokens"].get<std::vector<int32_t>>();
    golden.logprobs = item["logprobs"].get<std::vector<double>>();
    golden.prompt_logprobs = item["prompt_logprobs"].get<std::vector<double>>();
    cases.push_back(std::move(golden));
  }
  return cases;
}

std::vector<GoldenCase> ReadGoldenCompositions(const std::string& base_dir) {
  const std::string path = base_dir + "/compositions.json";
  return std::filesystem::exists(path) ? ReadGoldenCases(path) : std::vector<GoldenCase>();
}

std::vector<std::pair<std::string, float>> AdaptersOf(const GoldenCase& golden) {
  if (!golden.composition.empty()) return golden.composition;
  if (golden.adapter.empty()) return {};
  return {{golden.adapter, 1.0f}};
}

std::vector<std::string> GoldenBases(const std::string& golden_dir) {
  std::vector<std::string> bases;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(golden_dir, error)) {
    // Other goldens, have cases too.
    const bool is_base =
        std::filesystem::exists(entry.path() / "model") || std::filesystem::exists(entry.path() / "adapters");
    if (is_base && std::filesystem::exists(entry.path() / "cases.json")) {
      bases.push_back(entry.path().filename().string());
    }
  }
  LORAD_CHECK(!error && !bases.empty());
  std::sort(bases.begin(), bases.end());
  return bases;
}

absl::StatusOr<std::vector<GoldenAnswer>> RunGolden(CausalLm& model, AdapterSeam& seam,
                                                    const std::vector<GoldenCase>& cases, const TermsOf& terms_of,
                                                    const GoldenSchedule& schedule, const ScopeOf& scope_of) {
  std::vector<Running> running;
  int64_t blocks = 1;
  for (const GoldenCase& golden : cases) {
    const GoldenScope scope = scope_of == nullptr ? GoldenScope() : scope_of(golden);
    running.push_back({&golden, terms_of(golden), golden.prompt, {}, scope, 0, {}});
    blocks += (static_cast<int64_t>(golden.prompt.size()) + golden.max_tokens) / kKvBlockTokens + 1;
  }
  Arena arena(model.kv_layout(), blocks);
  for (int64_t step = 0;; ++step) {
    std::vector<Running*> active;
    bool waiting = false;
    for (size_t i = 0; i < running.size(); ++i) {
      if (running[i].done()) continue;
      const bool joined =
          schedule.join_every_steps < 0 ? active.empty() : static_cast<int64_t>(i) * schedule.join_every_steps <= step;
      if (joined) active.push_back(&running[i]);
      waiting |= !joined;
    }
    if (active.empty() && !waiting) break;
    if (!active.empty()) RETURN_IF_ERROR(RunStep(model, seam, schedule, active, arena));
  }
  std::vector<GoldenAnswer> answers;
  for (Running& request : running) answers.push_back(std::move(request.answer));
  return answers;
}

void ExpectGolden(const GoldenCase& expected, const GoldenAnswer& answer, double tolerance) {
  SCOPED_TRACE(expected.name + (expected.adapter.empty() ? "" : " with " + expected.adapter));
  EXPECT_EQ(answer.tokens, expected.tokens);
  const auto expect_near = [&](const std::vector<double>& wanted, const std::vector<double>& found, const char* what) {
    ASSERT_EQ(found.size(), wanted.size()) << what;
    for (size_t i = 0; i < wanted.size(); ++i) EXPECT_NEAR(found[i], wanted[i], tolerance) << what << " " << i;
  };
  expect_near(expected.logprobs, answer.logprobs, "logprob");
  if (!answer.prompt_logprobs.empty()) expect_near(expected.prompt_logprobs, answer.prompt_logprobs, "prompt logprob");
}

}  // namespace lorad
