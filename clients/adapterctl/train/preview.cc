#include <cstdio>
#include <memory>

#include "clients/adapterctl/output.h"
#include "clients/adapterctl/train/data_flags.h"
#include "clients/adapterctl/train/verbs.h"
#include "lorad/v1/finetuning.grpc.pb.h"

namespace lorad::adapterctl {
namespace {

void Print(const v1::PreviewExampleResponse& preview, bool json) {
  nlohmann::ordered_json tokens = nlohmann::ordered_json::array();
  std::vector<std::vector<std::string>> rows = {{"ID", "LEARNT", "TOKEN"}};
  for (int i = 0; i < preview.token_ids_size(); ++i) {
    const std::string piece = i < preview.pieces_size() ? preview.pieces(i) : "";
    tokens.push_back({{"id", preview.token_ids(i)}, {"piece", piece}, {"trained", preview.trained(i)}});
    rows.push_back({std::to_string(preview.token_ids(i)), preview.trained(i) ? "yes" : "-", piece});
  }
  if (json) {
    PrintJson({{"tokens", tokens}});
  } else {
    PrintTable(rows);
  }
}

}  // namespace

Verb AddTrainPreview(CLI::App& train) {
  CLI::App* command = train.add_subcommand("preview", "Show how an example is tokenised, and what of it is learnt");
  auto request = std::make_shared<v1::PreviewExampleRequest>();
  request->set_line(1);
  command->add_option_function<uint32_t>(
      "--line", [request](const uint32_t& v) { request->set_line(v); }, "Of the data, from 1 (1)");
  auto data = AddDataFlags(command, request->mutable_dataset());
  return {command, [request, data](Session& session) {
            if (!ReadInline(*data, request->mutable_dataset())) {
              return session.FailUsage("--inline: " + data->file + ": cannot be read");
            }
            const auto channel = session.Connect();
            if (!channel) return kUnreachable;
            grpc::ClientContext context;
            v1::PreviewExampleResponse response;
            const grpc::Status status = v1::FineTuning::NewStub(channel)->PreviewExample(&context, *request, &response);
            if (!status.ok()) return session.Fail(status);
            Print(response, session.json());
            return kDone;
          }};
}

}  // namespace lorad::adapterctl
