#include "server/backend.h"

#include "absl/status/status.h"

namespace lorad {

absl::Status DrainingError() {
  return absl::UnavailableError("the daemon drains and takes no new requests; use another one");
}

absl::Status CancelledByCaller() { return absl::CancelledError("cancelled by the client, or its deadline passed"); }

absl::StatusOr<const Backend*> Readiness::Get() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (draining_) return DrainingError();
  if (backend_ == nullptr) return absl::UnavailableError("the daemon still loads its model; retry later");
  return backend_;
}

absl::StatusOr<const Backend*> Readiness::GetToRead() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (backend_ == nullptr) return absl::UnavailableError("the daemon still loads its model; retry later");
  return backend_;
}

void Readiness::Publish(const Backend* backend) {
  const std::lock_guard<std::mutex> lock(mutex_);
  backend_ = backend;
}

void Readiness::StartDraining() {
  const std::lock_guard<std::mutex> lock(mutex_);
  draining_ = true;
}

}  // namespace lorad
