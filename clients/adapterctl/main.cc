#include <CLI/CLI.hpp>
#include <cstdio>
#include <string>
#include <vector>

#include "clients/adapterctl/session.h"
#include "clients/adapterctl/train/verbs.h"
#include "clients/adapterctl/verbs.h"
#include "model/base/arguments.h"

int main(int argc, char** argv) {
  using namespace lorad::adapterctl;  // NOLINT: this file is the program's table of contents.

  Globals globals;
  CLI::App app("Talks to a running lorad.", "adapterctl");
  app.require_subcommand(1);
  app.fallthrough();
  app.add_option("--server", globals.server, "HOST:PORT of the daemon")->capture_default_str();
  app.add_option("--output", globals.output, "table or json")
      ->capture_default_str()
      ->check(CLI::IsMember({"table", "json"}));
  app.footer("\nExit codes: 0 done, 1 the daemon refused or failed, 2 wrong usage, 3 no daemon answers.");

  std::vector<Verb> verbs;
  for (Verb (*add)(CLI::App&) : {AddLoad, AddUnload, AddList, AddShow, AddPin, AddUnpin, AddRollback, AddGenerate,
                                 AddInfo, AddMerge, AddConvert, AddClassify}) {
    verbs.push_back(add(app));
  }
  CLI::App* train = app.add_subcommand("train", "Fine-tune adapters in the daemon");
  train->require_subcommand(1);
  train->fallthrough();
  for (Verb (*add)(CLI::App&) : {AddTrainSubmit, AddTrainList, AddTrainShow, AddTrainWatch, AddTrainPause,
                                 AddTrainResume, AddTrainCancel, AddTrainDelete, AddTrainPreview}) {
    verbs.push_back(add(*train));
  }
  // CLI11 tells by exceptions; they end here.
  try {
    app.parse(lorad::ArgumentsForCli(argc, argv));
  } catch (const CLI::Success& help) {
    return app.exit(help);
  } catch (const CLI::ParseError& error) {
    std::fprintf(stderr, "adapterctl: %s\n  hint: adapterctl --help, or adapterctl VERB --help\n", error.what());
    return kUsage;
  }
  Session session(globals);
  for (const Verb& verb : verbs) {
    if (verb.command->parsed()) return verb.run(session);
  }
  return kUsage;
}
