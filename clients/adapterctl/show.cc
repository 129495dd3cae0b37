#include <memory>

#include "clients/adapterctl/output.h"
#include "clients/adapterctl/verbs.h"
#include "lorad/v1/adapters.grpc.pb.h"

namespace lorad::adapterctl {

Verb AddShow(CLI::App& app) {
  auto name = std::make_shared<std::string>();
  CLI::App* command = app.add_subcommand("show", "Show one adapter");
  command->add_option("name", *name, "Its name")->required();

  return {command, [name](Session& session) {
            const auto channel = session.Connect();
            if (!channel) return kUnreachable;
            const auto stub = v1::Adapters::NewStub(channel);
            grpc::ClientContext context;
            v1::GetAdapterRequest request;
            request.set_name(*name);
            v1::Adapter adapter;
            const grpc::Status status = stub->GetAdapter(&context, request, &adapter);
            if (!status.ok()) return session.Fail(status);
            PrintAdapter(adapter, session.json());
            return kDone;
          }};
}

}  // namespace lorad::adapterctl
