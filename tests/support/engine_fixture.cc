#include "tests/support/engine_fixture.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "adapters/checkpoint_tables.h"
#include "model/base/check.h"
#include "scheduler/composition.h"
#include "scheduler/invariants.h"

namespace lorad {
namespace {

EngineConfig WithContext(EngineConfig config, const CausalLm& model) {
  if (config.max_context_tokens == 0) config.max_context_tokens = model.config().max_context_tokens;
  config.vocab_size = model.config().vocab_size;
  config.rope_switch = model.config().rope_switch;
  return config;
}

AdapterLoader::Options LoaderOptions(const CausalLm& model, const std::string& model_dir, PoolMemory* memory) {
  AdapterLoader::Options options;
  options.pool_memory = memory;
  options.pool_dtype = model.dtype();
  absl::StatusOr<BaseTables> tables = OpenBaseTables(model_dir, model.base_shape(), model.quantization());
  LORAD_CHECK(tables.ok());
  options.base_tables = *std::move(tables);
  return options;
}

std::unique_ptr<PagePool> Pages(const EngineSetup& setup) {
  if (setup.device.create == nullptr) return PagePool::Create(setup.pool_bytes, setup.page_bytes).value();
  return PagePool::Create(setup.device.create(setup.pool_bytes).value(), setup.page_bytes).value();
}

AdapterId IdOf(const LoaderEvent& event) {
  return std::visit([](const auto& e) { return e.id; }, event);
}

// A reply that keeps the answer for the test.
template <typename StatusOrStatus>
std::function<void(StatusOrStatus)> KeepIn(CommandAnswer answer) {
  return [answer](StatusOrStatus status) {
    EXPECT_FALSE(answer->has_value()) << "a command is answered once";
    if constexpr (std::is_same_v<StatusOrStatus, absl::Status>) {
      *answer = status;
    } else {
      *answer = status.status();
    }
  };
}

}  // namespace

Recording::Recording(const Request& request)
    : request_(request.id), adapter_(AnswersAs(request)), sequences_(static_cast<size_t>(request.n)) {}

void Recording::OnEvent(TokenEvent event) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto broken = [this](const char* rule) { broken_rule_ = rule; };
  if (event.request != request_) broken("an event of another request");
  if (event.index < 0 || event.index >= static_cast<int32_t>(sequences_.size())) return broken("no such index");
  Sequence& sequence = sequences_[static_cast<size_t>(event.index)];
  const bool first = sequence.tokens.empty();
  if (sequence.finish.has_value()) broken("an event after the last one");
  if (!event.prompt_logprobs.empty() && !first) broken("prompt logprobs after the first event");
  if (first && event.adapter != adapter_) broken("the first event names another adapter");
  if (first) {
    sequence.adapter = std::move(event.adapter);
    sequence.prompt_logprobs = std::move(event.prompt_logprobs);
  }
  sequence.tokens.insert(sequence.tokens.end(), event.tokens.begin(), event.tokens.end());
  sequence.class_logits = std::move(event.class_logits);
  sequence.finish = std::move(event.finish);
  if (AllFinished()) changed_.notify_all();
}

bool Recording::AllFinished() const {
  return std::all_of(sequences_.begin(), sequences_.end(), [](const Sequence& s) { return s.finish.has_value(); });
}

bool Recording::finished() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return AllFinished();
}

void Recording::WaitUntilFinished() const {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait(lock, [this] { return AllFinished(); });
}

void CountingObserver::OnStep(const StepStats& step) {
  ++steps;
  if (step.prefill_tokens > 0) ++prefill_steps;
  if (step.prefill_tokens > 0 && step.prefill_tokens < step.rows_tokens) ++mixed_steps;
  most_adapters = std::max(most_adapters, step.distinct_adapters);
  most_sequences = std::max(most_sequences, step.sequences);
  steps_behind += step.behind;
  last_device_step = step.device;
  if (!step.device.how.empty()) ++device_steps[std::string(step.device.how)];
}

ServingParts::ServingParts(CausalLm* model, const EngineSetup& setup)
    : dtype(model->dtype()),
      pages(Pages(setup)),
      adapters(pages.get(), model->base_shape()),
      seam(adapters.slots(), model->device()),
      graph_seam(adapters.slots(), model->base_shape(), model->device()),
      graphs(setup.graphs.has_value() ? StepGraphs::Create(model, &graph_seam, *setup.graphs) : nullptr),
      executor(model, {pages->arena(), pages->page_bytes(), model->kv_layout()}, &seam, nullptr, graphs.get()) {}

