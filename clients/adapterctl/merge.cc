#include <unistd.h>

#include <cstdio>
#include <memory>

#include "clients/adapterctl/output.h"
#include "clients/adapterctl/verbs.h"
#include "lorad/v1/adapters.grpc.pb.h"

namespace lorad::adapterctl {

Verb AddMerge(CLI::App& app) {
  auto request = std::make_shared<v1::MergeAdapterRequest>();
  CLI::App* command = app.add_subcommand("merge", "Write a copy of the base with an adapter in its weights");
  command
      ->add_option_function<std::string>(
          "name", [request](const std::string& name) { request->set_name(name); }, "Of the adapter")
      ->required();
  command
      ->add_option_function<std::string>(
          "--output", [request](const std::string& path) { request->set_output_path(path); },
          "Folder to be made, on the daemon's side; must not exist")
      ->required();

  return {
      command, [request](Session& session) {
        session.SetHint(grpc::StatusCode::ALREADY_EXISTS,
                        "name a folder that is not there yet; nothing is written over");
        const auto channel = session.Connect();
        if (!channel) return kUnreachable;
        const auto stub = v1::Adapters::NewStub(channel);
        grpc::ClientContext context;
        const auto reader = stub->MergeAdapter(&context, *request);
        const bool shows = isatty(STDERR_FILENO) != 0;
        v1::MergeProgress progress;
        while (reader->Read(&progress)) {
          if (shows)
            std::fprintf(stderr, "\rtensors: %u of %u\033[K", progress.tensors_done(), progress.tensors_total());
        }
        if (shows) std::fprintf(stderr, "\r\033[K");
        const grpc::Status status = reader->Finish();
        if (!status.ok()) return session.Fail(status);
        if (session.json()) {
          PrintJson(
              {{"merged", request->name()}, {"output", request->output_path()}, {"tensors", progress.tensors_total()}});
        } else {
          std::printf("merged %s into %s (%u tensors)\n", request->name().c_str(), request->output_path().c_str(),
                      progress.tensors_total());
        }
        return kDone;
      }};
}

}  // namespace lorad::adapterctl
