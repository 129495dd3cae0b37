#include "tests/component/random_batch.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/component/golden_base.h"

namespace lorad {
namespace {

constexpr int64_t kMostPromptTokens = 90;
constexpr int64_t kMostNewTokens = 48;

}  // namespace

RandomBatch::RandomBatch(const std::string& base, const std::vector<std::string>& folders, uint64_t seed,
                         AloneRunner* alone, const BatchDevice& device)
    : base_(base), alone_(alone), rng_(seed), vocab_(GoldenBase(base).config().vocab_size) {
  for (int64_t i = Pick(rng_, 1, 5); i > 0; --i) {
    paths_.push_back(folders[static_cast<size_t>(Pick(rng_, 0, static_cast<int64_t>(folders.size()) - 1))]);
  }
  std::vector<std::pair<std::string, std::shared_ptr<const AdapterImage>>> images;
  const BaseShape& shape = GoldenBase(base).base_shape();
  for (int64_t i = Pick(rng_, 0, 2); i > 0; --i) {
    images.emplace_back(absl::StrCat("image-", seed, "-", i), RandomAdapter(rng_, shape));
    alone->AddImage(images.back().first, images.back().second);
    paths_.push_back(images.back().first);
  }
  if (Chance(rng_, 0.3)) {
    nan_path_ = "image-of-nan";
    images.emplace_back(nan_path_, NanAdapter(shape, 4));
    alone->AddImage(nan_path_, images.back().second);
    paths_.push_back(nan_path_);
  }
  EngineSetup setup = RandomSetup();
  setup.device = device.memory;
  setup.graphs = device.graphs;
  CausalLm* const model = device.model == nullptr ? &GoldenBase(base) : device.model;
  engine_ = std::make_unique<SteppedEngine>(model, GoldenDir(base) + "/model", setup);
  for (const auto& [path, image] : images) engine_->AddImage(path, image);
  for (int64_t i = Pick(rng_, 1, 6); i > 0; --i) {
    adapters_.push_back(std::make_unique<Adapter>());
    adapters_.back()->name = absl::StrCat("name-", i);
  }
  for (int i = 0; i < 2; ++i) beginnings_.push_back(RandomPrompt(rng_, kMostPromptTokens, vocab_));
  for (int64_t i = Pick(rng_, 3, 16); i > 0; --i) to_come_.push_back(RandomRequest());
  arrivals_ = Chance(rng_, 0.5) ? 0.9 : 0.3;
  churn_ = Chance(rng_, 0.5) ? 0.1 : 0.0;
}

EngineSetup RandomBatch::RandomSetup() {
  EngineSetup setup;
  setup.engine.max_batch_tokens = Chance(rng_, 0.8) ? Pick(rng_, 7, 48) : Pick(rng_, 48, 300);
  setup.engine.max_sequences = Pick(rng_, 3, 16);
  setup.engine.max_overtakes = Pick(rng_, 0, 8);
  // Any one request fits beside any one adapter; two may not.
  int64_t adapter_pages = 0;
  for (const std::string& path : paths_) adapter_pages = std::max(adapter_pages, alone_->PagesOf(path));
  const int64_t block_bytes = GoldenBase(base_).kv_layout().block_bytes();
  const int64_t block_pages = (block_bytes + setup.page_bytes - 1) / setup.page_bytes;
  const int64_t request_pages =
      (kMostPromptTokens + kMostNewTokens + kKvBlockTokens - 1) / kKvBlockTokens * block_pages;
  const int64_t slack_pages = Chance(rng_, 0.2) ? 1000 : Pick(rng_, 0, adapter_pages + request_pages);
  setup.pool_bytes = (adapter_pages + request_pages + slack_pages) * setup.page_bytes;
  return setup;
}

Request RandomBatch::RandomRequest() {
  Request request;
  const int64_t prompt_tokens = Chance(rng_, 0.15) ? Pick(rng_, 40, kMostPromptTokens) : Pick(rng_, 1, 30);
  request.prompt_ids = PromptOf(prompt_tokens);
  while (Chance(rng_, 0.3)) Invoke(&request.prompt_ids);
  request.priority = static_cast<int32_t>(Chance(rng_, 0.8) ? 0 : Pick(rng_, -1, 1));
  SamplingOptions& sampling = request.sampling;
  sampling.max_tokens = Chance(rng_, 0.3) ? Pick(rng_, 16, kMostNewTokens) : Pick(rng_, 1, 16);
  sampling.logprobs = 2;
  sampling.temperature = 0.0f;
  if (Chance(rng_, 0.25)) {
    sampling.temperature = 0.9f;
    sampling.top_p = 0.95f;
    sampling.seed = rng_();
    request.n = static_cast<int32_t>(Pick(rng_, 1, 3));
  }
  if (Chance(rng_, 0.25)) sampling.prompt_logprobs = 0;
  if (Chance(rng_, 0.1)) sampling.repetition_penalty = 1.3f;
  if (Chance(rng_, 0.1)) sampling.frequency_penalty = 0.5f;
  if (Chance(rng_, 0.2)) {  // ends early, and not before min_tokens
    sampling.stop_token_ids = RandomPrompt(rng_, vocab_ / 8, vocab_);
    sampling.min_tokens = Pick(rng_, 0, sampling.max_tokens - 1);
  }
  return request;
}

// Half of them begin like others do, for as long as it takes.
std::vector<int32_t> RandomBatch::PromptOf(int64_t tokens) {
  std::vector<int32_t> prompt = RandomPrompt(rng_, tokens, vocab_);
  if (Chance(rng_, 0.5)) return prompt;
  const std::vector<int32_t>& beginning = beginnings_[static_cast<size_t>(Pick(rng_, 0, 1))];
  prompt.insert(prompt.begin(), beginning.begin(),
                beginning.begin() + Pick(rng_, 16, static_cast<int64_t>(beginning.size())));
  prompt.resize(std::min<size_t>(prompt.size(), kMostPromptTokens));
  return prompt;
}

void RandomBatch::Invoke(std::vector<int32_t>* prompt) {
  constexpr int32_t kInvocation[] = {7, 19, 7};  // of the aLoRAs in tests/golden
  const int64_t places = static_cast<int64_t>(prompt->size()) - std::ssize(kInvocation);
  if (places >= 0) std::copy(std::begin(kInvocation), std::end(kInvocation), prompt->begin() + Pick(rng_, 0, places));
}

const std::string& RandomBatch::AnyPath() {
  return paths_[static_cast<size_t>(Pick(rng_, 0, static_cast<int64_t>(paths_.size()) - 1))];
}

void RandomBatch::Submit() {
  Live live;
  live.request = std::move(to_come_.back());
  to_come_.pop_back();
  if (Chance(rng_, 0.75)) {
    live.adapter = adapters_[static_cast<size_t>(Pick(rng_, 0, static_cast<int64_t>(adapters_.size()) - 1))].get();
    live.request.adapter = live.adapter->name;
    if (!live.adapter->path.empty()) live.paths.push_back(live.adapter->path);
    if (!live.adapter->next_path.empty()) live.paths.push_back(live.adapter->next_path);
    live.may_be_refused = live.adapter->path.empty();
  } else {
    live.paths.push_back("");
  }
  if (Chance(rng_, 0.08)) {
    live.request.deadline_us = engine_->clock().NowUs() + Pick(rng_, 0, 40'000);
    live.may_end_early = true;
  }
  live.recording = engine_->Submit(live.request);
  live.id = engine_->last_request();
  live_.push_back(std::move(live));
}

void RandomBatch::CancelOne() {
  if (live_.empty()) return;
  Live& live = live_[static_cast<size_t>(Pick(rng_, 0, static_cast<int64_t>(live_.size()) - 1))];
  if (!live.recording->finished()) live.may_end_early = true;
  engine_->Cancel(live.id);
}

void RandomBatch::ChangeAdapter() {
  Adapter& adapter = *adapters_[static_cast<size_t>(Pick(rng_, 0, static_cast<int64_t>(adapters_.size()) - 1))];
  if (adapter.path.empty()) {
    adapter.path = AnyPath();
    adapter.load = engine_->Load(adapter.name, adapter.path);
  } else if (Chance(rng_, 0.4)) {
    Unload(&adapter);
  } else if (adapter.next_path.empty()) {
    adapter.next_path = AnyPath();
    adapter.replacement = engine_->Load(adapter.name, adapter.next_path, /*replace=*/true);
  }
}

void RandomBatch::Unload(Adapter* adapter) {
  const bool known = adapter->load->has_value();
  for (Live& live : live_) live.may_be_refused |= live.adapter == adapter && !known;
  adapter->path.clear();
  adapter->next_path.clear();
  engine_->Unload(adapter->name);
  ++unloaded_;
}

void RandomBatch::NoteAnswers() {
  for (const auto& adapter : adapters_) {
    if (adapter->next_path.empty() || !adapter->replacement->has_value()) continue;
    if ((*adapter->replacement)->ok()) {
      adapter->path = adapter->next_path;
      ++replaced_;
    } else {  // the name's first load was still under way
      EXPECT_EQ((*adapter->replacement)->code(), absl::StatusCode::kFailedPrecondition) << **adapter->replacement;
    }
    adapter->next_path.clear();
  }
}

bool RandomBatch::Finished() const {
  return to_come_.empty() &&
         std::all_of(live_.begin(), live_.end(), [](const Live& live) { return live.recording->finished(); });
}

void RandomBatch::Run(BatchedEqualsAlone* compared, BatchCounts* counts) {
  for (const auto& adapter : adapters_) {
    if (Chance(rng_, 0.1)) continue;  // its first requests are NOT_FOUND
    adapter->path = AnyPath();
    adapter->load = engine_->Load(adapter->name, adapter->path);
  }
  constexpr int kMostTurns = 3000;
  for (int turn = 0; turn < kMostTurns && !Finished() && !testing::Test::HasFailure(); ++turn) {
    if (!to_come_.empty() && Chance(rng_, arrivals_)) Submit();
    if (Chance(rng_, 0.03)) CancelOne();
    if (Chance(rng_, churn_)) ChangeAdapter();
    if (Chance(rng_, 0.3)) engine_->DeliverLoaderEvent(rng_());
    engine_->Turn();
    NoteAnswers();
  }
  engine_->RunUntilIdle();
  for (const Live& live : live_) Check(live, compared, counts);
  ExpectEmpty();
  const CountingObserver& seen = engine_->parts().observer;
  ++counts->batches;
  counts->mixed_steps += seen.mixed_steps;
  counts->preemptions += seen.preemptions;
  counts->evictions += seen.evictions;
  counts->most_adapters = std::max(counts->most_adapters, seen.most_adapters);
  counts->replaced += replaced_;
  counts->unloaded += unloaded_;
  for (const auto& [how, steps] : seen.device_steps) counts->device_steps[how] += steps;
}

void RandomBatch::ExpectEmpty() {
  EXPECT_EQ(engine_->parts().pages->used_pages(PageOwner::kKv), engine_->state().prefix_cache->idle_pages());
  std::vector<CommandAnswer> unloads;
  for (const auto& adapter : adapters_) {
    if (!adapter->path.empty()) unloads.push_back(engine_->Unload(adapter->name));
  }
  engine_->RunUntilIdle();
  for (const CommandAnswer& unload : unloads) EXPECT_TRUE(unload->has_value() && (*unload)->ok());
  // What the base has cached is all that is left.
  EXPECT_EQ(engine_->parts().pages->free_pages() + engine_->state().prefix_cache->idle_pages(),
            engine_->parts().pages->total_pages());
}

void RandomBatch::Check(const Live& live, BatchedEqualsAlone* compared, BatchCounts* counts) {
  ASSERT_TRUE(live.recording->finished()) << "request " << live.id;
  EXPECT_EQ(live.recording->broken_rule(), "") << "request " << live.id;
  const bool poisoned =
      !nan_path_.empty() && std::find(live.paths.begin(), live.paths.end(), nan_path_) != live.paths.end();
  for (int32_t index = 0; index < live.request.n; ++index) {
    SCOPED_TRACE(absl::StrCat("request ", live.id, ", sequence ", index, ", adapter '", live.request.adapter, "'"));
    const Answer batched = AnswerOf(*live.recording, index);
    const Finish& finish = *live.recording->sequences()[static_cast<size_t>(index)].finish;
    counts->cached_tokens += finish.usage.cached_tokens;
    EXPECT_EQ(finish.usage.completion_tokens, static_cast<int64_t>(batched.tokens.size()));
    const bool ended_early = !finish.status.ok() || finish.reason == FinishReason::kAbort;
    if (!finish.status.ok()) {
      const absl::StatusCode code = finish.status.code();
      EXPECT_TRUE(
          (live.may_be_refused && code == absl::StatusCode::kNotFound) ||
          (poisoned && code == absl::StatusCode::kInternal) ||
          (live.may_end_early && (code == absl::StatusCode::kCancelled || code == absl::StatusCode::kDeadlineExceeded)))
          << finish.status;
      EXPECT_TRUE(batched.tokens.empty());
      continue;
    }
    if (ended_early) {
      EXPECT_TRUE(live.may_end_early || poisoned) << finish.abort_detail;
      ++(poisoned ? counts->poisoned : counts->cancelled);
      if (batched.tokens.empty()) continue;
    }
    // One of the adapters that the name meant served all of it.
    const Claim claim{.greedy = MarginsCount(live.request.sampling), .complete = !ended_early};
    std::string differences;
    bool equal = false;
    for (const std::string& path : live.paths) {
      if (path == nan_path_ && !path.empty()) continue;
      const Answer alone = alone_->Run(live.request, index, path);
      const std::string difference = BatchedEqualsAlone::Difference(alone, batched, claim);
      if (difference.empty()) {
        compared->Compare(path, alone, batched, claim);
        equal = true;
        break;
      }
      absl::StrAppend(&differences, "with '", path, "': ", difference, "\n");
    }
    EXPECT_TRUE(equal) << differences;
  }
}

}  // namespace lorad
