#include "server/tuning/tuning.h"

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <future>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "model/base/status_macros.h"
#include "model/causal_lm.h"
#include "scheduler/tuning/checkpoints.h"
#include "scheduler/tuning/revisions.h"
#include "server/backend.h"
#include "server/log.h"
#include "server/tuning/batch_limits.h"
#include "server/tuning/folder_lock.h"
#include "server/tuning/intake.h"
#include "server/tuning/job_maker.h"
#include "server/tuning/job_proto.h"
#include "server/tuning/job_watchers.h"
#include "server/tuning/probe.h"
#include "server/tuning/run_requests.h"
#include "server/tuning/run_translate.h"
#include "server/tuning/task_thread.h"
#include "server/tuning/tuning_spec.h"

namespace lorad {
namespace {

constexpr size_t kWaitingSubmissions = 16;
constexpr int64_t kDefaultPage = 100, kMaxPage = 1000;
constexpr int64_t kShareOfRuns = 2;  // half of the memory, as runs give none back to requests

std::string NewId() {
  std::random_device random;
  return absl::StrFormat("ft-%08x%08x", random(), random());
}

absl::StatusOr<v1::Job> ToProto(absl::StatusOr<Job> job) {
  if (!job.ok()) return job.status();
  return ToProto(*job);
}

TuningWorker::Reply AsProto(Tuning::JobReply reply) {
  return [reply = std::move(reply)](absl::StatusOr<Job> job) { reply(ToProto(std::move(job))); };
}

}  // namespace

absl::StatusOr<Tuning*> TuningOrOff(const absl::StatusOr<const Backend*>& backend, std::string_view service,
                                    std::string_view kept) {
  if (!backend.ok()) return backend.status();
  if ((*backend)->tuning != nullptr) return (*backend)->tuning;
  return absl::FailedPreconditionError(absl::StrCat(
      std::string(service), ": off; limit: a daemon with --state-dir, where its ", std::string(kept), " are kept"));
}

std::string RevisionsDir(const std::string& state_dir) { return absl::StrCat(state_dir, "/revisions"); }

struct Tuning::Impl {
  absl::StatusOr<v1::Job> TakeJob(const v1::SubmitJobRequest& request, const Cancelled& cancelled);
  std::function<absl::Status()> GoOnUnless(const Cancelled& cancelled) const;
  absl::Status Publish(const std::string& name, const std::string& folder, bool replace);
  absl::Status Hold(int64_t bytes, int64_t kept_bytes, std::function<void()> give_back);
  MemoryLimit memory() const { return {parts.memory_bytes, BatchLimitsOf(*parts.model, parts.memory_bytes)}; }
  JobMaker job_maker() const { return {parts.backend, parts.model, parts.base_tables, &parts.chat_template, memory()}; }
  RunRequests run_requests() const { return {parts.backend, parts.model, parts.base_tables, memory()}; }
  absl::Status RemoveStrayFolders();

