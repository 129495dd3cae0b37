#include "adapters/convert.h"

#include <cstdio>
#include <memory>
#include <string>

#include "clients/adapterctl/output.h"
#include "clients/adapterctl/verbs.h"
#include "model/base/file_source.h"

namespace lorad::adapterctl {

// The one verb that works on files and needs no daemon.
Verb AddConvert(CLI::App& app) {
  struct Paths {
    std::string from, to;
  };
  auto paths = std::make_shared<Paths>();
  CLI::App* command = app.add_subcommand("convert", "Rewrite an adapter's .bin folder as safetensors; needs no daemon");
  command->add_option("folder", paths->from, "With adapter_config.json and adapter_model.bin or .safetensors")
      ->required();
  command->add_option("--output", paths->to, "Folder to be made; must not exist")->required();

  return {command, [paths](Session& session) {
            const auto files = LocalFiles();
            const auto notes = ConvertAdapter(paths->from, paths->to, *files);
            if (!notes.ok()) {
              return session.Fail(grpc::Status(static_cast<grpc::StatusCode>(notes.status().code()),
                                               std::string(notes.status().message())));
            }
            if (session.json()) {
              PrintJson({{"converted", paths->from}, {"output", paths->to}, {"notes", *notes}});
            } else {
              std::printf("converted %s into %s\n", paths->from.c_str(), paths->to.c_str());
              for (const std::string& note : *notes) std::printf("note: %s\n", note.c_str());
            }
            return kDone;
          }};
}

}  // namespace lorad::adapterctl
