#include <iostream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "clients/adapterctl/output.h"
#include "clients/adapterctl/verbs.h"
#include "lorad/v1/inference.grpc.pb.h"

namespace lorad::adapterctl {

Verb AddClassify(CLI::App& app) {
  struct Flags {
    std::string adapter, text;
    std::vector<uint32_t> token_ids;
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand("classify", "Class logits of an adapter with a classifier head");
  command->add_option("text", flags->text, "- or nothing reads it from standard input");
  command->add_option("--adapter", flags->adapter, "Its name")->required();
  command->add_option("--token-ids", flags->token_ids, "Token ids instead of a text: 1,2,3")
      ->allow_extra_args(false)
      ->delimiter(',');

  return {command, [flags](Session& session) {
            v1::ClassifyRequest request;
            request.set_adapter(flags->adapter);
            if (!flags->token_ids.empty()) {
              for (const uint32_t id : flags->token_ids) request.mutable_token_ids()->add_ids(id);
            } else if (flags->text.empty() || flags->text == "-") {
              request.set_text(std::string(std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>()));
            } else {
              request.set_text(flags->text);
            }
            const auto channel = session.Connect();
            if (!channel) return kUnreachable;
            const auto stub = v1::Inference::NewStub(channel);
            grpc::ClientContext context;
            v1::ClassifyResponse response;
            const grpc::Status status = stub->Classify(&context, request, &response);
            if (!status.ok()) return session.Fail(status);
            if (session.json()) {
              PrintJson({{"adapter", flags->adapter},
                         {"labels", std::vector<std::string>(response.labels().begin(), response.labels().end())},
                         {"logits", std::vector<float>(response.logits().begin(), response.logits().end())}});
            } else {
              std::vector<std::vector<std::string>> rows = {{"LABEL", "LOGIT"}};
              for (int i = 0; i < response.logits_size(); ++i) {
                rows.push_back({response.labels(i), std::to_string(response.logits(i))});
              }
              PrintTable(rows);
            }
            return kDone;
          }};
}

}  // namespace lorad::adapterctl
