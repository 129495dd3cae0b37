#include "bench/traffic.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include "absl/status/statusor.h"
#include "scheduler/request.h"
#include "tests/device/test_device.h"

namespace lorad::bench {

void ExitIfBroken() {
  const absl::StatusOr<int64_t> bytes = TestDeviceMemory().available_bytes();
  if (bytes.ok()) return;
  std::fprintf(stderr, "the device is broken: %s\n", std::string(bytes.status().message()).c_str());
  std::fflush(nullptr);
  std::_Exit(3);
}

void Fail(const std::string& why) {
  std::fprintf(stderr, "%s\n", why.c_str());
  ExitIfBroken();
  throw PartFailed(why);
}

class Traffic::Sink final : public TokenSink {
 public:
  Sink(Traffic* traffic, Ask ask, int64_t now_us) : traffic_(traffic), ask_(std::move(ask)) {
    stream_.submitted_us = now_us;
  }

  void OnEvent(TokenEvent event) override {
    const int64_t now_us = traffic_->clock_.NowUs();
    const std::lock_guard<std::mutex> lock(traffic_->mutex_);
    stream_.token_us.insert(stream_.token_us.end(), event.tokens.size(), now_us);
    if (!event.finish.has_value()) return;
    const Finish& finish = *event.finish;
    if (!finish.status.ok()) {
      Note(finish.status.ToString());
    } else if (finish.reason != FinishReason::kLength) {
      Note("aborted: " + finish.abort_detail);
    } else if (std::ssize(stream_.token_us) != ask_.output_tokens) {
      Note("ended with fewer tokens than asked");
    }
    ended_ = true;
    ++traffic_->finished_;
    traffic_->ended_.notify_all();
  }

  // Under the traffic's mutex.
  bool ended() const { return ended_; }
  const Stream& stream() const { return stream_; }

 private:
  void Note(const std::string& why) {
    const std::string& name = ask_.adapter.empty() ? "(base)" : ask_.adapter;
    if (traffic_->why_failed_.empty()) traffic_->why_failed_ = "a request of " + name + ": " + why;
  }

  Traffic* const traffic_;
  const Ask ask_;
  Stream stream_;
  bool ended_ = false;
};

Traffic::~Traffic() {
  std::unique_lock<std::mutex> lock(mutex_);
  ended_.wait(lock, [this] { return finished_ == std::ssize(sinks_); });
}

int64_t Traffic::Send(const Ask& ask) {
  Request request;
  request.id = sinks_.size() + 1;
  request.arrival_us = clock_.NowUs();
  request.adapter = ask.adapter;
  for (int64_t i = 0; i < ask.prompt_tokens; ++i) {
    drawn_ = drawn_ * 6364136223846793005u + 1442695040888963407u;
    request.prompt_ids.push_back(static_cast<int32_t>((drawn_ >> 33) % static_cast<uint64_t>(vocab_size_)));
  }
  request.sampling.max_tokens = ask.output_tokens;
  request.sampling.ignore_eos = true;
  request.sampling.temperature = ask.temperature;
  request.sampling.top_p = ask.top_p;
  auto sink = std::make_shared<Sink>(this, ask, request.arrival_us);
  request.sink = sink;
  const absl::Status status = engine_->Submit(std::move(request));
  if (!status.ok()) Fail(status.ToString());
  sinks_.push_back(std::move(sink));
  return std::ssize(sinks_) - 1;
}

Stream Traffic::Wait(int64_t sent) {
  const Sink& sink = *sinks_.at(static_cast<size_t>(sent));
  std::unique_lock<std::mutex> lock(mutex_);
  ended_.wait(lock, [&] { return sink.ended() || !why_failed_.empty(); });
  FailIfOneDid(std::move(lock));
  return sink.stream();  // ended: nobody writes it
}

std::vector<Stream> Traffic::Run(const std::vector<Ask>& asks, int64_t concurrency) {
  std::vector<int64_t> sent;
  const int64_t before = Finished();
  for (const Ask& ask : asks) {
    {
      std::unique_lock<std::mutex> lock(mutex_);
      ended_.wait(lock, [&] { return std::ssize(sent) - (finished_ - before) < concurrency; });
      FailIfOneDid(std::move(lock));
    }
    sent.push_back(Send(ask));
  }
  std::vector<Stream> streams;
  for (const int64_t each : sent) streams.push_back(Wait(each));
  return streams;
}

int64_t Traffic::Finished() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return finished_;
}

void Traffic::FailIfOneDid(std::unique_lock<std::mutex> lock) {
  if (why_failed_.empty()) return;
  const std::string why = why_failed_;
  lock.unlock();  // the others go on to their ends
  Fail(why);
}

double TokensPerSecond(const std::vector<Stream>& streams) {
  int64_t tokens = 0, begin_us = streams.front().submitted_us, end_us = 0;
  for (const Stream& stream : streams) {
    tokens += std::ssize(stream.token_us);
    end_us = std::max(end_us, stream.last_us());
  }
  return 1e6 * static_cast<double>(tokens) / static_cast<double>(std::max<int64_t>(1, end_us - begin_us));
}

double SteadyTokensPerSecond(const std::vector<Stream>& streams) {
  int64_t begin_us = 0, end_us = streams.front().last_us();
  for (const Stream& stream : streams) {
    begin_us = std::max(begin_us, stream.first_us());
    end_us = std::min(end_us, stream.last_us());
  }
  if (end_us <= begin_us) return TokensPerSecond(streams);  // they never ran all at once
  int64_t tokens = 0;
  for (const Stream& stream : streams) {
    tokens += std::count_if(stream.token_us.begin(), stream.token_us.end(),
                            [&](int64_t at_us) { return at_us > begin_us && at_us <= end_us; });
  }
  return 1e6 * static_cast<double>(tokens) / static_cast<double>(end_us - begin_us);
}

}  // namespace lorad::bench
