#include "tests/component/alone.h"

#include <gtest/gtest.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "model/base/check.h"
#include "tests/component/golden_base.h"

namespace lorad {

std::string AdapterDir(const std::string& base, const std::string& variant) {
  return absl::StrCat(GoldenDir(base), "/adapters/", variant);
}

Answer AnswerOf(const Recording& recording, int32_t index) {
  const Recording::Sequence& sequence = recording.sequences()[static_cast<size_t>(index)];
  return {.tokens = sequence.tokens, .prompt_logprobs = sequence.prompt_logprobs};
}

bool MarginsCount(const SamplingOptions& sampling) {
  return sampling.temperature == 0.0f && sampling.repetition_penalty == 1.0f && sampling.presence_penalty == 0.0f &&
         sampling.frequency_penalty == 0.0f && sampling.logit_bias.empty();
}

namespace {

EngineSetup AloneSetup() {
  EngineSetup setup;
  setup.pool_bytes = int64_t{256} << 20;
  setup.engine.prefix_cache = false;  // every answer is computed from its first token on
  return setup;
}

}  // namespace

AloneRunner::AloneRunner(const std::string& base)
    : engine_(&GoldenBase(base), GoldenDir(base) + "/model", AloneSetup()) {}

Answer AloneRunner::Run(Request request, int32_t index, const std::string& path) {
  request.adapter = path.empty() ? "" : NameOf(path);
  request.n = 1;
  request.sampling.seed += static_cast<uint64_t>(index);
  request.priority = 0;
  request.deadline_us.reset();
  const std::shared_ptr<Recording> recording = engine_.Submit(std::move(request));
  engine_.RunUntilIdle();
  const std::optional<Finish>& finish = recording->sequences()[0].finish;
  EXPECT_TRUE(finish.has_value() && finish->status.ok() && finish->reason != FinishReason::kAbort)
      << "alone, with " << path;
  EXPECT_EQ(recording->broken_rule(), "");
  return AnswerOf(*recording, 0);
}

int64_t AloneRunner::PagesOf(const std::string& path) { return engine_.state().adapters.Current(NameOf(path))->pages; }

const std::string& AloneRunner::NameOf(const std::string& path) {
  const auto [entry, added] = names_.emplace(path, absl::StrCat("adapter-", names_.size()));
  if (added) {
    const CommandAnswer loaded = engine_.Load(entry->second, path);
    engine_.RunUntilIdle();
    LORAD_CHECK(loaded->has_value());
    EXPECT_TRUE((*loaded)->ok()) << **loaded;
  }
  return entry->second;
}

}  // namespace lorad
