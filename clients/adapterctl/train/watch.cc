#include <unistd.h>

#include <cstdio>
#include <map>
#include <memory>
#include <vector>

#include "clients/adapterctl/output.h"
#include "clients/adapterctl/train/job_output.h"
#include "clients/adapterctl/train/verbs.h"
#include "lorad/v1/finetuning.grpc.pb.h"

namespace lorad::adapterctl {
namespace {

constexpr size_t kBarColumns = 24, kCurveColumns = 40;

// What is on the terminal's last line, or a line an event where there is no terminal.
class WatchView final {
 public:
  WatchView(bool json, uint32_t total_steps)
      : json_(json), terminal_(!json && isatty(STDOUT_FILENO) != 0), total_steps_(total_steps) {}

  void Show(const v1::JobEvent& event) {
    if (json_) {
      std::printf("%s\n", ToJson(event).dump().c_str());
    } else if (event.has_loss()) {
      losses_[event.step()] = event.loss();  // a step that was done again after a restart replaces itself
      ShowStep(event);
    } else {
      ShowMessage(event);
    }
    std::fflush(stdout);
  }
  void End() {
    if (terminal_ && line_open_) std::printf("\n");
    line_open_ = false;
  }

 private:
  void ShowStep(const v1::JobEvent& event) {
    char numbers[160];
    std::snprintf(numbers, sizeof(numbers), "step %u/%u  loss %.4f  lr %.2e  norm %.2f  %.0f tokens/s", event.step(),
                  total_steps_, event.loss(), event.learning_rate(), event.grad_norm(), event.tokens_per_second());
    if (!terminal_) {
      std::printf("%s\n", numbers);
      return;
    }
    std::vector<double> losses;
    for (const auto& [step, loss] : losses_) losses.push_back(loss);
    std::printf("\r%s %s  %s\033[K", ProgressBar(event.step(), total_steps_, kBarColumns).c_str(), numbers,
                LossCurve(losses, kCurveColumns).c_str());
    line_open_ = true;
  }
  void ShowMessage(const v1::JobEvent& event) {
    End();
    std::printf("%s%s%s\n", NameOf(event.state()).c_str(), event.message().empty() ? "" : ": ",
                event.message().c_str());
  }

  const bool json_;
  const bool terminal_;
  const uint32_t total_steps_;
  bool line_open_ = false;
  std::map<uint32_t, double> losses_;  // by step
};

}  // namespace

int WatchJob(Session& session, const std::string& id, uint64_t after_sequence) {
  const auto channel = session.Connect();
  if (!channel) return kUnreachable;
  const auto stub = v1::FineTuning::NewStub(channel);
  v1::Job job;
  {
    grpc::ClientContext context;
    v1::GetJobRequest request;
    request.set_id(id);
    if (const grpc::Status status = stub->GetJob(&context, request, &job); !status.ok()) return session.Fail(status);
  }
  WatchView view(session.json(), job.total_steps());
  grpc::ClientContext context;
  v1::WatchJobRequest request;
  request.set_id(id);
  request.set_after_sequence(after_sequence);
  const auto reader = stub->WatchJob(&context, request);
  v1::JobState last = job.state();
  for (v1::JobEvent event; reader->Read(&event);) {
    view.Show(event);
    last = event.state();
  }
  view.End();
  const grpc::Status status = reader->Finish();
  if (!status.ok()) return session.Fail(status);
  return last == v1::JOB_STATE_SUCCEEDED ? kDone : kFailed;
}

Verb AddTrainWatch(CLI::App& train) {
  CLI::App* command = train.add_subcommand("watch", "Follow a job until it ends");
  auto id = std::make_shared<std::string>();
  auto after = std::make_shared<uint64_t>(0);
  command->add_option("id", *id, "The job's id")->required();
  command->add_option("--after", *after, "Only events behind this sequence number")->capture_default_str();
  return {command, [id, after](Session& session) { return WatchJob(session, *id, *after); }};
}

}  // namespace lorad::adapterctl
