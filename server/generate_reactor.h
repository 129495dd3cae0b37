#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>

#include "lorad/v1/inference.pb.h"
#include "scheduler/request.h"
#include "server/backend.h"
#include "server/prompt_call.h"
#include "server/reply_builder.h"

namespace lorad {

// One Generate call: takes the engine's events, sends messages, and never holds more than kMaxUnsentBytes of them
// behind the one being written for a client that does not read. A message with the prompt's log-probabilities, at most
// one a sequence, is not counted: it was asked for as a whole.
//
// Threads, lives: as a PromptCall.
class GenerateReactor final : public grpc::ServerWriteReactor<v1::GenerateResponse>, public PromptCall {
 public:
  static constexpr size_t kMaxUnsentBytes = size_t{256} << 10;

  // Checks, tokenises and submits the request, after this returns where its text is long; what is refused ends the
  // call.
  static GenerateReactor* Start(grpc::CallbackServerContext* context, const v1::GenerateRequest& proto,
                                const Backend* backend, RequestNumbers* numbers, Metrics* metrics, Log* log);
  // A call that ends with `status` before it begins.
  static GenerateReactor* Refuse(const absl::Status& status, Metrics* metrics, Log* log);

  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  GenerateReactor(grpc::CallbackServerContext* context, const Backend* backend, Metrics* metrics, Log* log)
      : PromptCall(backend), metrics_(metrics), log_(log), context_(context) {}

  absl::Status Begin(const Arrival& arrival, const v1::GenerateRequest& proto, RequestNumbers* numbers);
  void OnPrompt(const Request& request) override;
  // On the pump.
  void Handle(const TokenEvent& event) override;
  void WaitForReader();
  std::optional<UnreadAnswer> Unread();
  void GiveUpOnReader();
  // The rest need mutex_.
  void Enqueue(std::vector<v1::GenerateResponse> messages);
  void SendNext();
  void End(const absl::Status& status) override;

  Metrics* const metrics_;
  Log* const log_;

  // Under mutex_.
  std::string request_id_;
  grpc::CallbackServerContext* context_;   // until OnDone
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
};

}  // namespace lorad
