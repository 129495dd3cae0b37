#include "scheduler/composition.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/fake_world.h"
#include "tests/support/status_matchers.h"

namespace lorad {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class CompositionTest : public testing::Test {
 protected:
  // A world in which adapters "a", "b", … with contents 1, 2, … take so many pages each.
  void Make(std::vector<int64_t> pages, FakeWorldOptions options = {}) {
    world_.emplace(options);
    for (size_t i = 0; i < pages.size(); ++i) world_->Folder(std::string(1, 'a' + i), i + 1, pages[i]);
  }
  FakeWorld& world() { return *world_; }

  Request Of(std::vector<RequestAdapter> adapters, int64_t prompt_tokens = 20, int64_t max_tokens = 6) {
    Request request = world().MakeRequest(adapters.front().name, prompt_tokens, max_tokens);
    request.composition = std::move(adapters);
    return request;
  }
  std::shared_ptr<RecordingSink> Submit(const Request& request) {
    std::vector<std::string> folders;
    for (const RequestAdapter& adapter : AdaptersOf(request)) folders.push_back(FakeWorld::PathOf(adapter.name));
    LORAD_CHECK(world().Submit(request, folders).ok());
    return FakeWorld::SinkOf(request);
  }
  // What the fake model answers to it alone.
  std::vector<int32_t> Alone(const Request& request) {
    uint64_t content = 0;
    for (const RequestAdapter& adapter : AdaptersOf(request)) {
      content = FakeContent(content, world().loader.folders[FakeWorld::PathOf(adapter.name)].content, adapter.scale);
    }
    return FakeGenerate(request.prompt_ids, content, request.sampling);
  }
  RecordingSink::Answer Run(const Request& request) {
    const auto sink = Submit(request);
    world().Settle();
    EXPECT_EQ(sink->answer().tokens, Alone(request));
    return sink->answer();
  }

  std::optional<FakeWorld> world_;
};

TEST_F(CompositionTest, IsNamedByItsAdaptersAndTheirScales) {
  Make({1, 1});
  EXPECT_EQ(AnswersAs(world().MakeRequest("", 1, 1)), "");
  EXPECT_EQ(AnswersAs(world().MakeRequest("a", 1, 1)), "a");
  EXPECT_EQ(AnswersAs(Of({{"b", 1.0f}, {"a", 0.5f}})), "b+a*0.5");
  EXPECT_EQ(Run(Of({{"b", 1.0f}, {"a", 0.5f}})).adapter, "b+a*0.5");
}

TEST_F(CompositionTest, RunsOnAllOfItsAdaptersInTheirOrderAndScales) {
  Make({1, 2, 3});
  const Request all[] = {Of({{"a", 1.0f}, {"b", 1.0f}, {"c", 1.0f}}),
                         Of({{"b", 1.0f}, {"a", 1.0f}}),
                         Of({{"a", 1.0f}, {"b", 1.0f}}),
                         Of({{"a", 2.0f}}),
                         world().MakeRequest("a", 20, 6),
                         world().MakeRequest("", 20, 6)};
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  for (const Request& request : all) sinks.push_back(Submit(request));
  world().Settle();
  for (size_t i = 0; i < std::size(all); ++i) EXPECT_EQ(sinks[i]->answer().tokens, Alone(all[i])) << i;
  EXPECT_EQ(world().Listed("a")->running_requests, 0);
}

// However few seats there are, and however few are read ahead.
TEST_F(CompositionTest, EightAdaptersAreReadForOneSeat) {
  FakeWorldOptions options;
  options.config.max_sequences = 1;
  Make(std::vector<int64_t>(16, 1), options);
  const auto eight_from = [](char first) {
    std::vector<RequestAdapter> adapters;
    for (char name = first; name < first + 8; ++name) adapters.push_back({std::string(1, name), 1.0f});
    return adapters;
  };
  Run(Of(eight_from('a')));

  // Behind one whose last adapter's read never ends.
  world().Unload("h");
  world().Settle();
  world().loader.folders[FakeWorld::PathOf("h")].hangs = true;
  const auto stuck = Submit(Of(eight_from('a')));
  world().Settle();
  world().clock.Advance(world().core.state().config.hanging_read_us + 2'000'000);
  Run(Of(eight_from('i')));
  EXPECT_FALSE(stuck->finished());
}

TEST_F(CompositionTest, AnAloraIsRefusedInOneAsSoonAsItIsKnown) {
  Make({1, 1});
  world().loader.folders[FakeWorld::PathOf("b")].invocation_tokens = {3};
  const auto before = Submit(Of({{"a", 1.0f}, {"b", 1.0f}}));  // not read yet
  world().Settle();
  const auto after = Submit(Of({{"b", 0.5f}}));
  world().Settle();
  for (const auto& sink : {before, after}) {
    const absl::Status& status = sink->answer().finish.status;
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr("adapters: b is an aLoRA"));
  }
}

