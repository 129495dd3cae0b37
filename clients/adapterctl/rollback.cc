#include <memory>

#include "clients/adapterctl/adapter_call.h"
#include "clients/adapterctl/verbs.h"

namespace lorad::adapterctl {

Verb AddRollback(CLI::App& app) {
  auto target = std::make_shared<std::string>();
  CLI::App* command = app.add_subcommand("rollback", "Let a trained adapter's name mean an earlier revision");
  command->add_option("target", *target, "NAME: the revision before; NAME@REV: that one")->required();

  return {command, [target](Session& session) {
            v1::RollbackAdapterRequest request;
            const size_t at = target->find('@');
            request.set_name(target->substr(0, at));
            if (at != std::string::npos) request.set_revision(target->substr(at + 1));
            return ShowAnswer(session, &v1::Adapters::Stub::RollbackAdapter, request);
          }};
}

}  // namespace lorad::adapterctl
