#include <memory>

#include "clients/adapterctl/adapter_call.h"
#include "clients/adapterctl/verbs.h"

namespace lorad::adapterctl {
namespace {

Verb AddPinning(CLI::App& app, const char* verb, const char* help, bool pinned) {
  auto name = std::make_shared<std::string>();
  CLI::App* command = app.add_subcommand(verb, help);
  command->add_option("name", *name, "Its name")->required();

  return {command, [name, pinned](Session& session) {
            v1::PinAdapterRequest request;
            request.set_name(*name);
            request.set_pinned(pinned);
            return ShowAnswer(session, &v1::Adapters::Stub::PinAdapter, request);
          }};
}

}  // namespace

Verb AddPin(CLI::App& app) { return AddPinning(app, "pin", "Keep an adapter in the pool", /*pinned=*/true); }

Verb AddUnpin(CLI::App& app) {
  return AddPinning(app, "unpin", "Let an adapter be evicted when its memory is wanted", /*pinned=*/false);
}

}  // namespace lorad::adapterctl
