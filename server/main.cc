#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cstdio>
#include <variant>

#include "server/config.h"
#include "server/daemon.h"
#include "server/log.h"
#include "server/signals.h"

// jemalloc's options. Its own thread gives back what a burst left, also when nobody allocates any more.
extern "C" {
extern const char* const malloc_conf;
const char* const malloc_conf = "background_thread:true";
}

int main(int argc, char** argv) {
  std::variant<lorad::ServerConfig, lorad::ConfigExit> outcome = lorad::ParseConfig(argc, argv);
  if (const auto* exit = std::get_if<lorad::ConfigExit>(&outcome)) {
    std::fputs(exit->text.c_str(), exit->code == 0 ? stdout : stderr);
    return exit->code;
  }

  // libgomp reads how its threads wait when it is loaded, before main; spinning ones would take the core that the
  // engine, gRPC and the tokenizer need.
  if (!lorad::OmpWaitPolicyIsSet()) {
    setenv("GOMP_SPINCOUNT", "3000", 1);  // some 10 us: training's regions follow one another as closely
    execv("/proc/self/exe", argv);
  }

  prctl(PR_SET_NAME, "lorad");  // the system called it after the link it was run by
  const auto& config = std::get<lorad::ServerConfig>(outcome);
  lorad::Signals signals;
  lorad::Log log(config.log_level);
  return lorad::RunDaemon(config, &signals, &log);
}
