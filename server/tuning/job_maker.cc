#include "server/tuning/job_maker.h"

#include <google/protobuf/util/json_util.h>

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "adapters/kinds/kind.h"
#include "adapters/train/example_sets.h"
#include "model/base/file_source.h"
#include "model/base/status_macros.h"
#include "model/causal_lm.h"
#include "scheduler/tuning/checkpoints.h"
#include "server/tuning/init_adapter.h"
#include "server/tuning/intake.h"
#include "server/tuning/trial.h"
#include "server/tuning/tuning_spec.h"
#include "server/version.h"

namespace lorad {
namespace {

absl::StatusOr<ExampleSets> OpenSets(const std::string& folder, const TuningSpec& spec, const TuningData& data) {
  return OpenExampleSets(absl::StrCat(folder, "/data"), {.eval_fraction = spec.eval_fraction,
                                                         .pack_tokens = spec.packing ? data.max_length_tokens : 0,
                                                         .shuffle = spec.train.shuffle,
                                                         .seed = spec.train.seed});
}

// That training or evaluation can meet; all examples are looked at, so only where its bytes are counted.
absl::StatusOr<BatchShape> LargestBatch(const TuningSpec& spec, const ExampleSets& sets, const CausalLm& model) {
  if (model.device().is_cpu()) return BatchShape();
  const int64_t entries = spec.train.micro_batch_size;
  ASSIGN_OR_RETURN(const LargestEntries trained, LargestEntriesOf(sets.train, entries));
  ASSIGN_OR_RETURN(const LargestEntries evaluated, LargestEntriesOf(sets.eval, entries));
  return BatchShape{.rows = std::max(trained.tokens, evaluated.tokens),
                    .longest_tokens = std::max(trained.longest_tokens, evaluated.longest_tokens)};
}

// Written beside the weights: what they were made of. `spec` has no lines of data any more.
std::map<std::string, std::string> ProvenanceOf(const Job& job, const v1::FineTuneSpec& spec, const Backend& backend) {
  std::string hyperparameters;
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  (void)google::protobuf::util::MessageToJsonString(spec, &hyperparameters, options);
  return {{"lorad.version", kVersion},
          {"lorad.job", job.id},
          {"lorad.base", backend.model.name},
          {"lorad.base_digest", backend.model.digest},
          {"lorad.data_digest", job.data_digest},
          {"lorad.hyperparameters", hyperparameters},
          {"lorad.seed", absl::StrCat(spec.seed())},
          {"lorad.init_adapter", spec.init_adapter()}};
}

absl::StatusOr<v1::FineTuneSpec> StoredSpec(const Job& job) {
  v1::FineTuneSpec proto;
  if (!proto.ParseFromString(job.spec)) return absl::DataLossError("job: its stored spec cannot be read");
  if (proto.dataset().path().empty()) proto.mutable_dataset()->add_lines();  // They were, and lie in the folder.
  return proto;
}

// Where the adapter that the job begins from is kept, as its own format has it.
std::string InitFolder(const std::string& folder) { return absl::StrCat(folder, "/init_adapter"); }

std::string SummaryText(const DatasetSummary& summary, const ExampleSets& sets, const TrainConfig& train) {
  std::string text =
      absl::StrCat("examples: ", summary.examples, "; tokens: ", summary.tokens,
                   "; learnt tokens: ", summary.trained_tokens, "; truncated examples: ", summary.truncated,
                   "; longest: ", summary.longest_tokens, "; steps: ", train.total_steps);
  if (!sets.train.pack_starts.empty()) absl::StrAppend(&text, "; packed into: ", sets.train.entries());
  if (sets.eval.count > 0) {
    absl::StrAppend(&text, "; evaluated on: ", sets.eval.count, ", every ", train.eval_every_steps, " steps");
  }
  return text;
}

}  // namespace

absl::StatusOr<MadeJob> JobMaker::Make(const v1::SubmitJobRequest& request, const std::string& id,
                                       const std::string& folder, const std::function<absl::Status()>& go_on) const {
  const ModelFacts& facts = backend->model;
  v1::FineTuneSpec wanted = request.spec();
  ASSIGN_OR_RETURN(const std::optional<AdapterImage> init,
                   TakeInitAdapter(wanted.init_adapter(), *backend, *model, base_tables, wanted.mutable_adapter()));
  ASSIGN_OR_RETURN(const TuningSpec spec, TranslateSpec(wanted, facts));
  ASSIGN_OR_RETURN(const TuningData data, TranslateDataset(wanted.dataset(), facts));
  RETURN_IF_ERROR(StateBytesWithin(memory, spec.train, model->base_shape()).status());
  RETURN_IF_ERROR(MakeFolders(folder));
  const TextParts text{*backend, *chat_template, go_on};
  ASSIGN_OR_RETURN(const IntakeResult taken, TakeIn(data, text, absl::StrCat(folder, "/data")));
  if (!spec.eval_path.empty()) {
    TuningData eval = data;
    eval.path = spec.eval_path;
    eval.lines.clear();
    const auto evaluated = TakeIn(eval, text, absl::StrCat(folder, "/data-eval"));
    if (!evaluated.ok()) {
      return absl::Status(evaluated.status().code(), absl::StrCat("dataset.eval_path: ", evaluated.status().message()));
    }
  }
  ASSIGN_OR_RETURN(const ExampleSets sets, OpenSets(folder, spec, data));
  ASSIGN_OR_RETURN(const BatchShape largest, LargestBatch(spec, sets, *model));
  RETURN_IF_ERROR(JobBytesWithin(memory, spec.train, *model, largest).status());
  ASSIGN_OR_RETURN(const TrainConfig train, ResolveSteps(spec, sets.train.entries()));
  if (init.has_value()) RETURN_IF_ERROR(KeepInitAdapter(*init, model->base_shape(), base_tables, InitFolder(folder)));
  MadeJob made;
  Job& job = made.job;
  job.id = id;
  job.name = spec.name;
  wanted.mutable_dataset()->clear_lines();  // They lie in the job's folder.
  job.spec = wanted.SerializeAsString();
  job.idempotency_key = request.idempotency_key();
  job.data_digest = taken.digest;
  job.priority = spec.priority;
  job.total_steps = train.total_steps;
  made.message = SummaryText(taken.summary, sets, train);
  return made;
}

absl::StatusOr<JobBytes> JobMaker::BytesOf(const Job& job, const std::string& folder) const {
  ASSIGN_OR_RETURN(const v1::FineTuneSpec proto, StoredSpec(job));
  ASSIGN_OR_RETURN(const TuningSpec spec, TranslateSpec(proto, backend->model));
  ASSIGN_OR_RETURN(const TuningData data, TranslateDataset(proto.dataset(), backend->model));
  ASSIGN_OR_RETURN(const ExampleSets sets, OpenSets(folder, spec, data));
  ASSIGN_OR_RETURN(const BatchShape largest, LargestBatch(spec, sets, *model));
  return JobBytesWithin(memory, spec.train, *model, largest);
}

absl::StatusOr<TuningPlan> JobMaker::Plan(const Job& job, const std::string& folder, const GoOnFn& go_on) const {
  ASSIGN_OR_RETURN(const v1::FineTuneSpec proto, StoredSpec(job));
  ASSIGN_OR_RETURN(const TuningSpec spec, TranslateSpec(proto, backend->model));
  ASSIGN_OR_RETURN(const TuningData data, TranslateDataset(proto.dataset(), backend->model));
  ASSIGN_OR_RETURN(const ExampleSets sets, OpenSets(folder, spec, data));
  ASSIGN_OR_RETURN(TrainConfig train, ResolveSteps(spec, sets.train.entries()));
  train.total_steps = job.total_steps;
  TuningPlan plan;
  plan.checkpoint_every_steps = CheckpointEvery(spec, train.total_steps);
  plan.publish = spec.publish;
  plan.keep_revisions = spec.keep_revisions;
  // A job of a daemon that kept no adapter, but a checkpoint of no steps, has that alone.
  const std::string init_folder = InitFolder(folder);
  const bool has_init_folder = LocalFiles()->Exists(init_folder);
  plan.begins_from_checkpoint = !proto.init_adapter().empty() && !has_init_folder;
  plan.provenance = ProvenanceOf(job, proto, *backend);
  plan.early_stopping_patience = spec.early_stopping_patience;
  const Trial trial{backend, job.id, spec.name, sets, spec.max_eval_loss_increase, spec.eval_prompts};
  plan.validate = [trial](const std::string& adapter) { return trial.Validate(adapter); };
  if (!spec.eval_prompts.empty()) plan.sample = [trial](const std::string& adapter) { return trial.Sample(adapter); };
  plan.keeps_beginning = TakesOffBase(train.init);
  ASSIGN_OR_RETURN(const Checkpoints checkpoints, Checkpoints::Open(absl::StrCat(folder, "/checkpoints")));
  ASSIGN_OR_RETURN(const std::vector<int64_t> kept_steps, checkpoints.Steps());
  train.begins_from_state = !kept_steps.empty();
  ASSIGN_OR_RETURN(plan.trainer, Trainer::Create(train, model, base_tables, sets.train, sets.eval, go_on));
  if (!has_init_folder || train.begins_from_state) return plan;
  ASSIGN_OR_RETURN(const AdapterImage init,
                   ReadAdapter(init_folder, model->base_shape(), *LocalFiles(), {.base_tables = base_tables}));
  RETURN_IF_ERROR(plan.trainer->CopyFrom(init));
  return plan;
}

}  // namespace lorad