TEST_F(CompositionTest, IdsAreOfTheBasesVocabularyOrOfTheAdaptersOwn) {
  Make({1, 1}, {.config = {.vocab_size = 500}});
  world().loader.folders[FakeWorld::PathOf("b")].vocab_size = 503;
  const auto refused = [&](Request request, std::vector<int32_t> ids) {
    request.prompt_ids = std::move(ids);
    const auto sink = Submit(request);
    world().Settle();
    const absl::Status status = sink->answer().finish.status;
    EXPECT_TRUE(status.ok() || status.code() == absl::StatusCode::kInvalidArgument) << status;
    return std::string(status.message());
  };
  const auto on = [&](const std::string& name) { return world().MakeRequest(name, 1, 2); };
  for (int i = 0; i < 2; ++i) {  // first when the adapter is read, then when it is known
    EXPECT_EQ(refused(on("b"), {502}), "");
    EXPECT_THAT(refused(on("b"), {1, 503}), HasSubstr("token_ids: 503; limit: below 503"));
    EXPECT_THAT(refused(on("a"), {500}), HasSubstr("token_ids: 500; limit: below 500"));
    EXPECT_THAT(refused(on(""), {500}), HasSubstr("token_ids: 500; limit: below 500"));
  }
  Request stops = on("a");
  stops.sampling.stop_token_ids = {501};
  EXPECT_THAT(refused(stops, {1}), HasSubstr("stop_token_ids: 501"));
  stops.adapter = "b";
  EXPECT_EQ(refused(stops, {1}), "");
  Request biased = on("a");
  biased.sampling.logit_bias = {{502, 1.0f}};
  EXPECT_THAT(refused(biased, {1}), HasSubstr("logit_bias token: 502"));
  EXPECT_THAT(refused(Of({{"a", 1.0f}, {"b", 1.0f}}), {1}), HasSubstr("b has a vocabulary of its own"));
}

TEST_F(CompositionTest, LeasesEveryAdapterWhileItRuns) {
  Make({1, 1});
  ASSERT_THAT(world().Load("a"), IsOk());
  ASSERT_THAT(world().Load("b"), IsOk());
  const auto sink = Submit(Of({{"a", 1.0f}, {"b", 1.0f}}, 4, 30));
  world().Turn();
  world().Turn();
  EXPECT_EQ(world().Listed("a")->running_requests, 1);
  EXPECT_EQ(world().Listed("b")->running_requests, 1);
  const auto unloaded = world().Unload("b");
  world().Turn();
  EXPECT_FALSE(unloaded->has_value());  // not before the request has ended
  world().Settle();
  ASSERT_TRUE(unloaded->has_value());
  EXPECT_EQ(sink->answer().tokens.size(), 30u);
}

// Memory for two of the three adapters and some blocks: whoever waits longest gets both of its adapters in the end.
TEST_F(CompositionTest, TakesTurnsWhereNotAllAdaptersFitAtOnce) {
  Make({5, 5, 5}, {.total_pages = 14});
  std::vector<Request> requests;
  for (int i = 0; i < 4; ++i) {
    requests.push_back(Of({{"a", 1.0f}, {"b", 1.0f}}));
    requests.push_back(Of({{"b", 1.0f}, {"c", 1.0f}}));
    requests.push_back(Of({{"c", 1.0f}, {"a", 1.0f}}));
  }
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  for (const Request& request : requests) sinks.push_back(Submit(request));
  world().Settle();
  for (size_t i = 0; i < requests.size(); ++i) EXPECT_EQ(sinks[i]->answer().tokens, Alone(requests[i])) << i;
}

