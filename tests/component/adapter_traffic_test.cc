// Adapters that change while requests run on them, and memory that is too small for the requests that run.
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/component/alone.h"
#include "tests/component/answer.h"
#include "tests/component/golden_base.h"
#include "tests/component/random_adapter.h"
#include "tests/support/engine_fixture.h"

namespace lorad {
namespace {

const std::string kBase = "llama3";
const std::string kOld = AdapterDir(kBase, "all_linear");
const std::string kNew = AdapterDir(kBase, "rslora");

Request GreedyRequest(Rng& rng, const std::string& adapter, int64_t prompt_tokens, int64_t max_tokens) {
  Request request;
  request.adapter = adapter;
  request.prompt_ids = RandomPrompt(rng, prompt_tokens, GoldenBase(kBase).config().vocab_size);
  request.sampling.max_tokens = max_tokens;
  request.sampling.temperature = 0.0f;
  request.sampling.logprobs = 2;
  return request;
}

class AdapterTrafficTest : public testing::Test {
 protected:
  struct Sent {
    Request request;
    std::shared_ptr<Recording> recording;
  };

  std::unique_ptr<SteppedEngine> Engine(const EngineSetup& setup) {
    return std::make_unique<SteppedEngine>(&GoldenBase(kBase), GoldenDir(kBase) + "/model", setup);
  }
  Sent Send(SteppedEngine* engine, const Request& request) { return {request, engine->Submit(request)}; }
  void ExpectServedBy(const std::string& path, const Sent& sent) {
    EXPECT_EQ(sent.recording->broken_rule(), "");
    ASSERT_TRUE(sent.recording->finished());
    EXPECT_EQ(sent.recording->sequences()[0].finish->reason, FinishReason::kLength);
    compared_.Compare("served by " + path, alone_.Run(sent.request, 0, path), AnswerOf(*sent.recording, 0), {});
  }
  int64_t PagesOf(const SteppedEngine& engine, PageOwner owner) {
    return engine.state().parts.pages->used_pages(owner);
  }

