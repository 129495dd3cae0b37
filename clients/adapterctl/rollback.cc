#include <memory>

#include "clients/adapterctl/output.h"
#include "clients/adapterctl/verbs.h"
#include "lorad/v1/adapters.grpc.pb.h"

namespace lorad::adapterctl {

Verb AddRollback(CLI::App& app) {
  auto target = std::make_shared<std::string>();
  CLI::App* command = app.add_subcommand("rollback", "Let a trained adapter's name mean an earlier revision");
  command->add_option("target", *target, "NAME: the revision before; NAME@REV: that one")->required();

  return {command, [target](Session& session) {
            const auto channel = session.Connect();
            if (!channel) return kUnreachable;
            const auto stub = v1::Adapters::NewStub(channel);
            grpc::ClientContext context;
            v1::RollbackAdapterRequest request;
            const size_t at = target->find('@');
            request.set_name(target->substr(0, at));
            if (at != std::string::npos) request.set_revision(target->substr(at + 1));
            v1::Adapter adapter;
            const grpc::Status status = stub->RollbackAdapter(&context, request, &adapter);
            if (!status.ok()) return session.Fail(status);
            PrintAdapter(adapter, session.json());
            return kDone;
          }};
}

}  // namespace lorad::adapterctl
