#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>

#include "clients/loadgen/report.h"
#include "clients/loadgen/sse.h"
#include "clients/loadgen/trace.h"

namespace lorad {
namespace {

using ::testing::DoubleNear;

std::vector<double> Gaps(const std::vector<TraceRequest>& trace) {
  std::vector<double> gaps;
  double before = 0;
  for (const TraceRequest& request : trace) {
    gaps.push_back(request.arrival_s - before);
    before = request.arrival_s;
  }
  return gaps;
}

double Mean(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

double Deviation(const std::vector<double>& values) {
  const double mean = Mean(values);
  double sum = 0;
  for (const double value : values) sum += (value - mean) * (value - mean);
  return std::sqrt(sum / static_cast<double>(values.size()));
}

TEST(TraceTest, GapsBetweenArrivalsHaveTheAskedMeanAndVariation) {
  for (const double cv : {0.5, 1.0, 4.0}) {
    TraceOptions options;
    options.requests = 100000;
    options.rate_per_s = 5;
    options.cv = cv;
    const std::vector<double> gaps = Gaps(MakeTrace(options));
    EXPECT_THAT(Mean(gaps), DoubleNear(0.2, 0.02)) << cv;
    EXPECT_THAT(Deviation(gaps) / Mean(gaps), DoubleNear(cv, 0.1 * cv)) << cv;
  }
}

TEST(TraceTest, AlphaOneIsUniformAndSmallerPrefersTheFirst) {
  TraceOptions options;
  options.requests = 100000;
  options.adapters = 10;
  for (const double alpha : {1.0, 0.3}) {
    options.alpha = alpha;
    std::vector<double> share(10, 0);
    for (const TraceRequest& request : MakeTrace(options)) share.at(static_cast<size_t>(request.adapter)) += 1e-5;
    // P(index <= i) of int(u^(1/alpha) n) is ((i + 1) / n)^alpha.
    EXPECT_THAT(share[0], DoubleNear(std::pow(0.1, alpha), 0.01)) << alpha;
    EXPECT_THAT(share[9], DoubleNear(1 - std::pow(0.9, alpha), 0.01)) << alpha;
  }
}

TEST(TraceTest, CancelsAndDeadlinesChangeNothingElse) {
  TraceOptions options;
  options.adapters = 3;
  options.rate_per_s = 10;
  const std::vector<TraceRequest> plain = MakeTrace(options);
  options.cancel_share = 0.5;
  options.deadline_share = 0.5;
  const std::vector<TraceRequest> disturbed = MakeTrace(options);
  int cancelled = 0, limited = 0;
  for (size_t i = 0; i < plain.size(); ++i) {
    EXPECT_EQ(plain[i].arrival_s, disturbed[i].arrival_s);
    EXPECT_EQ(plain[i].adapter, disturbed[i].adapter);
    EXPECT_EQ(MakePrompt(plain[i], 100), MakePrompt(disturbed[i], 100));
    if (disturbed[i].cancel_after_tokens >= 0) {
      ++cancelled;
      EXPECT_LT(disturbed[i].cancel_after_tokens, disturbed[i].output_tokens);
    }
    if (disturbed[i].deadline_s > 0) ++limited;
  }
  EXPECT_GT(cancelled, 32);
  EXPECT_GT(limited, 32);
}

TEST(CompletionEventsTest, PiecesMayEndAnywhere) {
  const std::string stream =
      "data: {\"choices\":[{\"text\":\"a\",\"finish_reason\":null}]}\r\n\r\n"
      "data: {\"choices\":[{\"text\":\"\",\"finish_reason\":\"length\"}]}\n\n"
      "data: {\"choices\":[],\"usage\":{\"completion_tokens\":3}}\n\ndata: [DONE]\n\n";
  for (size_t size = 1; size <= stream.size(); ++size) {
    CompletionEvents events;
    int64_t messages = 0;
    for (size_t at = 0; at < stream.size(); at += size) messages += events.Add(stream.substr(at, size));
    EXPECT_EQ(messages, 2) << size;
    EXPECT_TRUE(events.finished());
    EXPECT_EQ(events.usage_tokens(), 3);
  }
}

TEST(QuantileTest, LiesBetweenTheNeighbours) {
  std::vector<double> values = {4, 1, 3, 2};
  EXPECT_DOUBLE_EQ(Quantile(&values, 0), 1);
  EXPECT_DOUBLE_EQ(Quantile(&values, 0.5), 2.5);
  EXPECT_DOUBLE_EQ(Quantile(&values, 1), 4);
}

TEST(ReportTest, CountsTokensWhileAllStreamsWereBusyAndMissesWhoGotNothing) {
  RunResult result;
  result.seconds = 10;
  result.full_seconds = 4;
  Outcome in_time, late, refused, cancelled;
  in_time.end = late.end = CallEnd::kComplete;
  in_time.arrivals = {{1, 1}, {2, 1}, {5, 2}};
  late.sent_s = 0;
  late.arrivals = {{3.5, 2}};
  refused.end = CallEnd::kRefused;
  refused.detail = "queue full";
  cancelled.end = CallEnd::kCancelled;
  result.outcomes = {in_time, late, refused, cancelled};
  ReportOptions options;
  options.slo_first_token_s = 2;
  const nlohmann::json report = MakeReport(result, options);
  EXPECT_EQ(report["output_tokens"], 6);
  EXPECT_DOUBLE_EQ(report["output_tokens_per_s"], 1);     // 4 tokens in the first 4 s
  EXPECT_DOUBLE_EQ(report["slo_attainment"], 1.0 / 3.0);  // of those that were not cancelled
  EXPECT_EQ(report["ends"]["refused"], 1);
  EXPECT_EQ(report["reasons"]["queue full"], 1);
}

}  // namespace
}  // namespace lorad
