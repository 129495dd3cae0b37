#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <string>

#include "lorad/v1/inference.pb.h"
#include "scheduler/request.h"
#include "server/backend.h"
#include "server/reply_builder.h"

namespace lorad {

// Numbers that differ from request to request. Threads: any.
class RequestNumbers final {
 public:
  RequestId NextId();
  uint64_t DrawSeed();

 private:
  std::mutex mutex_;
  RequestId last_id_ = 0;
  std::mt19937_64 seeds_{std::random_device{}()};
};

// One Generate call: takes the engine's events, sends messages, and never holds more than kMaxUnsentBytes of them
// behind the one being written for a client that does not read. A message with the prompt's log-probabilities, at most
// one a sequence, is not counted: it was asked for as a whole.
//
// Threads  OnEvent and OnTokenizer on the engine thread, which only hands over; the rest on the pump's, on LongTexts'
//          and on gRPC's.
// Lives    until gRPC says OnDone and the engine has let go of the sink.
class GenerateReactor final : public grpc::ServerWriteReactor<v1::GenerateResponse>,
                              public TokenSink,
                              public std::enable_shared_from_this<GenerateReactor> {
 public:
  static constexpr size_t kMaxUnsentBytes = size_t{256} << 10;

  // Checks, tokenises and submits the request, after this returns where its text is long; what is refused ends the
  // call.
  static GenerateReactor* Start(grpc::CallbackServerContext* context, const v1::GenerateRequest& proto,
                                const Backend* backend, RequestNumbers* numbers, Metrics* metrics, Log* log);
  // A call that ends with `status` before it begins.
  static GenerateReactor* Refuse(const absl::Status& status, Metrics* metrics, Log* log);

  void OnEvent(TokenEvent event) override;
  void OnTokenizer(std::shared_ptr<const Tokenizer> tokenizer) override;

  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  GenerateReactor(grpc::CallbackServerContext* context, const Backend* backend, Metrics* metrics, Log* log)
      : backend_(backend), metrics_(metrics), log_(log), context_(context) {}

  struct Arrival {
    int64_t now_us;
    std::optional<int64_t> deadline_us;
  };
  void BeginOrEnd(const Arrival& arrival, const v1::GenerateRequest& proto, RequestNumbers* numbers);
  absl::Status Begin(const Arrival& arrival, const v1::GenerateRequest& proto, RequestNumbers* numbers);
  // The request is in the engine's queue, and this is its tokenizer.
  void GivePrompt(std::shared_ptr<const Tokenizer> tokenizer);
  void BuildRepliesTo(const Request& request);  // with the lock
  // On the pump.
  void Handle(const TokenEvent& event);
  void WaitForReader();
  std::optional<UnreadAnswer> Unread();
  void GiveUpOnReader();
  // The rest need mutex_.
  void Enqueue(std::vector<v1::GenerateResponse> messages);
  void SendNext();
  void End(const absl::Status& status);

  const Backend* const backend_;
  Metrics* const metrics_;
  Log* const log_;
  RequestId id_ = 0;
  std::string request_id_;
  std::shared_ptr<GenerateReactor> self_;  // until OnDone

  std::mutex mutex_;
  grpc::CallbackServerContext* context_;  // until OnDone
  // What makes a request whole that awaits its tokenizer.
  struct Awaiting {
    v1::GenerateRequest proto;
    Request request;  // without its sink, which is this
    uint64_t drawn_seed;
  };
  std::unique_ptr<Awaiting> awaiting_;
  std::unique_ptr<ReplyBuilder> builder_;  // once the prompt is known
  struct Unsent {
    v1::GenerateResponse message;
    size_t bytes;
    size_t counted_bytes;
  };
  std::deque<Unsent> unsent_;  // the first is being written while writing_
  size_t unread_bytes_ = 0;    // of all of them
  size_t unsent_bytes_ = 0;    // counted bytes of those behind the one being written
  int64_t last_read_us_ = 0;   // when a message was last taken
  bool writing_ = false;
  bool waiting_for_reader_ = false;
  bool ended_ = false;  // Finish was called: nothing may be sent any more
};

}  // namespace lorad
