#include "clients/adapterctl/session.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <limits>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>

namespace lorad::adapterctl {
namespace {

constexpr std::chrono::seconds kConnectTimeout{10};

std::string NameOf(grpc::StatusCode code) {
  switch (code) {
    case grpc::StatusCode::OK:
      return "OK";
    case grpc::StatusCode::CANCELLED:
      return "CANCELLED";
    case grpc::StatusCode::INVALID_ARGUMENT:
      return "INVALID_ARGUMENT";
    case grpc::StatusCode::DEADLINE_EXCEEDED:
      return "DEADLINE_EXCEEDED";
    case grpc::StatusCode::NOT_FOUND:
      return "NOT_FOUND";
    case grpc::StatusCode::ALREADY_EXISTS:
      return "ALREADY_EXISTS";
    case grpc::StatusCode::PERMISSION_DENIED:
      return "PERMISSION_DENIED";
    case grpc::StatusCode::RESOURCE_EXHAUSTED:
      return "RESOURCE_EXHAUSTED";
    case grpc::StatusCode::FAILED_PRECONDITION:
      return "FAILED_PRECONDITION";
    case grpc::StatusCode::ABORTED:
      return "ABORTED";
    case grpc::StatusCode::UNIMPLEMENTED:
      return "UNIMPLEMENTED";
    case grpc::StatusCode::INTERNAL:
      return "INTERNAL";
    case grpc::StatusCode::UNAVAILABLE:
      return "UNAVAILABLE";
    case grpc::StatusCode::DATA_LOSS:
      return "DATA_LOSS";
    default:
      return "UNKNOWN";
  }
}

}  // namespace

// What to do about it, where the message of the daemon cannot know.
std::string Session::HintFor(grpc::StatusCode code) const {
  if (const auto of_verb = hints_.find(code); of_verb != hints_.end()) return of_verb->second;
  switch (code) {
    case grpc::StatusCode::NOT_FOUND:
      return "adapterctl list shows what is there";
    case grpc::StatusCode::RESOURCE_EXHAUSTED:
      return "try again later";
    case grpc::StatusCode::UNAVAILABLE:
      return "the daemon is starting or ending; try again later";
    default:
      return "";
  }
}

std::shared_ptr<grpc::Channel> Session::Connect() {
  if (channel_) return channel_;
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);  // The daemon's own limits are enough.
  auto channel = grpc::CreateCustomChannel(globals_.server, grpc::InsecureChannelCredentials(), arguments);
  const auto deadline = std::chrono::system_clock::now() + kConnectTimeout;
  grpc_connectivity_state state = channel->GetState(/*try_to_connect=*/true);
  while (state != GRPC_CHANNEL_READY && state != GRPC_CHANNEL_TRANSIENT_FAILURE && state != GRPC_CHANNEL_SHUTDOWN) {
    if (!channel->WaitForStateChange(state, deadline)) break;
    state = channel->GetState(true);
  }
  if (state != GRPC_CHANNEL_READY) {
    Report("UNREACHABLE", "no daemon answers at " + globals_.server,
           "start lorad, or say where it is with --server=HOST:PORT", kUnreachable);
    return nullptr;
  }
  channel_ = std::move(channel);
  return channel_;
}

int Session::Report(const std::string& code, const std::string& message, const std::string& hint, int exit_code) const {
  if (json()) {
    nlohmann::ordered_json error = {{"error", {{"code", code}, {"message", message}, {"hint", hint}}}};
    std::fprintf(stderr, "%s\n", error.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
  } else {
    std::fprintf(stderr, "adapterctl: %s: %s\n", code.c_str(), message.c_str());
    if (!hint.empty()) std::fprintf(stderr, "  hint: %s\n", hint.c_str());
  }
  return exit_code;
}

int Session::Fail(const grpc::Status& status) const {
  return Report(NameOf(status.error_code()), status.error_message(), HintFor(status.error_code()), kFailed);
}

int Session::FailUsage(const std::string& message) const {
  return Report("USAGE", message, "adapterctl --help", kUsage);
}

grpc::Status WithProgress(const std::string& what,
                          const std::function<void(std::function<void(grpc::Status)>)>& start) {
  std::mutex mutex;
  std::condition_variable wake;
  std::optional<grpc::Status> result;
  start([&](grpc::Status status) {
    const std::lock_guard<std::mutex> lock(mutex);
    result = std::move(status);
    wake.notify_all();
  });

  const bool terminal = isatty(STDERR_FILENO) != 0;
  const auto began = std::chrono::steady_clock::now();
  std::unique_lock<std::mutex> lock(mutex);
  while (!wake.wait_for(lock, std::chrono::milliseconds(200), [&] { return result.has_value(); })) {
    if (!terminal) continue;
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
    std::fprintf(stderr, "\r%s … %.1f s\033[K", what.c_str(), seconds);
    std::fflush(stderr);
  }
  if (terminal) std::fprintf(stderr, "\r\033[K");
  return *result;
}

}  // namespace lorad::adapterctl
