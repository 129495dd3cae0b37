#include <memory>

#include "clients/adapterctl/output.h"
#include "clients/adapterctl/verbs.h"
#include "lorad/v1/adapters.grpc.pb.h"

namespace lorad::adapterctl {

Verb AddLoad(CLI::App& app) {
  auto request = std::make_shared<v1::LoadAdapterRequest>();
  CLI::App* command = app.add_subcommand("load", "Load an adapter; returns when it can be named");
  command
      ->add_option_function<std::string>(
          "name", [request](const std::string& v) { request->set_name(v); }, "Its name")
      ->required();
  command
      ->add_option_function<std::string>(
          "path", [request](const std::string& v) { request->set_path(v); }, "Its folder, on the daemon's side")
      ->required();
  command->add_flag_callback(
      "--pin", [request] { request->set_pinned(true); }, "Keep it in the pool");
  command->add_flag_callback(
      "--replace", [request] { request->set_replace(true); }, "Put it in the place of one with this name");

  return {command, [request](Session& session) {
            session.SetHint(grpc::StatusCode::NOT_FOUND,
                            "PATH is the daemon's: from --adapter-root, else from the folder that it was started in");
            session.SetHint(grpc::StatusCode::ALREADY_EXISTS, "--replace puts the new one in its place");
            const auto channel = session.Connect();
            if (!channel) return kUnreachable;
            const auto stub = v1::Adapters::NewStub(channel);
            grpc::ClientContext context;
            v1::Adapter adapter;
            const grpc::Status status =
                WithProgress("loading " + request->name(), [&](std::function<void(grpc::Status)> done) {
                  stub->async()->LoadAdapter(&context, request.get(), &adapter, std::move(done));
                });
            if (!status.ok()) return session.Fail(status);
            PrintAdapter(adapter, session.json());
            return kDone;
          }};
}

}  // namespace lorad::adapterctl