  AloneRunner alone_{kBase};
  BatchedEqualsAlone compared_;
  Rng rng_{7};
};

TEST_F(AdapterTrafficTest, TheTwoAdaptersOfTheseTestsAnswerDifferently) {
  const Request request = GreedyRequest(rng_, "", 12, 16);
  EXPECT_NE(alone_.Run(request, 0, kOld).ids(), alone_.Run(request, 0, kNew).ids());
  EXPECT_NE(alone_.Run(request, 0, kOld).ids(), alone_.Run(request, 0, "").ids());
}

TEST_F(AdapterTrafficTest, UnloadUnderTrafficLetsRunningRequestsFinishOnTheirWeights) {
  const auto engine = Engine({.engine = {.max_batch_tokens = 16, .target_step_us = int64_t{3'600'000'000}}});
  engine->Load("a", kOld);
  engine->RunUntilIdle();
  std::vector<Sent> before;
  for (int i = 0; i < 4; ++i) before.push_back(Send(engine.get(), GreedyRequest(rng_, "a", 10 + 10 * i, 20)));
  for (int turn = 0; turn < 6; ++turn) engine->Turn();
  const CommandAnswer unloaded = engine->Unload("a");
  const Sent after = Send(engine.get(), GreedyRequest(rng_, "a", 10, 5));
  const Sent base = Send(engine.get(), GreedyRequest(rng_, "", 10, 20));
  engine->Turn();
  EXPECT_FALSE(unloaded->has_value()) << "answered when its memory is given back";
  engine->RunUntilIdle();
  for (const Sent& sent : before) ExpectServedBy(kOld, sent);
  ExpectServedBy("", base);
  EXPECT_EQ(after.recording->sequences()[0].finish->status.code(), absl::StatusCode::kNotFound);
  ASSERT_TRUE(unloaded->has_value());
  EXPECT_TRUE((*unloaded)->ok()) << **unloaded;
  EXPECT_EQ(PagesOf(*engine, PageOwner::kAdapter), 0);
  EXPECT_EQ(PagesOf(*engine, PageOwner::kKv), engine->state().prefix_cache->idle_pages());
}

TEST_F(AdapterTrafficTest, ReplaceSwitchesBetweenRequestsNeverWithinOne) {
  const auto engine = Engine({.engine = {.max_batch_tokens = 20, .target_step_us = int64_t{3'600'000'000}}});
  engine->Load("a", kOld);
  engine->RunUntilIdle();
  std::vector<Sent> before, after;
  for (int i = 0; i < 3; ++i) before.push_back(Send(engine.get(), GreedyRequest(rng_, "a", 10 + 10 * i, 20)));
  for (int turn = 0; turn < 3; ++turn) engine->Turn();
  const CommandAnswer replaced = engine->Load("a", kNew, /*replace=*/true);
  engine->Turn();
  // Admitted while the new weights are still on their way.
  for (int i = 0; i < 2; ++i) before.push_back(Send(engine.get(), GreedyRequest(rng_, "a", 15, 20)));
  engine->Turn();
  while (!replaced->has_value()) {
    ASSERT_TRUE(engine->DeliverLoaderEvent());
    engine->Turn();
  }
  ASSERT_TRUE((*replaced)->ok()) << **replaced;
  for (const Sent& sent : before) EXPECT_FALSE(sent.recording->finished()) << "the switch happens under traffic";
  for (int i = 0; i < 3; ++i) after.push_back(Send(engine.get(), GreedyRequest(rng_, "a", 12, 20)));
  engine->RunUntilIdle();
  for (const Sent& sent : before) ExpectServedBy(kOld, sent);
  for (const Sent& sent : after) ExpectServedBy(kNew, sent);
  EXPECT_EQ(PagesOf(*engine, PageOwner::kAdapter), alone_.PagesOf(kNew)) << "the old version is given back";
}

TEST_F(AdapterTrafficTest, PreemptedRequestsGetTheSameTokens) {
  int64_t preemptions = 0;
  for (int seed = 0; seed < 10 && !HasFailure(); ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    Rng rng(static_cast<uint64_t>(seed));
    EngineSetup setup;
    setup.engine.max_batch_tokens = Pick(rng, 8, 64);
    setup.engine.prefix_cache = seed % 2 == 0;
    // Beside both adapters, room for two of the eight requests at their full length.
    constexpr int64_t kPagesOfOne = 6 * 2;  // 90 tokens: 6 blocks of 2 pages
    setup.pool_bytes = (alone_.PagesOf(kOld) + alone_.PagesOf(kNew) + 2 * kPagesOfOne) * setup.page_bytes;
    const auto engine = Engine(setup);
    engine->Load("old", kOld);
    engine->Load("new", kNew);
    engine->RunUntilIdle();
    std::vector<Sent> sent;
    for (int i = 0; i < 8; ++i) {
      Request request = GreedyRequest(rng, i % 3 == 0 ? "old" : i % 3 == 1 ? "new" : "", Pick(rng, 1, 30), 60);
      request.sampling.prompt_logprobs = i % 2 - 1;
      if (i == 5) {
        request.sampling.temperature = 1.0f;
        request.sampling.seed = rng();
      }
      sent.push_back(Send(engine.get(), request));
    }
    engine->RunUntilIdle();
    for (const Sent& s : sent) {
      const std::string& name = s.request.adapter;
      ExpectServedBy(name == "old" ? kOld : name == "new" ? kNew : "", s);
    }
    preemptions += engine->parts().observer.preemptions;
  }
  EXPECT_GT(preemptions, 10);
}

TEST_F(AdapterTrafficTest, AnAdapterOfNanFailsItsOwnRequestsAlone) {
  const auto engine = Engine({.engine = {.max_batch_tokens = 24, .target_step_us = int64_t{3'600'000'000}}});
  engine->AddImage("nan", NanAdapter(GoldenBase(kBase).base_shape(), 8));
  engine->Load("nan", "nan");
  engine->Load("a", kOld);
  engine->RunUntilIdle();
  std::vector<Sent> healthy, poisoned;
  for (int i = 0; i < 8; ++i) {
    poisoned.push_back(Send(engine.get(), GreedyRequest(rng_, "nan", 1 + 7 * i, 12)));
    healthy.push_back(Send(engine.get(), GreedyRequest(rng_, i % 2 == 0 ? "a" : "", 20, 12)));
  }
  engine->RunUntilIdle();
  for (const Sent& sent : healthy) ExpectServedBy(sent.request.adapter.empty() ? "" : kOld, sent);
  for (const Sent& sent : poisoned) {
    const Finish& finish = *sent.recording->sequences()[0].finish;
    EXPECT_TRUE(!finish.status.ok() || finish.reason == FinishReason::kAbort);
    EXPECT_TRUE(sent.recording->sequences()[0].tokens.empty());
  }
}

}  // namespace
}  // namespace lorad
