#include "server/signals.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

namespace lorad {
namespace {

sigset_t Handled() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  return set;
}

}  // namespace

Signals::Signals() {
  const sigset_t set = Handled();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  signal(SIGPIPE, SIG_IGN);  // A closed pipe is an error of that write alone.
  signal(SIGXFSZ, SIG_IGN);  // And so is a file too large for the process's limit.
  thread_ = std::thread([this] { Run(); });
}

Signals::~Signals() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  pthread_kill(thread_.native_handle(), SIGTERM);
  thread_.join();
}

void Signals::Run() {
  const sigset_t set = Handled();
  for (;;) {
    int number = 0;
    if (sigwait(&set, &number) != 0) continue;
    const std::lock_guard<std::mutex> lock(mutex_);
    if (stopping_) return;
    if (came_ || !drains_) _exit(128 + number);
    came_ = true;
    wake_.notify_all();
  }
}

void Signals::StartDrainingOnSignal() {
  const std::lock_guard<std::mutex> lock(mutex_);
  drains_ = true;
}

void Signals::Wait() {
  std::unique_lock<std::mutex> lock(mutex_);
  wake_.wait(lock, [this] { return came_; });
}

void Signals::Interrupt() {
  const std::lock_guard<std::mutex> lock(mutex_);
  came_ = true;
  wake_.notify_all();
}

}  // namespace lorad