SteppedEngine::SteppedEngine(CausalLm* model, const std::string& model_dir, const EngineSetup& setup)
    : files_(LocalFiles()),
      parts_(model, setup),
      inbox_(setup.engine.queue_limit, setup.engine.command_limit),
      loader_(std::make_unique<AdapterLoader>(LoaderOptions(*model, model_dir, &parts_.pages->memory()),
                                              model->base_shape(), files_.get(),
                                              [this](LoaderEvent event) { OnLoaderEvent(std::move(event)); })) {
  SchedulerParts parts = PartsForCore();
  parts.kv_layout = model->kv_layout();
  core_ = std::make_unique<EngineCore>(WithContext(setup.engine, *model), std::move(parts));
}

SteppedEngine::~SteppedEngine() {
  loader_.reset();  // It writes into reservations that the core holds.
  core_.reset();
}

SchedulerParts SteppedEngine::PartsForCore() {
  const auto given = [this](int64_t jobs) {
    const std::lock_guard<std::mutex> lock(loader_mutex_);
    loader_jobs_ += jobs;
  };
  LoaderCalls calls;
  calls.stage = [this, given](AdapterId id, std::string path, std::string digest) {
    if (const auto image = images_.find(path); image != images_.end()) {
      StageImage(id, image->second);
      return absl::OkStatus();
    }
    given(1);
    const absl::Status status = loader_->Stage(id, std::move(path), std::move(digest));
    if (!status.ok()) given(-1);
    return status;
  };
  calls.pack = [this, given](AdapterId id, std::shared_ptr<const AdapterImage> image, PackedLayout layout,
                             std::byte* destination, std::shared_ptr<PackedAdapter> keep) {
    given(1);
    return loader_->Pack(id, std::move(image), std::move(layout), destination, std::move(keep));
  };
  calls.copy = [this, given](AdapterId id, std::shared_ptr<const PackedAdapter> packed, std::byte* destination) {
    given(1);
    return loader_->Copy(id, std::move(packed), destination);
  };
  calls.cancel = [this, given](AdapterId id) {
    if (loader_->Cancel(id)) given(-1);
  };
  SchedulerParts parts{};
  parts.pages = parts_.pages.get();
  parts.adapters = &parts_.adapters;
  parts.loader = std::move(calls);
  parts.executor = &parts_.executor;
  parts.observer = &parts_.observer;
  parts.clock = &clock_;
  parts.inbox = &inbox_;
  parts.post_reply = [](std::function<void()> call) { call(); };
  return parts;
}

void SteppedEngine::OnLoaderEvent(LoaderEvent event) {
  const std::lock_guard<std::mutex> lock(loader_mutex_);
  --loader_jobs_;
  loader_events_.push_back(std::move(event));
  loader_answered_.notify_all();
}

void SteppedEngine::StageImage(AdapterId id, std::shared_ptr<const AdapterImage> image) {
  PackedLayout layout = PlanLayout(*image, parts_.dtype);
  const std::lock_guard<std::mutex> lock(loader_mutex_);
  loader_events_.push_back(AdapterStaged{.id = id, .image = std::move(image), .layout = std::move(layout)});
}

std::shared_ptr<Recording> SteppedEngine::Submit(Request request) {
  request.id = ++last_request_;
  request.arrival_us = clock_.NowUs();
  auto recording = std::make_shared<Recording>(request);
  request.sink = recording;
  const absl::Status status = inbox_.PutSubmit({.request = std::move(request)});
  EXPECT_TRUE(status.ok()) << status;
  return recording;
}

void SteppedEngine::Cancel(RequestId request) {
  inbox_.Put(CancelCommand{.request = request, .reason = "the test went away"});
}

CommandAnswer SteppedEngine::Load(const std::string& name, const std::string& path, bool replace) {
  auto answer = std::make_shared<std::optional<absl::Status>>();
  const absl::Status status = inbox_.PutAdapter(LoadCommand{
      .name = name, .path = path, .replace = replace, .reply = KeepIn<absl::StatusOr<AdapterInfo>>(answer)});
  EXPECT_TRUE(status.ok()) << status;
  return answer;
}

CommandAnswer SteppedEngine::Unload(const std::string& name) {
  auto answer = std::make_shared<std::optional<absl::Status>>();
  const absl::Status status = inbox_.PutAdapter(UnloadCommand{.name = name, .reply = KeepIn<absl::Status>(answer)});
  EXPECT_TRUE(status.ok()) << status;
  return answer;
}

