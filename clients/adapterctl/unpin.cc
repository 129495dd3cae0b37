#include <memory>

#include "clients/adapterctl/output.h"
#include "clients/adapterctl/verbs.h"
#include "lorad/v1/adapters.grpc.pb.h"

namespace lorad::adapterctl {

Verb AddUnpin(CLI::App& app) {
  auto name = std::make_shared<std::string>();
  CLI::App* command = app.add_subcommand("unpin", "Let an adapter be evicted when its memory is wanted");
  command->add_option("name", *name, "Its name")->required();

  return {command, [name](Session& session) {
            const auto channel = session.Connect();
            if (!channel) return kUnreachable;
            const auto stub = v1::Adapters::NewStub(channel);
            grpc::ClientContext context;
            v1::PinAdapterRequest request;
            request.set_name(*name);
            request.set_pinned(false);
            v1::Adapter adapter;
            const grpc::Status status = stub->PinAdapter(&context, request, &adapter);
            if (!status.ok()) return session.Fail(status);
            PrintAdapter(adapter, session.json());
            return kDone;
          }};
}

}  // namespace lorad::adapterctl
