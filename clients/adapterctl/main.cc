#include <CLI/CLI.hpp>
#include <cstdio>
#include <string>
#include <vector>

#include "clients/adapterctl/session.h"
#include "clients/adapterctl/train/verbs.h"
#include "clients/adapterctl/verbs.h"
#include "model/base/arguments.h"

namespace {

// The verb that the command line got to before it went wrong.
const CLI::App& Innermost(const CLI::App& app) {
  const std::vector<CLI::App*> typed = app.get_subcommands();
  return typed.empty() ? app : Innermost(*typed.front());
}

std::string CommandOf(const CLI::App& verb) {
  return verb.get_parent() == nullptr ? verb.get_name() : CommandOf(*verb.get_parent()) + " " + verb.get_name();
}

// Who names no verb wants to know which there are; who names a wrong one, too, but in a line.
int TellOfMistake(const CLI::App& app, const CLI::ParseError& error) {
  const CLI::App& at = Innermost(app);
  const std::vector<const CLI::App*> verbs = at.get_subcommands([](const CLI::App*) { return true; });
  const std::vector<std::string> unknown = app.remaining(/*recurse=*/true);
  const bool no_verb = dynamic_cast<const CLI::RequiredError*>(&error) != nullptr && !verbs.empty();
  if (no_verb && unknown.empty()) {
    std::fputs(app.help().c_str(), stderr);
    return lorad::adapterctl::kUsage;
  }
  std::string what = error.what();
  if (no_verb && unknown[0].starts_with('-')) {
    what = "flag: " + unknown[0] + "; not known";
  } else if (no_verb) {
    what = "verb: " + unknown[0] + "; limit: ";
    for (const CLI::App* const verb : verbs) what += verb->get_name() + (verb == verbs.back() ? "" : ", ");
  }
  std::fprintf(stderr, "adapterctl: %s\n  hint: %s --help\n", what.c_str(), CommandOf(at).c_str());
  return lorad::adapterctl::kUsage;
}

// What gRPC would look for in vain, or take for another kind of address; "" for HOST:PORT and dns:///HOST:PORT.
std::string WrongAddress(const std::string& server) {
  const bool is_url = server.starts_with("http://") || server.starts_with("https://");
  if (!is_url && server.find(':') != std::string::npos) return "";
  return (server.empty() ? "nothing" : server) + "; limit: HOST:PORT of --listen, without http://";
}

}  // namespace

int main(int argc, char** argv) {
  using namespace lorad::adapterctl;  // NOLINT: this file is the program's table of contents.

  Globals globals;
  CLI::App app("Talks to a running lorad.", "adapterctl");
  app.get_formatter()->column_width(36);  // the longest flag with its default
  app.require_subcommand(1);
  app.fallthrough();
  app.add_option("--server", globals.server, "HOST:PORT of the daemon")->capture_default_str()->check(WrongAddress);
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
    return TellOfMistake(app, error);
  }
  Session session(globals);
  for (const Verb& verb : verbs) {
    if (verb.command->parsed()) return verb.run(session);
  }
  return kUsage;
}