CommandAnswer SteppedEngine::HoldForTuning(int64_t bytes) {
  auto answer = std::make_shared<std::optional<absl::Status>>();
  const absl::Status status =
      inbox_.PutAdapter(TuningMemoryCommand{.bytes = bytes, .reply = KeepIn<absl::Status>(answer), .give_back = [] {}});
  EXPECT_TRUE(status.ok()) << status;
  return answer;
}

bool SteppedEngine::Turn() {
  constexpr int64_t kTurnUs = 1000;
  clock_.Advance(kTurnUs);
  std::vector<Command> commands;
  inbox_.DrainInto(&commands, /*wait_us=*/0);
  for (Command& command : commands) core_->Apply(std::move(command));
  const bool acted = core_->Turn();
  const absl::Status invariants = CheckInvariants(core_->state());
  EXPECT_TRUE(invariants.ok()) << invariants;
  return acted || !commands.empty();
}

bool SteppedEngine::DeliverLoaderEvent(uint64_t pick) {
  std::unique_lock<std::mutex> lock(loader_mutex_);
  loader_answered_.wait(lock, [this] { return loader_jobs_ == 0; });
  if (loader_events_.empty()) return false;
  std::sort(loader_events_.begin(), loader_events_.end(),
            [](const LoaderEvent& a, const LoaderEvent& b) { return IdOf(a) < IdOf(b); });
  const auto picked = loader_events_.begin() + static_cast<int64_t>(pick % loader_events_.size());
  inbox_.Put(LoaderCommand{std::move(*picked)});
  loader_events_.erase(picked);
  return true;
}

void SteppedEngine::RunUntilIdle() {
  constexpr int kMostTurns = 100'000;
  for (int turn = 0; turn < kMostTurns; ++turn) {
    if (Turn() || DeliverLoaderEvent()) continue;
    if (state().sequences.empty()) return;
    const int64_t wait_us = core_->WaitBudgetUs();
    if (wait_us < 0) break;
    clock_.Advance(wait_us);
  }
  ADD_FAILURE() << "the engine is stuck: running " << state().running.size() << ", waiting " << state().waiting.size();
}

ThreadedEngine::ThreadedEngine(CausalLm* model, const std::string& model_dir, const EngineSetup& setup)
    : files_(LocalFiles()), parts_(model, setup) {
  loader_ = std::make_unique<AdapterLoader>(LoaderOptions(*model, model_dir, &parts_.pages->memory()),
                                            model->base_shape(), files_.get(),
                                            [this](LoaderEvent event) { engine_->OnLoaderEvent(std::move(event)); });
  engine_ = std::make_unique<Engine>(WithContext(setup.engine, *model), Engine::Parts{.pages = parts_.pages.get(),
                                                                                      .adapters = &parts_.adapters,
                                                                                      .loader = loader_.get(),
                                                                                      .executor = &parts_.executor,
                                                                                      .observer = &parts_.observer,
                                                                                      .completions = &completions_,
                                                                                      .clock = &clock_,
                                                                                      .kv_layout = model->kv_layout()});
  thread_ = std::thread([this] { engine_->Run(); });
}

void ThreadedEngine::Stop() {
  if (!thread_.joinable()) return;
  engine_->Stop();
  thread_.join();
}

ThreadedEngine::~ThreadedEngine() {
  Stop();
  loader_.reset();
  engine_.reset();
}

std::shared_ptr<Recording> ThreadedEngine::Submit(Request request) {
  request.id = ++last_request_;
  request.arrival_us = clock_.NowUs();
  auto recording = std::make_shared<Recording>(request);
  request.sink = recording;
  const absl::Status status = engine_->Submit(std::move(request));
  EXPECT_TRUE(status.ok()) << status;
  return recording;
}

absl::Status ThreadedEngine::Load(const std::string& name, const std::string& path) {
  std::mutex mutex;
  std::condition_variable answered;
  std::optional<absl::Status> answer;
  LoadCommand command;
  command.name = name;
  command.path = path;
  command.reply = [&](const absl::StatusOr<AdapterInfo>& info) {
    const std::lock_guard<std::mutex> lock(mutex);
    answer = info.status();
    answered.notify_all();
  };
  const absl::Status accepted = engine_->Load(std::move(command));
  if (!accepted.ok()) return accepted;
  std::unique_lock<std::mutex> lock(mutex);
  answered.wait(lock, [&] { return answer.has_value(); });
  return *answer;
}

}  // namespace lorad
