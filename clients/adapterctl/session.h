#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>

#include <functional>
#include <map>
#include <memory>
#include <string>

namespace lorad::adapterctl {

// Exit codes; part of the interface.
inline constexpr int kDone = 0;
inline constexpr int kFailed = 1;
inline constexpr int kUsage = 2;
inline constexpr int kUnreachable = 3;

// The flags before the verb.
struct Globals {
  std::string server = "127.0.0.1:50051";
  std::string output = "table";  // or "json"
};

// One run of the program: its connection and its way of saying what went wrong.
class Session final {
 public:
  explicit Session(const Globals& globals) : globals_(globals) {}

  bool json() const { return globals_.output == "json"; }
  const std::string& server() const { return globals_.server; }

  // Connects at the first call. Null when the daemon cannot be reached; that was told, and the exit code is
  // kUnreachable.
  std::shared_ptr<grpc::Channel> Connect();

  // What to do when this verb's call fails so, instead of what is said to any verb's.
  void SetHint(grpc::StatusCode code, const std::string& hint) { hints_[code] = hint; }

  // Tells of a failed call on stderr and returns the exit code.
  int Fail(const grpc::Status& status) const;
  int FailUsage(const std::string& message) const;

 private:
  int Report(const std::string& code, const std::string& message, const std::string& hint, int exit_code) const;

  std::string HintFor(grpc::StatusCode code) const;

  const Globals globals_;
  std::map<grpc::StatusCode, std::string> hints_;
  std::shared_ptr<grpc::Channel> channel_;
};

// Runs one call, given as a starter of an asynchronous one, and shows that it is under way when stderr is a terminal.
grpc::Status WithProgress(const std::string& what, const std::function<void(std::function<void(grpc::Status)>)>& start);

}  // namespace lorad::adapterctl
