#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <optional>

#include "clients/loadgen/report.h"
#include "clients/loadgen/visits.h"

namespace lorad {
namespace {

struct Flags {
  std::string server = "127.0.0.1:50051";
  std::string protocol = "grpc";
  std::string base_model = "base";
  std::string json_file;
  int64_t skip = 0;
  TraceOptions trace;
  RunOptions run;
  ReportOptions report;
  VisitOptions visits;
};

void Describe(CLI::App* app, Flags* flags) {
  const auto add = [app](const char* name, auto& value, const char* help) {
    app->add_option(name, value, help)->capture_default_str();
  };
  add("--server", flags->server, "HOST:PORT");
  app->add_option("--protocol", flags->protocol, "grpc (lorad) or http (OpenAI-shaped /v1/completions)")
      ->check(CLI::IsMember({"grpc", "http"}))
      ->capture_default_str();
  add("--base-model", flags->base_model, "The base's name, for http");
  add("--requests", flags->trace.requests, "How many");
  add("--skip", flags->skip, "Leave out so many at the trace's beginning: a long trace can be run in slices");
  add("--concurrency", flags->run.concurrency, "Closed loop: streams that each send when their last one ended");
  add("--rate", flags->trace.rate_per_s, "Open loop instead: requests a second, Gamma arrivals");
  add("--cv", flags->trace.cv, "Of the gaps between arrivals; 1 is Poisson");
  add("--adapters", flags->trace.adapters, "Different adapters asked for; 0: the base alone");
  add("--alpha", flags->trace.alpha, "Adapter int(power(alpha) * adapters); 1 is uniform");
  add("--base-share", flags->trace.base_share, "Of the requests, these go to the base");
  add("--adapter-prefix", flags->run.adapter_prefix, "Adapters are named prefix + index");
  add("--prompt-min", flags->trace.min_prompt_tokens, "Tokens");
  add("--prompt-max", flags->trace.max_prompt_tokens, "Tokens");
  add("--output-min", flags->trace.min_output_tokens, "Tokens");
  add("--output-max", flags->trace.max_output_tokens, "Tokens");
  add("--cancel-share", flags->trace.cancel_share, "Of the requests, these are cancelled midway");
  add("--deadline-share", flags->trace.deadline_share, "Of the requests, these have a deadline (grpc)");
  add("--deadline", flags->trace.deadline_s, "Seconds");
  add("--seed", flags->trace.seed, "Of the trace");
  add("--vocab-size", flags->run.vocab_size, "Prompts are random ids below it");
  app->add_option("--visit", flags->visits.folders,
                  "Folders of adapters to load while the trace runs, as visitor-0, visitor-1, ... (grpc)");
  add("--visit-seconds", flags->visits.seconds, "The loads are spread over so many");
  add("--slo-first-token", flags->report.slo_first_token_s, "Seconds; the report's slo_attainment");
  add("--json", flags->json_file, "Write the report here, with every latency");
}

double CpuSeconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

// 0, or 1 when a request had no proper end or an adapter could not be loaded.
int Main(const Flags& flags) {
  const auto transport =
      flags.protocol == "grpc" ? MakeGrpcTransport(flags.server) : MakeHttpTransport(flags.server, flags.base_model);
  TraceOptions whole = flags.trace;
  whole.requests += flags.skip;
  std::vector<TraceRequest> trace = MakeTrace(whole);
  trace.erase(trace.begin(), trace.begin() + flags.skip);
  std::optional<Visits> visits;
  if (!flags.visits.folders.empty()) visits.emplace(flags.visits);
  const RunResult result = RunTrace(trace, flags.run, transport.get());
  ReportOptions options = flags.report;
  options.open_loop = flags.run.open_loop;
  options.client_cpu_s = CpuSeconds();
  nlohmann::json report = MakeReport(result, options);
  const Visits::Result visited = visits ? visits->End() : Visits::Result();
  if (visits) report["visits"] = {{"loaded", visited.loaded}, {"error", visited.error}};
  std::cout << ToText(report);
  if (!visited.error.empty()) std::cerr << "loadgen: " << visited.error << "\n";
  if (!flags.json_file.empty()) std::ofstream(flags.json_file) << report.dump(2) << "\n";
  return report["ends"]["broken"] == 0 && visited.error.empty() ? 0 : 1;
}

}  // namespace
}  // namespace lorad

int main(int argc, char** argv) {
  lorad::Flags flags;
  CLI::App app("Sends a trace of requests to a server and tells what it came to.", "loadgen");
  Describe(&app, &flags);
  CLI11_PARSE(app, argc, argv);
  flags.run.open_loop = flags.trace.rate_per_s > 0;
  flags.visits.server = flags.server;
  if (!flags.visits.folders.empty() && flags.protocol != "grpc") {
    std::cerr << "loadgen: --visit loads by gRPC, and --protocol is " << flags.protocol << "\n";
    return 2;
  }
  return lorad::Main(flags);
}
