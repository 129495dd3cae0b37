#include "server/text_stream.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "server/stop_matcher.h"

namespace lorad {
namespace {

// The rule, written down as slowly as it reads: the stop string that is complete first, the longest of those.
std::string CutAtFirstStop(const std::string& text, const std::vector<std::string>& stops, bool* stopped) {
  for (size_t end = 0; end <= text.size(); ++end) {
    size_t longest = 0;
    for (const std::string& stop : stops) {
      if (stop.size() <= end && text.compare(end - stop.size(), stop.size(), stop) == 0)
        longest = std::max(longest, stop.size());
    }
    if (longest > 0) {
      *stopped = true;
      return text.substr(0, end - longest);
    }
  }
  *stopped = false;
  return text;
}

std::string RandomText(std::mt19937* random, size_t bytes) {
  std::string text;
  for (size_t i = 0; i < bytes; ++i) text.push_back("abc"[(*random)() % 3]);
  return text;
}

TEST(StopMatcherTest, AnySplitGivesTheTextUpToTheFirstStop) {
  for (uint32_t seed = 0; seed < 3000; ++seed) {
    std::mt19937 random(seed);
    std::vector<std::string> stops;
    for (uint32_t i = 0; i < random() % 4; ++i) stops.push_back(RandomText(&random, 1 + random() % 6));
    const std::string text = RandomText(&random, random() % 60);
    bool expect_stop = false;
    const std::string expected = CutAtFirstStop(text, stops, &expect_stop);

    StopMatcher matcher(stops);
    std::string shown;
    bool stopped = false;
    for (size_t at = 0; at < text.size() && !stopped;) {
      const size_t bytes = std::min<size_t>(random() % 5, text.size() - at);
      const StopMatcher::Result result = matcher.Append(text.substr(at, bytes));
      shown += result.text;
      stopped = result.stopped;
      at += bytes;
      EXPECT_EQ(expected.compare(0, shown.size(), shown), 0)
          << "seed " << seed << ": showed what a stop string takes back";
    }
    if (!stopped) shown += matcher.Finish();
    EXPECT_EQ(shown, expected) << "seed " << seed;
    EXPECT_EQ(stopped, expect_stop) << "seed " << seed;
  }
}

TEST(StopMatcherTest, HoldsBackNoMoreThanTheBeginningOfAStop) {
  StopMatcher matcher({"\n\nUser:"});
  EXPECT_EQ(matcher.Append("Hello.\n").text, "Hello.");
  EXPECT_EQ(matcher.Append("More").text, "\nMore");
  EXPECT_EQ(matcher.Append("\n\nUse").text, "");
  const StopMatcher::Result result = matcher.Append("r: and on");
  EXPECT_TRUE(result.stopped);
  EXPECT_EQ(result.text, "");
}

// Token 100 + i is the text of letter i.
PieceDecoder Letters() {
  return {[](int32_t id) { return std::string(1, static_cast<char>('a' + id - 100)); }, [] { return std::string(); }};
}

TEST(TextStreamTest, AStopTokenIsCountedAndNotShown) {
  SamplingOptions sampling;
  TextStream stream(Letters(), sampling);
  EXPECT_EQ(stream.Append(100, false).text, "a");
  EXPECT_EQ(stream.Append(101, true).text, "");
  EXPECT_EQ(stream.tokens(), 2);
}

TEST(TextStreamTest, StopStringsWaitForMinTokens) {
  SamplingOptions sampling;
  sampling.stop = {"b"};
  sampling.min_tokens = 3;
  TextStream stream(Letters(), sampling);
  EXPECT_FALSE(stream.Append(101, false).stopped);
  EXPECT_FALSE(stream.Append(101, false).stopped);
  const StopMatcher::Result third = stream.Append(101, false);
  EXPECT_TRUE(third.stopped);
  EXPECT_EQ(third.text, "");
}

TEST(TextStreamTest, WhatTheDecoderHeldBackMayCompleteAStop) {
  SamplingOptions sampling;
  sampling.stop = {"ab"};
  TextStream stream({[](int32_t) { return std::string("xa"); }, [] { return std::string("bz"); }}, sampling);
  EXPECT_EQ(stream.Append(1, false).text, "x");
  const StopMatcher::Result rest = stream.Finish();
  EXPECT_TRUE(rest.stopped);
  EXPECT_EQ(rest.text, "");
}

}  // namespace
}  // namespace lorad
