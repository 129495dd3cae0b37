#pragma once

#include <memory>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/backend.h"
#include "server/config.h"
#include "server/log.h"
#include "server/metrics/metrics.h"
#include "server/serving_device.h"

namespace lorad {

// The model and all that runs on it, with the engine's thread. Everything given to Start outlives it.
class Serving final {
 public:
  // Loads the model and the adapters of --adapter; tells of its progress on stderr when that is a terminal.
  static absl::StatusOr<std::unique_ptr<Serving>> Start(const ServerConfig& config, const ServingDevice& device,
                                                        Metrics* metrics, Log* log);
  ~Serving();  // after Drain, or after a failed Start

  const Backend* backend() const;

  // No new requests; returns when every one has ended, at the latest a little after `patience_us`.
  void Drain(int64_t patience_us);

 private:
  struct Parts;
  explicit Serving(std::unique_ptr<Parts> parts);
  std::unique_ptr<Parts> parts_;
};

}  // namespace lorad
