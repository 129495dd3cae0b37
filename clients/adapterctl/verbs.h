#pragma once

#include <CLI/CLI.hpp>
#include <functional>

#include "clients/adapterctl/session.h"

namespace lorad::adapterctl {

// A verb describes itself to the command line and says what to run; one file each.
struct Verb {
  CLI::App* command;
  std::function<int(Session&)> run;  // the exit code
};

Verb AddLoad(CLI::App& app);
Verb AddUnload(CLI::App& app);
Verb AddList(CLI::App& app);
Verb AddShow(CLI::App& app);
Verb AddPin(CLI::App& app);
Verb AddUnpin(CLI::App& app);
Verb AddRollback(CLI::App& app);
Verb AddGenerate(CLI::App& app);
Verb AddInfo(CLI::App& app);
Verb AddMerge(CLI::App& app);
Verb AddConvert(CLI::App& app);
Verb AddClassify(CLI::App& app);

}  // namespace lorad::adapterctl
