#include <memory>

#include "clients/adapterctl/adapter_call.h"
#include "clients/adapterctl/verbs.h"

namespace lorad::adapterctl {

Verb AddShow(CLI::App& app) {
  auto name = std::make_shared<std::string>();
  CLI::App* command = app.add_subcommand("show", "Show one adapter");
  command->add_option("name", *name, "Its name")->required();

  return {command, [name](Session& session) {
            v1::GetAdapterRequest request;
            request.set_name(*name);
            return ShowAnswer(session, &v1::Adapters::Stub::GetAdapter, request);
          }};
}

}  // namespace lorad::adapterctl
