#include <memory>

#include "clients/adapterctl/train/data_flags.h"
#include "clients/adapterctl/train/job_output.h"
#include "clients/adapterctl/train/spec_file.h"
#include "clients/adapterctl/train/verbs.h"
#include "lorad/v1/finetuning.grpc.pb.h"

namespace lorad::adapterctl {
namespace {

// Flags fill `spec`; what a --spec file says is read first.
struct SubmitFlags {
  v1::FineTuneSpec spec;
  std::string spec_file;
  std::string name;
  std::string key;
  bool watch = false;
  std::shared_ptr<DataFlags> data;
};

template <typename T, typename Set>
void Add(CLI::App* command, const char* flag, const Set& set, const char* help) {
  command->add_option_function<T>(
      flag, [set](const T& value) { set(value); }, help);
}

void AddAdapterFlags(CLI::App* command, v1::AdapterSpec* adapter) {
  Add<std::string>(
      command, "--kind", [adapter](const std::string& v) { adapter->set_kind(v); },
      "lora (default), dora, mixlora, mixlora_dynamic, mixlora_switch, loramoe or mola");
  Add<uint32_t>(
      command, "--rank", [adapter](uint32_t v) { adapter->set_rank(v); }, "16");
  Add<float>(
      command, "--alpha", [adapter](float v) { adapter->set_alpha(v); }, "2 x rank");
  Add<float>(
      command, "--dropout", [adapter](float v) { adapter->set_dropout(v); }, "0");
  command
      ->add_option_function<std::vector<std::string>>(
          "--targets",
          [adapter](const std::vector<std::string>& v) { adapter->mutable_targets()->Add(v.begin(), v.end()); },
          "Module names, comma-separated (all-linear)")
      ->delimiter(',');
  Add<std::string>(
      command, "--init", [adapter](const std::string& v) { adapter->set_init(v); },
      "default, gaussian, pissa or olora");
  Add<uint32_t>(
      command, "--experts", [adapter](uint32_t v) { adapter->set_num_experts(v); }, "Of a kind with routers (8)");
  Add<uint32_t>(
      command, "--top-k", [adapter](uint32_t v) { adapter->set_top_k(v); }, "Experts of a row: mixlora, mola (2)");
  Add<float>(
      command, "--router-aux-loss-coef", [adapter](float v) { adapter->set_router_aux_loss_coef(v); },
      "Of the loss for uneven routing (0.001; mola: 0)");
  command->add_flag_callback(
      "--rslora", [adapter] { adapter->set_use_rslora(true); }, "Scale by alpha / sqrt(rank)");
}

void AddOptimizerFlags(CLI::App* command, v1::FineTuneSpec* spec) {
  v1::OptimizerSpec* optimizer = spec->mutable_optimizer();
  v1::ScheduleSpec* schedule = spec->mutable_schedule();
  Add<std::string>(
      command, "--optimizer", [optimizer](const std::string& v) { optimizer->set_name(v); }, "adamw (default) or sgd");
  Add<double>(
      command, "--learning-rate", [optimizer](double v) { optimizer->set_learning_rate(v); },
      "By default from the model's width");
  Add<double>(
      command, "--weight-decay", [optimizer](double v) { optimizer->set_weight_decay(v); }, "0");
  Add<double>(
      command, "--max-grad-norm", [optimizer](double v) { optimizer->set_max_grad_norm(v); }, "1; 0 = no clipping");
  Add<std::string>(
      command, "--schedule", [schedule](const std::string& v) { schedule->set_name(v); },
      "constant (default), linear or cosine");
  Add<uint32_t>(
      command, "--warmup-steps", [schedule](uint32_t v) { schedule->set_warmup_steps(v); }, "0");
  Add<double>(
      command, "--warmup-ratio", [schedule](double v) { schedule->set_warmup_ratio(v); }, "Of all steps, instead");
}

void AddEvaluationFlags(CLI::App* command, v1::FineTuneSpec* spec) {
  Add<std::string>(
      command, "--eval-data", [spec](const std::string& v) { spec->mutable_dataset()->set_eval_path(v); },
      "JSONL file to evaluate on, on the daemon's side");
  Add<double>(
      command, "--eval-fraction",
      [spec](double v) { spec->mutable_dataset()->set_eval_fraction(static_cast<float>(v)); },
      "Or keep this part of the examples from training");
  Add<uint32_t>(
      command, "--eval-every", [spec](uint32_t v) { spec->set_eval_every_steps(v); },
      "Steps (as often as a checkpoint is written)");
  Add<uint32_t>(
      command, "--patience", [spec](uint32_t v) { spec->set_early_stopping_patience(v); },
      "End after so many evaluations without a new best one, and publish the best");
  Add<double>(
      command, "--max-eval-loss-increase", [spec](double v) { spec->set_max_eval_loss_increase(v); },
      "Publish only what is not worse by more than this than what is served");
  command->add_option_function<std::vector<std::string>>(
      "--eval-prompt",
      [spec](const std::vector<std::string>& v) { spec->mutable_eval_prompts()->Add(v.begin(), v.end()); },
      "Show the answer at each evaluation; repeat it");
}

void AddJobFlags(CLI::App* command, v1::FineTuneSpec* spec) {
  Add<std::string>(
      command, "--init-adapter", [spec](const std::string& v) { spec->set_init_adapter(v); },
      "Go on from an adapter that is served, or from a folder; it says the adapter's shape");
  Add<uint32_t>(
      command, "--epochs", [spec](uint32_t v) { spec->set_epochs(v); }, "3");
  Add<uint32_t>(
      command, "--max-steps", [spec](uint32_t v) { spec->set_max_steps(v); }, "Instead of epochs");
  Add<uint32_t>(
      command, "--batch-size", [spec](uint32_t v) { spec->set_batch_size(v); }, "Sequences an optimizer step (16)");
  Add<uint32_t>(
      command, "--micro-batch-size", [spec](uint32_t v) { spec->set_micro_batch_size(v); },
      "Sequences computed at once (4)");
  Add<uint64_t>(
      command, "--seed", [spec](uint64_t v) { spec->set_seed(v); }, "0");
  Add<uint32_t>(
      command, "--checkpoint-every", [spec](uint32_t v) { spec->set_checkpoint_every_steps(v); },
      "Steps (a tenth of the job, at most 100)");
  Add<int32_t>(
      command, "--priority", [spec](int32_t v) { spec->set_priority(v); }, "Higher ones begin first (0)");
  Add<uint32_t>(
      command, "--keep-revisions", [spec](uint32_t v) { spec->set_keep_revisions(v); },
      "Of this name, the newest ones and the best (all)");
  command->add_flag_callback(
      "--no-publish", [spec] { spec->set_no_publish(true); }, "Keep the result, do not serve it");
  AddEvaluationFlags(command, spec);
  command->add_flag_callback(
      "--packing", [spec] { spec->mutable_dataset()->set_packing(true); },
      "Fill sequences with short examples, each with its own positions");
  command->add_flag_callback(
      "--no-shuffle", [spec] { spec->mutable_dataset()->set_shuffle(false); }, "Take the examples in their order");
}

int Submit(Session& session, SubmitFlags& flags) {
  v1::SubmitJobRequest request;
  if (!flags.spec_file.empty()) {
    const std::string wrong = ReadSpecFile(flags.spec_file, request.mutable_spec());
    if (!wrong.empty()) return session.FailUsage("--spec: " + wrong);
  }
  request.mutable_spec()->MergeFrom(flags.spec);
  if (!flags.name.empty()) request.mutable_spec()->set_name(flags.name);
  request.set_idempotency_key(flags.key);
  if (!ReadInline(*flags.data, request.mutable_spec()->mutable_dataset())) {
    return session.FailUsage("--inline: " + flags.data->file + ": cannot be read");
  }
  const v1::DatasetSpec& dataset = request.spec().dataset();
  if (dataset.path().empty() && dataset.lines().empty()) {
    return session.FailUsage(
        "no data: --data=FILE is on the daemon's side, --inline=FILE is sent from here, or name them in --spec=FILE");
  }
  session.SetHint(grpc::StatusCode::NOT_FOUND,
                  "--data and --init-adapter are the daemon's; --inline=FILE sends a file from here");
  const auto channel = session.Connect();
  if (!channel) return kUnreachable;
  const auto stub = v1::FineTuning::NewStub(channel);
  grpc::ClientContext context;
  v1::Job job;
  const grpc::Status status = WithProgress("reading the data", [&](std::function<void(grpc::Status)> done) {
    stub->async()->SubmitJob(&context, &request, &job, std::move(done));
  });
  if (!status.ok()) return session.Fail(status);
  if (flags.watch) return WatchJob(session, job.id(), /*after_sequence=*/0);
  PrintJob(job, session.json());
  return kDone;
}

}  // namespace

Verb AddTrainSubmit(CLI::App& train) {
  CLI::App* command = train.add_subcommand("submit", "Train an adapter; it is served under its name when it is ready");
  auto flags = std::make_shared<SubmitFlags>();
  command->add_option("name", flags->name, "The adapter's name");
  command->add_option("--spec", flags->spec_file, "FineTuneSpec as YAML or JSON; flags come on top");
  flags->data = AddDataFlags(command, flags->spec.mutable_dataset());
  AddAdapterFlags(command, flags->spec.mutable_adapter());
  AddOptimizerFlags(command, &flags->spec);
  AddJobFlags(command, &flags->spec);
  command->add_option("--key", flags->key, "Idempotency key: the same one again gives the same job");
  command->add_flag("--watch", flags->watch, "Follow it until it ends");
  return {command, [flags](Session& session) { return Submit(session, *flags); }};
}

}  // namespace lorad::adapterctl
