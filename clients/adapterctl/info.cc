#include "clients/adapterctl/output.h"
#include "clients/adapterctl/verbs.h"
#include "lorad/v1/inference.grpc.pb.h"

namespace lorad::adapterctl {

Verb AddInfo(CLI::App& app) {
  CLI::App* command = app.add_subcommand("info", "Show the base model");

  return {command, [](Session& session) {
            const auto channel = session.Connect();
            if (!channel) return kUnreachable;
            const auto stub = v1::Inference::NewStub(channel);
            grpc::ClientContext context;
            v1::ModelInfo info;
            const grpc::Status status = stub->GetModelInfo(&context, v1::GetModelInfoRequest(), &info);
            if (!status.ok()) return session.Fail(status);
            if (session.json()) {
              PrintJson(ToJson(info));
              return kDone;
            }
            PrintTable({{"model", info.name()},
                        {"architecture", info.architecture()},
                        {"dtype", info.dtype()},
                        {"quantization", info.quantization().empty() ? "none" : info.quantization()},
                        {"device", info.device()},
                        {"context", std::to_string(info.max_context_tokens()) + " tokens"},
                        {"vocabulary", std::to_string(info.vocab_size())},
                        {"layers", std::to_string(info.num_layers()) + " of " + std::to_string(info.hidden_size())},
                        {"weights", HumanBytes(info.weight_bytes())},
                        {"digest", info.digest()},
                        {"lorad", info.version()}});
            return kDone;
          }};
}

}  // namespace lorad::adapterctl