TEST_F(CompositionTest, IsRefusedWhereItsAdaptersCanNeverFitTogether) {
  Make({5, 6}, {.total_pages = 12});
  for (const bool known : {false, true}) {
    const auto sink = Submit(Of({{"a", 1.0f}, {"b", 1.0f}}, 20, 6));
    world().Settle();
    EXPECT_EQ(sink->answer().finish.status.code(), absl::StatusCode::kInvalidArgument) << known;
    EXPECT_THAT(std::string(sink->answer().finish.status.message()), HasSubstr("of them for the adapter: 11"));
  }
}

TEST_F(CompositionTest, EndsWhenOneOfItsAdaptersIsUnknownOrFails) {
  Make({1, 1});
  ASSERT_THAT(world().Load("a"), IsOk());
  Request unknown = Of({{"a", 1.0f}, {"nobody", 1.0f}});
  ASSERT_THAT(world().Submit(unknown), IsOk());
  world().loader.folders[FakeWorld::PathOf("b")].error = absl::DataLossError("the file is corrupt");
  const auto failed = Submit(Of({{"a", 1.0f}, {"b", 1.0f}}));
  world().Settle();
  EXPECT_EQ(FakeWorld::SinkOf(unknown)->answer().finish.status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(failed->answer().finish.status.code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(world().Listed("a")->waiting_requests, 0);
  EXPECT_EQ(Run(world().MakeRequest("a", 20, 6)).tokens.size(), 6u);
}

// A folder of the refused request may be on its way already: nobody waits for it any more.
TEST_F(CompositionTest, ARefusedOneLeavesNoNameBehind) {
  Make({1, 1});
  Request request = Of({{"a", 1.0f}, {"nobody", 1.0f}});
  ASSERT_THAT(world().Submit(request, {FakeWorld::PathOf("a"), ""}), IsOk());
  world().Settle();
  EXPECT_EQ(FakeWorld::SinkOf(request)->answer().finish.status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(world().Listed("a"), nullptr);
  EXPECT_TRUE(world().core.state().adapters.versions().empty());
}

TEST_F(CompositionTest, TwoThatReplaceTheSameTensorAreRefused) {
  Make({1, 1, 1});
  world().loader.folders[FakeWorld::PathOf("a")].has_bias = true;
  world().loader.folders[FakeWorld::PathOf("b")].has_bias = true;
  for (const bool known : {false, true}) {
    const auto sink = Submit(Of({{"a", 1.0f}, {"b", 1.0f}}));
    world().Settle();
    EXPECT_EQ(sink->answer().finish.status.code(), absl::StatusCode::kInvalidArgument) << known;
    EXPECT_THAT(std::string(sink->answer().finish.status.message()),
                HasSubstr("a and b both replace the base's bias of q_proj, layer 0"));
  }
  Run(Of({{"a", 1.0f}, {"c", 1.0f}}));
}

TEST_F(CompositionTest, AClassifierClassifiesAndWritesNoText) {
  Make({1, 1});
  world().loader.folders[FakeWorld::PathOf("b")].num_labels = 3;
  for (const bool known : {false, true}) {
    SCOPED_TRACE(known);
    Request writes = Of({{"a", 1.0f}, {"b", 1.0f}});
    Request classifies = world().MakeRequest("a", 20, 1);
    classifies.classify = true;
    for (const Request& wrong : {writes, classifies, world().MakeRequest("b", 20, 1)}) {
      const auto sink = Submit(wrong);
      world().Settle();
      EXPECT_EQ(sink->answer().finish.status.code(), absl::StatusCode::kInvalidArgument);
      EXPECT_THAT(std::string(sink->answer().finish.status.message()), HasSubstr("classifier head"));
    }
    Request right = world().MakeRequest("b", 40, 1);
    right.classify = true;
    const auto sink = Submit(right);
    world().Settle();
    EXPECT_THAT(sink->answer().finish.status, IsOk());
    EXPECT_TRUE(sink->answer().tokens.empty());
  }
}

TEST_F(CompositionTest, AnAloraClassifiesNothing) {
  Make({1});
  world().loader.folders[FakeWorld::PathOf("a")].invocation_tokens = {3};
  for (const bool known : {false, true}) {
    Request request = world().MakeRequest("a", 20, 1);
    request.classify = true;
    const auto sink = Submit(request);
    world().Settle();
    EXPECT_EQ(sink->answer().finish.status.code(), absl::StatusCode::kInvalidArgument) << known;
    EXPECT_THAT(std::string(sink->answer().finish.status.message()), HasSubstr("one with a classifier head"));
  }
}

TEST_F(CompositionTest, AClassifyThatIsGivenUpHalfwayEndsWithTheReasonAsItsStatus) {
  Make({1}, {.config = {.max_batch_tokens = 16}});
  world().loader.folders[FakeWorld::PathOf("a")].num_labels = 3;
  ASSERT_THAT(world().Load("a"), IsOk());
  Request request = world().MakeRequest("a", 64, 1);
  request.classify = true;
  const auto sink = Submit(request);
  for (int i = 0; i < 3; ++i) world().Turn();
  world().inbox.Put(CancelCommand{.request = request.id});
  world().Settle();
  EXPECT_TRUE(absl::IsCancelled(sink->answer().finish.status)) << sink->answer().finish.status;
}

TEST_F(CompositionTest, SharesPrefixesWithItsLikeOnly) {
  Make({1, 1});
  ASSERT_THAT(world().Load("a"), IsOk());
  ASSERT_THAT(world().Load("b"), IsOk());
  const auto cached = [&](std::vector<RequestAdapter> adapters) {
    Request request = Of(std::move(adapters));
    for (size_t i = 0; i < request.prompt_ids.size(); ++i) request.prompt_ids[i] = static_cast<int32_t>(i);
    return Run(request).finish.usage.cached_tokens;
  };
  EXPECT_EQ(cached({{"a", 1.0f}, {"b", 0.5f}}), 0);
  EXPECT_EQ(cached({{"a", 1.0f}, {"b", 0.5f}}), 16);
  EXPECT_EQ(cached({{"b", 0.5f}, {"a", 1.0f}}), 0);  // the order counts
  EXPECT_EQ(cached({{"a", 1.0f}, {"b", 0.25f}}), 0);
  EXPECT_EQ(cached({{"a", 0.5f}}), 0);
  // The same content under another name, or loaded again, is the same.
  world().loader.folders[FakeWorld::PathOf("c")] = world().loader.folders[FakeWorld::PathOf("b")];
  EXPECT_EQ(cached({{"a", 1.0f}, {"c", 0.5f}}), 16);
  world().loader.folders[FakeWorld::PathOf("b")].content = 9;
  ASSERT_THAT(world().Load("b", false, /*replace=*/true), IsOk());
  EXPECT_EQ(cached({{"a", 1.0f}, {"b", 0.5f}}), 0);
}

TEST_F(CompositionTest, CountsForTheFirstAdaptersAccount) {
  Make({1, 1}, {.config = {.max_running_per_adapter = 1}});
  ASSERT_THAT(world().Load("a"), IsOk());
  ASSERT_THAT(world().Load("b"), IsOk());
  const auto first = Submit(Of({{"a", 1.0f}, {"b", 1.0f}}, 4, 20));
  const auto second = Submit(Of({{"a", 0.5f}}, 4, 20));       // the same account
  const auto third = Submit(Of({{"b", 1.0f}, {"a", 1.0f}}));  // another one
  for (int i = 0; i < 3; ++i) world().Turn();
  std::vector<std::string> running;
  for (const Sequence* sequence : world().core.state().running) running.push_back(AnswersAs(*sequence->request));
  EXPECT_THAT(running, ElementsAre("a+b", "b+a"));
  world().Settle();
  EXPECT_EQ(second->answer().tokens.size(), 20u);
}

}  // namespace
}  // namespace lorad
