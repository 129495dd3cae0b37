#include "clients/loadgen/visits.h"

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <memory>
#include <utility>

#include "lorad/v1/adapters.grpc.pb.h"

namespace lorad {
namespace {

std::string NameOf(int64_t visitor) { return "visitor-" + std::to_string(visitor); }

std::string Told(const std::string& what, const grpc::Status& status) {
  return status.ok() ? "" : what + ": " + status.error_message();
}

std::unique_ptr<v1::Adapters::Stub> Connect(const std::string& server) {
  return v1::Adapters::NewStub(grpc::CreateChannel(server, grpc::InsecureChannelCredentials()));
}

}  // namespace

Visits::Visits(VisitOptions options) : options_(std::move(options)), thread_([this] { Load(); }) {}

Visits::~Visits() { End(); }

bool Visits::Wait(double seconds) {
  const auto pause = std::chrono::duration<double>(seconds);
  std::unique_lock<std::mutex> lock(mutex_);
  return !changed_.wait_for(lock, pause, [this] { return ending_; });
}

void Visits::Load() {
  const auto stub = Connect(options_.server);
  const auto begin = std::chrono::steady_clock::now();
  const auto count = static_cast<double>(options_.folders.size());
  for (const std::string& folder : options_.folders) {
    const double at = options_.seconds * static_cast<double>(result_.loaded) / count;
    const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - begin;
    if (!Wait(at - passed.count())) return;
    v1::LoadAdapterRequest request;
    request.set_name(NameOf(result_.loaded));
    request.set_path(folder);
    grpc::ClientContext context;
    v1::Adapter adapter;
    result_.error = Told("loading " + folder, stub->LoadAdapter(&context, request, &adapter));
    if (!result_.error.empty()) return;
    ++result_.loaded;
  }
}

Visits::Result Visits::End() {
  if (!thread_.joinable()) return result_;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
  thread_.join();
  const auto stub = Connect(options_.server);
  for (int64_t i = 0; i < result_.loaded; ++i) {
    v1::UnloadAdapterRequest request;
    request.set_name(NameOf(i));
    grpc::ClientContext context;
    v1::UnloadAdapterResponse response;
    const std::string error = Told("unloading " + NameOf(i), stub->UnloadAdapter(&context, request, &response));
    if (result_.error.empty()) result_.error = error;
  }
  return result_;
}

}  // namespace lorad
