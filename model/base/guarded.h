#pragma once

#include <exception>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace lorad {

// LibTorch throws; absl::Status does not cross its calls. Inside Guarded an error becomes an exception (ThrowIfError),
// and Guarded, which stands around load and around forward and nowhere else, turns every exception into a Status.
class StatusException final : public std::exception {
 public:
  explicit StatusException(absl::Status status) : status_(std::move(status)), what_(status_.ToString()) {}
  const absl::Status& status() const { return status_; }
  const char* what() const noexcept override { return what_.c_str(); }

 private:
  absl::Status status_;
  std::string what_;
};

// Only under Guarded.
inline void ThrowIfError(absl::Status status) {
  if (!status.ok()) throw StatusException(std::move(status));
}

// Runs `fn`, which returns absl::Status or absl::StatusOr<T>. Errors: the thrown Status; ResourceExhausted for
// std::bad_alloc; Internal with the message for anything else (c10::Error is a std::exception).
template <typename Fn>
auto Guarded(Fn&& fn) -> decltype(fn()) {
  try {
    return fn();
  } catch (const StatusException& e) {
    return e.status();
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("out of memory while computing; lower --memory-bytes or --max-batch-tokens");
  } catch (const std::exception& e) {
    return absl::InternalError(e.what());
  }
}

}  // namespace lorad
