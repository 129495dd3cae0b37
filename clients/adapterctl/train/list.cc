#include <cstdio>

#include "clients/adapterctl/output.h"
#include "clients/adapterctl/train/job_output.h"
#include "clients/adapterctl/train/verbs.h"
#include "lorad/v1/finetuning.grpc.pb.h"

namespace lorad::adapterctl {

Verb AddTrainList(CLI::App& train) {
  CLI::App* command = train.add_subcommand("list", "List the jobs, newest first");
  return {command, [](Session& session) {
            const auto channel = session.Connect();
            if (!channel) return kUnreachable;
            const auto stub = v1::FineTuning::NewStub(channel);
            nlohmann::ordered_json listed = nlohmann::ordered_json::array();
            std::vector<std::vector<std::string>> rows = {{"ID", "NAME", "STATE", "STEP", "LOSS", "REASON"}};
            std::string page_token;
            do {
              grpc::ClientContext context;
              v1::ListJobsRequest request;
              request.set_page_token(page_token);
              v1::ListJobsResponse response;
              const grpc::Status status = stub->ListJobs(&context, request, &response);
              if (!status.ok()) return session.Fail(status);
              for (const v1::Job& job : response.jobs()) {
                listed.push_back(ToJson(job));
                char loss[32];
                std::snprintf(loss, sizeof(loss), "%.4f", job.last_loss());
                rows.push_back({job.id(), job.spec().name(), NameOf(job.state()),
                                std::to_string(job.step()) + "/" + std::to_string(job.total_steps()),
                                job.step() > 0 ? loss : "-", job.reason()});
              }
              page_token = response.next_page_token();
            } while (!page_token.empty());
            if (session.json()) {
              PrintJson({{"jobs", listed}});
            } else if (rows.size() == 1) {
              std::printf("no jobs; adapterctl train submit NAME --data=FILE begins one\n");
            } else {
              PrintTable(rows);
            }
            return kDone;
          }};
}

}  // namespace lorad::adapterctl
