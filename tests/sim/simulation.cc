#include "tests/sim/simulation.h"

#include <algorithm>
#include <utility>

#include "adapters/invocation.h"
#include "scheduler/composition.h"

namespace lorad {
namespace {

constexpr int kNames = 12;       // loaded by command
constexpr int kFolderNames = 4;  // found in adapter_dir

// Every combination of what can be switched comes within a few dozen seeds.
FakeWorld::Options OptionsOf(uint64_t seed) {
  const auto some = static_cast<int64_t>(seed);
  FakeWorld::Options options;
  options.total_pages = 24 + static_cast<int64_t>(seed * 7 % 60);
  options.kv_pages_per_block = 1 + static_cast<int64_t>(seed % 3);
  options.config.max_batch_tokens = 32 + static_cast<int64_t>(seed * 13 % 200);
  options.config.max_sequences = 2 + static_cast<int64_t>(seed % 11);
  options.config.queue_limit = 40;
  options.config.max_overtakes = static_cast<int64_t>(seed % 5) * 3;
  options.config.target_step_us = 8'000;
  options.config.max_context_tokens = 200;
  options.config.prefix_cache = seed % 5 != 0;
  if (seed % 2 == 0) options.config.order = "fair_share";
  if (seed % 4 == 0) options.config.prices.weights = {{"named-0", 4.0}, {"named-1", 0.25}, {"(base)", 2.0}};
  if (seed % 3 == 1) options.config.slo_first_token_us = 20'000 + some * 7 % 11 * 30'000;
  if (seed % 4 >= 2) options.config.rope_switch = {.every_tokens = 17 + some % 40, .last_variant = 1 + some % 3};
  if (seed % 7 >= 4) options.config.max_running_per_adapter = 1 + some % 3;
  if (seed / 2 % 2 == 0) options.config.host_adapter_bytes = (1 + some % 13 * 3) * FakeWorld::kPageBytes;
  if (seed % 7 >= 5) options.config.max_waiting_per_adapter = 6;
  return options;
}

std::string NameOf(int64_t i) { return i < kNames ? absl::StrCat("named-", i) : absl::StrCat("folder-", i - kNames); }

const std::vector<int32_t> kInvocations[] = {{7, 7, 3}, {5}};

// A third are aLoRAs, some with the same invocation.
std::vector<int32_t> InvocationOf(const std::string& name) {
  const int kind = name.back() % 6;
  return kind < 2 ? kInvocations[kind] : std::vector<int32_t>();
}

}  // namespace

Simulation::Simulation(uint64_t seed) : random_(seed), world_(OptionsOf(seed)) {
  world_.executor.takes_step_behind = seed % 8 >= 4;
  for (int64_t i = 0; i < kNames + kFolderNames; ++i) {
    PutFolder(NameOf(i));
  }
}

int64_t Simulation::Draw(int64_t least, int64_t most) {
  return least + static_cast<int64_t>(random_() % static_cast<uint64_t>(most - least + 1));
}

void Simulation::PutFolder(const std::string& name) {
  world_.Folder(name, next_content_++, Draw(1, 6));
  world_.loader.folders[FakeWorld::PathOf(name)].invocation_tokens = InvocationOf(name);
}

std::string Simulation::AnyName() { return NameOf(Draw(0, kNames + kFolderNames - 1)); }

std::shared_ptr<Simulation::Reply> Simulation::Expect(std::string what) {
  replies_.push_back(std::make_shared<Reply>(Reply{.what = std::move(what)}));
  return replies_.back();
}

// Prompts that begin alike: one of a few long instructions, or an earlier prompt with its answer, and then words of its
// own.
std::vector<int32_t> Simulation::LikeBefore(std::vector<int32_t> own) {
  std::vector<int32_t> prompt;
  if (Chance(30) && !clients_.empty()) {
    const Client& before = clients_[static_cast<size_t>(Draw(0, static_cast<int64_t>(clients_.size()) - 1))];
    prompt = before.request.prompt_ids;
    const std::vector<int32_t> answer = FakeWorld::SinkOf(before.request)->answer().tokens;
    prompt.insert(prompt.end(), answer.begin(), answer.end());
  } else {
    const int64_t instruction = Draw(0, 2);
    for (int64_t i = Draw(10, 80); i > 0; --i) prompt.push_back(static_cast<int32_t>(instruction + i * i % 90));
    std::reverse(prompt.begin(), prompt.end());
  }
  own.resize(own.size() % 20);
  prompt.insert(prompt.end(), own.begin(), own.end());
  prompt.resize(std::clamp<size_t>(prompt.size(), 1, 120));
  return prompt;
}

// One to four adapters, `first` among them, at various scales.
std::vector<RequestAdapter> Simulation::Compose(const std::string& first) {
  std::vector<RequestAdapter> adapters = {{.name = first, .scale = Chance(50) ? 1.0f : 0.5f}};
  for (int64_t more = Draw(0, 3); more > 0; --more) {
    const std::string name = AnyName();
    const auto same = [&name](const RequestAdapter& adapter) { return adapter.name == name; };
    if (std::none_of(adapters.begin(), adapters.end(), same)) {
      adapters.push_back({.name = name, .scale = static_cast<float>(Draw(1, 3))});
    }
  }
  return adapters;
}

void Simulation::Arrive() {
  const std::string name = Chance(25) ? "" : Chance(3) ? "nobody" : AnyName();
  Client client;
  client.request = world_.MakeRequest(name, Draw(1, 90), Draw(1, 40));
  Request& request = client.request;
  if (Chance(60)) request.prompt_ids = LikeBefore(std::move(request.prompt_ids));
  while (Chance(30)) {  // an invocation, once or more often
    const std::vector<int32_t>& invocation = kInvocations[Draw(0, 1)];
    request.prompt_ids.insert(request.prompt_ids.begin() + Draw(0, static_cast<int64_t>(request.prompt_ids.size())),
                              invocation.begin(), invocation.end());
  }
  request.n = static_cast<int32_t>(Chance(15) ? Draw(2, 3) : 1);
  request.priority = static_cast<int32_t>(Draw(-1, 1));
  request.max_tokens_is_default = Chance(10);
  request.sampling.seed = random_();
  if (Chance(20))
    request.sampling.stop_token_ids = {static_cast<int32_t>(Draw(0, 200)), static_cast<int32_t>(Draw(0, 996))};
  if (Chance(20)) request.sampling.min_tokens = Draw(0, request.sampling.max_tokens);
  if (Chance(15)) request.sampling.prompt_logprobs = 0;
  if (Chance(15)) request.deadline_us = world_.clock.NowUs() + Draw(1'000, 300'000);
  client.versions.resize(static_cast<size_t>(request.n));
  if (!name.empty() && Chance(25)) request.composition = Compose(name);
  std::vector<std::string> folders;
  for (const RequestAdapter& adapter : AdaptersOf(request)) {
    const bool in_folder = adapter.name.rfind("folder-", 0) == 0;
    folders.push_back(in_folder ? FakeWorld::PathOf(adapter.name) : "");
  }
  Request submitted = request;
  if (!name.empty() && Chance(20)) {
    submitted.awaits_tokenizer = true;
    submitted.prompt_ids.clear();
    without_prompt_.push_back(clients_.size());
  }
  client.refused = !world_.Submit(std::move(submitted), std::move(folders)).ok();
  client_of_[request.id] = clients_.size();
  clients_.push_back(std::move(client));
}

void Simulation::CancelOne() {
  if (clients_.empty()) return;
  Client& client = clients_[static_cast<size_t>(Draw(std::max<int64_t>(0, static_cast<int64_t>(clients_.size()) - 20),
                                                     static_cast<int64_t>(clients_.size()) - 1))];
  client.cancelled = true;
  world_.inbox.Put(CancelCommand{
      .request = client.request.id, .index = Chance(50) ? -1 : 0, .reason = "cancelled", .as_stop = Chance(30)});
}

void Simulation::CommandAdapter() {
  const std::string name = AnyName();
  const auto count = [](std::shared_ptr<Reply> reply) {
    return [reply = std::move(reply)](const auto&) { ++reply->times; };
  };
  switch (Draw(0, 5)) {
    case 0:
    case 1:
    case 2: {
      const bool replace = Chance(40);
      if (replace && Chance(50)) PutFolder(name);
      (void)world_.inbox.PutAdapter(LoadCommand{.name = name,
                                                .path = FakeWorld::PathOf(name),
                                                .pinned = Chance(10),
                                                .replace = replace,
                                                .reply = count(Expect("load " + name))});
      break;
    }
    case 3:
    case 4:
      (void)world_.inbox.PutAdapter(UnloadCommand{.name = name, .reply = count(Expect("unload " + name))});
      break;
    case 5:
      (void)world_.inbox.PutAdapter(
          PinCommand{.name = name, .pinned = Chance(30), .reply = count(Expect("pin " + name))});
      break;
  }
}

void Simulation::ChangeFolder() {
  FakeFolder& folder = world_.loader.folders[FakeWorld::PathOf(AnyName())];
  folder.error = Chance(20) ? absl::DataLossError("the file is corrupt") : absl::OkStatus();
  folder.hangs = Chance(15);
  if (Chance(20)) folder.content = next_content_++;
}

void Simulation::FailAStep() {
  if (Chance(20)) {
    world_.executor.step_error = absl::InternalError("the device fell over");
    return;
  }
  const auto row = static_cast<size_t>(Draw(0, 3));
  world_.executor.on_step = [this, row](absl::Span<const ExecRow> rows, StepResult* result) {
    if (row < result->rows.size()) result->rows[row].status = absl::InternalError("not finite");
    world_.executor.on_step = nullptr;
  };
}

void Simulation::AnswerSomeLoads() {
  for (size_t i = 0; i < world_.loader.jobs.size();) {
    if (world_.loader.CanAnswer(world_.loader.jobs[i]) && Chance(40)) {
      world_.inbox.Put(LoaderCommand{world_.loader.Answer(i)});
    } else {
      ++i;
    }
  }
}

// As far as they are asked for; some of them after their request was cancelled or has ended.
void Simulation::GivePrompts(int percent) {
  std::erase_if(without_prompt_, [&](size_t client) {
    const Request& request = clients_[client].request;
    if (FakeWorld::SinkOf(request)->tokenizers().empty() || !Chance(percent)) return false;
    world_.inbox.Put(PromptCommand{request});
    return true;
  });
}

// A sequence keeps the version that it was accepted on.
void Simulation::NoteVersions() {
  for (const auto& [id, sequence] : world_.core.state().sequences) {
    Client& client = clients_[client_of_.at(sequence->request->id)];
    std::vector<AdapterId>& noted = client.versions[static_cast<size_t>(sequence->index)];
    std::vector<AdapterId> versions;
    for (const SequenceAdapter& adapter : sequence->adapters) versions.push_back(adapter.version->id);
    LORAD_CHECK(noted.empty() || noted == versions);
    noted = std::move(versions);
  }
}

void Simulation::TakeTurn() {
  std::vector<Command> commands;
  world_.inbox.DrainInto(&commands, 0);
  for (Command& command : commands) {
    world_.core.Apply(std::move(command));
    NoteVersions();
  }
  world_.Turn();
  LORAD_CHECK(StagedImages() <= ResidencyInput().max_staged + ResidencyInput().max_parked);
  world_.clock.Advance(Draw(0, 2'000));
}

int64_t Simulation::StagedImages() const {
  int64_t staged = 0;
  for (const auto& [id, version] : world_.core.state().adapters.versions()) {
    staged += version->phase == WantedPhase::kStaged;
  }
  return staged;
}

void Simulation::Run(int turns) {
  for (int i = 0; i < turns; ++i) {
    if (Chance(45)) Arrive();
    if (Chance(8)) CancelOne();
    if (Chance(25)) CommandAdapter();
    if (Chance(8)) ChangeFolder();
    if (Chance(3)) FailAStep();
    AnswerSomeLoads();
    GivePrompts(40);
    TakeTurn();
  }
}

void Simulation::WindDown() {
  world_.executor.on_step = nullptr;
  world_.executor.step_error = absl::OkStatus();
  // Reads that hang make way for others after a while.
  for (int i = 0; i < 3; ++i) {
    size_t left = 0;
    do {  // Each that begins may let another's adapter be read.
      left = without_prompt_.size();
      world_.Settle();
      GivePrompts(100);
    } while (without_prompt_.size() < left);
    world_.clock.Advance(6'000'000);
  }
  for (const auto& [id, sequence] : world_.core.state().sequences) {
    const auto hangs = [this](const SequenceAdapter& a) { return world_.loader.folders[a.version->path].hangs; };
    if (std::none_of(sequence->adapters.begin(), sequence->adapters.end(), hangs)) ++held_back_;
  }
  for (Client& client : clients_) {
    world_.inbox.Put(CancelCommand{.request = client.request.id, .index = -1, .reason = "end", .as_stop = false});
  }
  for (int64_t i = 0; i < kNames + kFolderNames; ++i) {
    const auto reply = Expect("last unload " + NameOf(i));
    (void)world_.inbox.PutAdapter(
        UnloadCommand{.name = NameOf(i), .reply = [reply](const absl::Status&) { ++reply->times; }});
  }
  world_.Settle();
}

std::vector<std::string> Simulation::Faults() {
  std::vector<std::string> faults;
  for (const Client& client : clients_) {
    const Request& request = client.request;
    for (int32_t i = 0; i < request.n; ++i) {
      const RecordingSink::Answer answer = FakeWorld::SinkOf(request)->answer(i);
      const std::string who =
          absl::StrCat("request ", request.id, " of '", AnswersAs(request), "', sequence ", i, ": ");
      if (answer.finishes != (client.refused ? 0 : 1))
        faults.push_back(absl::StrCat(who, "final answers: ", answer.finishes));
      if (FakeWorld::SinkOf(request)->tokenizers().size() > 1) faults.push_back(who + "asked twice for its prompt");
      if (answer.told_after_finish) faults.push_back(who + "told more after its end");
      if (!answer.finish.status.ok() && !answer.tokens.empty()) faults.push_back(who + "a status after tokens");
      const Usage& usage = answer.finish.usage;
      if (usage.cached_tokens % kKvBlockTokens != 0 ||
          usage.cached_tokens > std::max<int64_t>(0, usage.prompt_tokens - 1) ||
          (usage.cached_tokens > 0 && request.sampling.prompt_logprobs >= 0)) {
        faults.push_back(absl::StrCat(who, "cached tokens: ", usage.cached_tokens, " of ", usage.prompt_tokens));
      }
      if (answer.tokens.empty()) continue;
      uint64_t content = 0;
      int64_t active_from = 0;
      const std::vector<AdapterId>& versions = client.versions[static_cast<size_t>(i)];
      const std::vector<RequestAdapter> adapters = AdaptersOf(request);
      for (size_t a = 0; a < versions.size(); ++a) {
        content = FakeContent(content, world_.loader.content_of.at(versions[a]), adapters[a].scale);
        active_from = ActiveFrom(request.prompt_ids, InvocationOf(adapters[a].name));
        invoked_ += active_from > 0 && active_from != kNeverActive;
      }
      SamplingOptions sampling = request.sampling;
      sampling.seed += static_cast<uint64_t>(i);
      std::vector<int32_t> alone =
          FakeGenerate(request.prompt_ids, content, sampling, world_.core.state().config.rope_switch, active_from);
      const bool whole =
          answer.finish.reason != FinishReason::kAbort && !client.cancelled && !request.max_tokens_is_default;
      answered_in_full_ += whole;
      if (!whole) alone.resize(std::min(alone.size(), answer.tokens.size()));
      if (answer.tokens != alone) faults.push_back(who + "other tokens than alone");
      if (request.sampling.prompt_logprobs >= 0 && answer.prompt_logprobs.size() != request.prompt_ids.size()) {
        faults.push_back(absl::StrCat(who, "prompt logprobs: ", answer.prompt_logprobs.size()));
      }
    }
  }
  for (const std::shared_ptr<Reply>& reply : replies_) {
    if (reply->times != 1) faults.push_back(absl::StrCat(reply->what, ": replies: ", reply->times));
  }
  if (held_back_ > 0) faults.push_back(absl::StrCat("sequences that waited for nothing: ", held_back_));
  const SchedulerState& state = world_.core.state();
  if (!state.sequences.empty()) faults.push_back(absl::StrCat("sequences left: ", state.sequences.size()));
  if (world_.unused_pages() != world_.pages->total_pages()) faults.push_back("pages still owned");
  if (!state.adapters.versions().empty())
    faults.push_back(absl::StrCat("versions left: ", state.adapters.versions().size()));
  if (world_.inbox.queued_sequences() != 0) faults.push_back("the inbox still counts waiting sequences");
  return faults;
}

}  // namespace lorad