  Parts parts;
  std::unique_ptr<FolderLock> folder_lock;
  std::unique_ptr<JobStore> store;
  std::shared_ptr<Revisions> revisions;  // replies to rollbacks may come after everything else is gone
  std::unique_ptr<TrainingRuns> runs;
  std::unique_ptr<TuningWorker> worker;
  std::unique_ptr<TaskThread> intake;
  std::unique_ptr<TaskThread> run_maker;  // a run may begin from decompositions, which take minutes
  JobWatchers watchers;
  std::atomic<bool> stopping = false;
};

Tuning::Tuning(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tuning::~Tuning() { Stop(); }

absl::StatusOr<std::unique_ptr<Tuning>> Tuning::Start(Parts parts) {
  std::unique_ptr<Tuning> tuning(new Tuning(std::make_unique<Impl>()));
  Impl& impl = *tuning->impl_;
  impl.parts = std::move(parts);
  const std::string jobs_dir = absl::StrCat(impl.parts.state_dir, "/jobs");
  RETURN_IF_ERROR(MakeFolders(jobs_dir));
  ASSIGN_OR_RETURN(impl.folder_lock, FolderLock::Take(impl.parts.state_dir));
  ASSIGN_OR_RETURN(impl.store, JobStore::Open(absl::StrCat(impl.parts.state_dir, "/jobs.db")));
  ASSIGN_OR_RETURN(impl.revisions,
                   Revisions::Open(absl::StrCat(impl.parts.state_dir, "/jobs.db"), RevisionsDir(impl.parts.state_dir)));
  const auto publish = [&impl](const std::string& name, const std::string& folder, bool replace) {
    return impl.Publish(name, folder, replace);
  };
  const BatchLimits limits = BatchLimitsOf(*impl.parts.model, impl.parts.memory_bytes);
  ASSIGN_OR_RETURN(
      impl.runs,
      TrainingRuns::Open(
          {.dir = absl::StrCat(impl.parts.state_dir, "/runs"),
           .base_name = impl.parts.backend->model.name,
           .revisions = impl.revisions.get(),
           .make = [&impl](const std::string& spec, bool begins_from_state,
                           const GoOnFn& go_on) { return impl.run_requests().Make(spec, begins_from_state, go_on); },
           // Before there is a worker nobody is served.
           .in_turn =
               [&impl](const std::function<void()>& slice) {
                 impl.worker == nullptr ? slice() : impl.worker->InTurn(slice);
               },
           .state_bytes = [&impl](const std::string& spec) { return impl.run_requests().StateBytes(spec); },
           .max_sequence_tokens =
               [&impl](const std::string& spec) { return impl.run_requests().MaxSequenceTokens(spec); },
           .hold = [&impl] { return impl.worker->HoldForRuns(); },
           .publish = publish,
           .begins_from_weights = BeginsFromWeights,
           .not_resumed =
               [&impl](const std::string& folder, const absl::Status& why) {
                 impl.parts.log->Warning("run_not_resumed", {{"path", folder}, {"status", why.ToString()}});
               },
           .wake = [&impl] { impl.worker->Wake(); },
           .max_bytes = impl.parts.memory_bytes / kShareOfRuns}));
  impl.worker = std::make_unique<TuningWorker>(TuningWorker::Parts{
      .store = impl.store.get(),
      .gate = impl.parts.gate,
      .model = impl.parts.model,
      .max_jobs = impl.parts.max_jobs,
      .max_batch_rows = limits.max_rows,
      .activation_bytes = limits.activation_bytes,
      .run_batch_bytes = limits.run_batch_bytes,
      .kept_bytes = limits.kept_bytes,
      .hold = [&impl](int64_t bytes, int64_t kept_bytes,
                      std::function<void()> give_back) { return impl.Hold(bytes, kept_bytes, std::move(give_back)); },
      .runs = impl.runs.get(),
      .surroundings =
          {.jobs_dir = jobs_dir,
           .revisions = impl.revisions.get(),
           .base_name = impl.parts.backend->model.name,
           .bytes = [&impl](const Job& job) { return impl.job_maker().BytesOf(job, impl.worker->JobFolder(job.id)); },
           .plan =
               [&impl](const Job& job, const GoOnFn& go_on) {
                 return impl.job_maker().Plan(job, impl.worker->JobFolder(job.id), go_on);
               },
           .publish = publish},
      .changed = [&impl](const std::string& job_id) { impl.watchers.Notify(job_id); }});
  RETURN_IF_ERROR(impl.RemoveStrayFolders());
  impl.intake = std::make_unique<TaskThread>(kWaitingSubmissions);
  impl.run_maker = std::make_unique<TaskThread>(kWaitingSubmissions);
  RETURN_IF_ERROR(impl.worker->Start());
  return tuning;
}

void Tuning::Stop() {
  if (impl_->stopping.exchange(true)) return;  // ends the reading of submissions
  if (impl_->intake) impl_->intake->End();
  if (impl_->run_maker) impl_->run_maker->End();
  if (impl_->worker) impl_->worker->Stop();
  if (impl_->runs) impl_->runs->Stop();
  impl_->watchers.NotifyAll();
}

// Of submissions that were killed before they were stored.
absl::Status Tuning::Impl::RemoveStrayFolders() {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(worker->JobFolder(""), error)) {
    const std::string id = entry.path().filename().string();
    if (absl::IsNotFound(store->Get(id).status())) RETURN_IF_ERROR(RemoveFolder(entry.path().string()));
  }
  return absl::OkStatus();
}

absl::Status Tuning::Submit(v1::SubmitJobRequest request, Cancelled cancelled, JobReply reply) {
  return impl_->intake->Add([this, request = std::move(request), cancelled = std::move(cancelled),
                             reply = std::move(reply)] { reply(impl_->TakeJob(request, cancelled)); });
}

std::function<absl::Status()> Tuning::Impl::GoOnUnless(const Cancelled& cancelled) const {
  return [this, cancelled] {
    if (stopping) return DrainingError();
    return cancelled() ? CancelledByCaller() : absl::OkStatus();
  };
}

absl::StatusOr<v1::Job> Tuning::Impl::TakeJob(const v1::SubmitJobRequest& request, const Cancelled& cancelled) {
  const std::function<absl::Status()> go_on = GoOnUnless(cancelled);
  RETURN_IF_ERROR(go_on());
  ASSIGN_OR_RETURN(const std::optional<Job> known, store->FindByKey(request.idempotency_key()));
  if (known.has_value()) return ToProto(*known);
  const std::string id = NewId();
  absl::StatusOr<MadeJob> made = job_maker().Make(request, id, worker->JobFolder(id), go_on);
  absl::Status status = made.status();
  if (status.ok()) status = worker->Accept(made->job, std::move(made->message));
  if (!status.ok()) {
    (void)RemoveFolder(worker->JobFolder(id));
    parts.log->Warning("job_refused",
                       {{"adapter", request.spec().name().substr(0, 256)}, {"status", status.ToString()}});
    return status;
  }
  parts.log->Info("job_accepted", {{"job", id}, {"adapter", made->job.name}, {"steps", made->job.total_steps}});
  return ToProto(store->Get(id));
}

absl::Status Tuning::CreateRun(v1::CreateRunRequest request, Cancelled cancelled,
                               std::function<void(absl::StatusOr<RunInfo>)> reply) {
  ASSIGN_OR_RETURN(const int64_t sequence, TranslateSequence(request.sequence()));
  return impl_->run_maker->Add([this, sequence, request = std::move(request), go_on = impl_->GoOnUnless(cancelled),
                                reply = std::move(reply)] {
    const absl::Status wanted = go_on();
    reply(!wanted.ok() ? wanted
                       : impl_->runs->Create(
                             request.name(), sequence, [&] { return impl_->run_requests().Begin(request); }, go_on));
  });
}

TrainingRuns* Tuning::runs() { return impl_->runs.get(); }
const ModelFacts& Tuning::model() const { return impl_->parts.backend->model; }

absl::Status Tuning::Impl::Publish(const std::string& name, const std::string& folder, bool replace) {
  const absl::Status status = Probe(parts.backend).Load(name, folder, replace);
  if (status.ok()) {
    parts.log->Info("adapter_published", {{"adapter", name}, {"path", folder}});
  } else {
    parts.log->Warning("adapter_not_published", {{"adapter", name}, {"status", status.ToString()}});
  }
  return status;
}

absl::Status Tuning::Impl::Hold(int64_t bytes, int64_t kept_bytes, std::function<void()> give_back) {
  auto answer = std::make_shared<std::promise<absl::Status>>();
  RETURN_IF_ERROR(parts.backend->engine->HoldForTuning(
      {bytes, kept_bytes, [answer](const absl::Status& status) { answer->set_value(status); }, std::move(give_back)}));
  return answer->get_future().get();
}

void Tuning::Rollback(const std::string& name, const std::string& revision, AdapterReply reply) {
  const absl::StatusOr<std::string> target = impl_->revisions->Target(name, revision);
  if (!target.ok()) return reply(target.status());
  LoadCommand command;
  command.name = name;
  command.path = impl_->revisions->Folder(*target);
  command.replace = true;
  command.reply = [revisions = impl_->revisions, reply, target = *target](absl::StatusOr<AdapterInfo> info) {
    if (info.ok()) {
      const absl::Status stored = revisions->MakeCurrent(info->name, target);
      if (!stored.ok()) info = stored;  // Served until the daemon ends, but not after.
    }
    reply(std::move(info));
  };
  // A command that is refused keeps no reply.
  if (const absl::Status status = impl_->parts.backend->engine->Load(std::move(command)); !status.ok()) reply(status);
}

void Tuning::FillRevisions(v1::Adapter* adapter) const {
  const absl::StatusOr<std::vector<std::string>> all = impl_->revisions->Of(adapter->name());
  if (!all.ok()) return;
  for (const std::string& revision : *all) {
    adapter->add_revisions(revision);
    if (impl_->revisions->Folder(revision) == adapter->path()) adapter->set_revision(revision);
  }
}

absl::Status Tuning::Preview(v1::PreviewExampleRequest request, Cancelled cancelled, PreviewReply reply) {
  return impl_->intake->Add(
      [this, request = std::move(request), cancelled = std::move(cancelled), reply = std::move(reply)] {
        const auto preview = [&]() -> absl::StatusOr<v1::PreviewExampleResponse> {
          ASSIGN_OR_RETURN(const TuningData data, TranslateDataset(request.dataset(), impl_->parts.backend->model));
          return PreviewLine(data, {*impl_->parts.backend, impl_->parts.chat_template, impl_->GoOnUnless(cancelled)},
                             request.line() == 0 ? 1 : request.line());
        };
        reply(preview());
      });
}

void Tuning::Cancel(const std::string& id, JobReply reply) { impl_->worker->Cancel(id, AsProto(std::move(reply))); }
void Tuning::Pause(const std::string& id, JobReply reply) { impl_->worker->Pause(id, AsProto(std::move(reply))); }
void Tuning::Resume(const std::string& id, JobReply reply) { impl_->worker->Resume(id, AsProto(std::move(reply))); }
absl::Status Tuning::Delete(const std::string& id) { return impl_->worker->Delete(id); }
absl::StatusOr<v1::Job> Tuning::Get(const std::string& id) const { return ToProto(impl_->store->Get(id)); }
const JobStore& Tuning::store() const { return *impl_->store; }
TuningStats Tuning::stats() const { return impl_->worker->stats(); }
bool Tuning::stopping() const { return impl_->stopping; }

absl::Status Tuning::List(const v1::ListJobsRequest& request, v1::ListJobsResponse* response) const {
  const int64_t page = std::min<int64_t>(request.page_size() == 0 ? kDefaultPage : request.page_size(), kMaxPage);
  ASSIGN_OR_RETURN(const std::vector<Job> jobs, impl_->store->List(request.page_token(), page + 1));
  for (size_t i = 0; i < jobs.size(); ++i) {
    if (static_cast<int64_t>(i) == page) {
      response->set_next_page_token(jobs[i - 1].id);
      break;
    }
    *response->add_jobs() = ToProto(jobs[i]);
  }
  return absl::OkStatus();
}

int64_t Tuning::Watch(const std::string& job_id, std::function<void()> notify) {
  return impl_->watchers.Add(job_id, std::move(notify));
}

void Tuning::Unwatch(int64_t watch) { impl_->watchers.Remove(watch); }

}  // namespace lorad
