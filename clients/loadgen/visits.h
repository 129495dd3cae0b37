#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace lorad {

struct VisitOptions {
  std::string server;                // HOST:PORT of lorad
  std::vector<std::string> folders;  // on the daemon's side; empty: no visits
  double seconds = 10;               // from the first load to the last
};

// Adapters that come while a trace runs: visitor-0, visitor-1, … are loaded one after another at even distances, by one
// connection, so that nothing but the daemon's own work is beside the trace. The first error ends it.
class Visits final {
 public:
  explicit Visits(VisitOptions options);
  ~Visits();  // as End
  Visits(const Visits&) = delete;
  Visits& operator=(const Visits&) = delete;

  struct Result {
    int64_t loaded = 0;
    std::string error;  // of a load or unload; "" none
  };
  // No load begins any more; those that came are unloaded.
  Result End();

 private:
  void Load();
  bool Wait(double seconds);  // false: it is to end

  const VisitOptions options_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool ending_ = false;
  Result result_;  // the thread's until it is joined
  std::thread thread_;
};

}  // namespace lorad
