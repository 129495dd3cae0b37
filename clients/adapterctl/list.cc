#include <cstdio>

#include "clients/adapterctl/output.h"
#include "clients/adapterctl/verbs.h"
#include "lorad/v1/adapters.grpc.pb.h"

namespace lorad::adapterctl {
namespace {

constexpr uint32_t kPageSize = 1000;

std::string OrDash(const std::string& text) { return text.empty() ? "-" : text; }

std::string Rank(const v1::Adapter& adapter) {
  return adapter.rank_max() == 0 ? "-" : std::to_string(adapter.rank_max());
}

}  // namespace

Verb AddList(CLI::App& app) {
  CLI::App* command = app.add_subcommand("list", "List the adapters");

  return {
      command, [](Session& session) {
        const auto channel = session.Connect();
        if (!channel) return kUnreachable;
        const auto stub = v1::Adapters::NewStub(channel);
        nlohmann::ordered_json listed = nlohmann::ordered_json::array();
        std::vector<std::vector<std::string>> rows = {
            {"NAME", "STATE", "KIND", "RANK", "SIZE", "PINNED", "RUNNING", "WAITING"}};
        std::vector<std::string> errors;  // below the table, since they are long
        std::string page_token;
        do {
          grpc::ClientContext context;
          v1::ListAdaptersRequest request;
          request.set_page_size(kPageSize);
          request.set_page_token(page_token);
          v1::ListAdaptersResponse response;
          const grpc::Status status = stub->ListAdapters(&context, request, &response);
          if (!status.ok()) return session.Fail(status);
          for (const v1::Adapter& adapter : response.adapters()) {
            listed.push_back(ToJson(adapter));
            if (!adapter.error().empty()) errors.push_back(adapter.name() + ": " + adapter.error());
            rows.push_back({adapter.name(), NameOf(adapter.state()), OrDash(adapter.kind()), Rank(adapter),
                            adapter.bytes() == 0 ? "-" : HumanBytes(adapter.bytes()), adapter.pinned() ? "yes" : "no",
                            std::to_string(adapter.running_requests()), std::to_string(adapter.waiting_requests())});
          }
          page_token = response.next_page_token();
        } while (!page_token.empty());
        if (session.json()) {
          PrintJson({{"adapters", listed}});
        } else if (rows.size() == 1) {
          std::printf("no adapters; adapterctl load NAME PATH adds one\n");
        } else {
          PrintTable(rows);
          for (const std::string& error : errors) std::printf("%s\n", error.c_str());
        }
        return kDone;
      }};
}

}  // namespace lorad::adapterctl
