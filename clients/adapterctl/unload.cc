#include <cstdio>
#include <memory>

#include "clients/adapterctl/output.h"
#include "clients/adapterctl/verbs.h"
#include "lorad/v1/adapters.grpc.pb.h"

namespace lorad::adapterctl {

Verb AddUnload(CLI::App& app) {
  auto name = std::make_shared<std::string>();
  CLI::App* command = app.add_subcommand("unload", "Unload an adapter; returns when its memory is given back");
  command->add_option("name", *name, "Its name")->required();

  return {command, [name](Session& session) {
            const auto channel = session.Connect();
            if (!channel) return kUnreachable;
            const auto stub = v1::Adapters::NewStub(channel);
            grpc::ClientContext context;
            v1::UnloadAdapterRequest request;
            request.set_name(*name);
            v1::UnloadAdapterResponse response;
            const grpc::Status status = WithProgress("unloading " + *name, [&](std::function<void(grpc::Status)> done) {
              stub->async()->UnloadAdapter(&context, &request, &response, std::move(done));
            });
            if (!status.ok()) return session.Fail(status);
            if (session.json()) {
              PrintJson({{"unloaded", *name}});
            } else {
              std::printf("unloaded %s\n", name->c_str());
            }
            return kDone;
          }};
}

}  // namespace lorad::adapterctl
