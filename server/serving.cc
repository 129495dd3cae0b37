#include "server/serving.h"

#include <ATen/Parallel.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <filesystem>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "adapters/apply.h"
#include "adapters/checkpoint_tables.h"
#include "adapters/graph_seam.h"
#include "adapters/loader.h"
#include "adapters/names.h"
#include "adapters/pool.h"
#include "model/base/file_source.h"
#include "model/base/status_macros.h"
#include "model/causal_lm.h"
#include "model/device_step.h"
#include "model/lost_device.h"
#include "model/memory/page_pool.h"
#include "model/ops/cpu/parallel.h"
#include "model/padding_token.h"
#include "model/step_graphs.h"
#include "model/text/chat_template.h"
#include "scheduler/completions.h"
#include "scheduler/engine.h"
#include "scheduler/model_executor.h"
#include "scheduler/warm_up.h"
#include "server/adapter_tokenizers.h"
#include "server/memory_defaults.h"
#include "server/merger.h"
#include "server/tuning/tuning.h"
#include "server/version.h"

namespace lorad {
namespace {

// A line that is written over itself, on a terminal only; else the log's lines must do.
class LoadProgress final {
 public:
  LoadProgress() : terminal_(isatty(STDERR_FILENO) != 0) {}
  void Show(int64_t done_bytes, int64_t total_bytes) {
    const int64_t percent = total_bytes > 0 ? done_bytes * 100 / total_bytes : 0;
    if (!terminal_ || percent == shown_) return;
    shown_ = percent;
    std::fprintf(stderr, "\rloading weights %3lld %% of %.1f GiB\033[K", static_cast<long long>(percent),
                 static_cast<double>(total_bytes) / (1 << 30));
    if (done_bytes >= total_bytes) std::fprintf(stderr, "\r\033[K");
    std::fflush(stderr);
  }

 private:
  const bool terminal_;
  int64_t shown_ = -1;
};

std::string NameOfModel(const std::string& model_dir) {
  std::error_code error;
  const std::filesystem::path real = std::filesystem::canonical(model_dir, error);
  return (error ? std::filesystem::path(model_dir) : real).filename().string();
}

absl::StatusOr<ModelFacts> FactsOf(const ServerConfig& config, const ServingDevice& device, const CausalLm& model) {
  const ModelConfig& shape = model.config();
  ModelFacts facts;
  facts.name = NameOfModel(config.model_dir);
  facts.architecture = shape.architecture;
  facts.digest = model.digest();
  facts.dtype = model.dtype() == DType::kBF16 ? "bfloat16" : "float32";
  facts.device = device.name;
  if (model.quantization() != Quantization::kNone) facts.quantization = Name(model.quantization());
  facts.max_context_tokens = shape.max_context_tokens;
  facts.vocab_size = shape.vocab_size;
  facts.hidden_size = shape.hidden_size;
  facts.num_layers = shape.num_layers;
  facts.weight_bytes = model.weight_bytes();
  facts.eos_token_ids = shape.eos_token_ids;
  ASSIGN_OR_RETURN(facts.padding_token, ReadPaddingToken(config.model_dir, shape));
  facts.generation = shape.generation;
  return facts;
}

std::string AbsolutePath(const std::string& path) {
  std::error_code error;
  const std::filesystem::path absolute = std::filesystem::absolute(path, error);
  return error ? path : absolute.string();
}

absl::StatusOr<EngineConfig> EngineConfigOf(const ServerConfig& config, const CausalLm& model) {
  EngineConfig engine;
  engine.max_batch_tokens = config.max_batch_tokens;
  engine.max_sequences = config.max_sequences;
  engine.queue_limit = config.queue_limit;
  engine.prefix_cache = config.prefix_cache;
  if (!config.async_scheduling) engine.steps_a_turn = 1;
  engine.order = config.order;
  engine.prices = config.prices;
  engine.max_running_per_adapter = config.max_running_per_adapter;
  engine.max_waiting_per_adapter = config.max_waiting_per_adapter;
  engine.slo_first_token_us = config.slo_first_token_us;
  engine.max_context_tokens = model.config().max_context_tokens;
  engine.vocab_size = model.config().vocab_size;
  engine.rope_switch = model.config().rope_switch;
  if (!config.adapter_dir.empty()) {
    ASSIGN_OR_RETURN(engine.adapter_dir, ResolveAdapterPath(config.adapter_dir, config.adapter_root));
  }
  if (!config.state_dir.empty()) engine.revision_dir = RevisionsDir(AbsolutePath(config.state_dir));
  return engine;
}

// What readers may see. Nothing was looked up when a folder was named: that a name's folder lies in adapter_dir, every
// link resolved, is found out here.
std::unique_ptr<FileSource> AdapterFiles(const ServerConfig& config, const std::string& adapter_dir) {
  auto files = config.adapter_root.empty() ? LocalFiles() : RootedFiles(config.adapter_root);
  if (adapter_dir.empty()) return files;
  return SplitFiles(adapter_dir, RootedFiles(adapter_dir), std::move(files));
}

std::vector<std::string> AdapterRoots(const ServerConfig& config) {
  if (config.adapter_root.empty()) return {};
  std::error_code error;
  const std::filesystem::path given = std::filesystem::absolute(config.adapter_root, error);
  std::filesystem::path real = std::filesystem::canonical(config.adapter_root, error);
  if (error) real = given;  // it may come later
  return {real.string(), given.string()};
}

absl::StatusOr<std::unique_ptr<CausalLm>> LoadModel(const ServerConfig& config, const ServingDevice& device, Log* log) {
  ASSIGN_OR_RETURN(const ModelConfig shape, ReadModelConfig(config.model_dir));
  LoadOptions options;
  ASSIGN_OR_RETURN(options.dtype, ResolveDType(config.dtype, shape.checkpoint_dtype));
  options.quantization = config.quantization;
  if (device.is_cuda()) options.device = at::Device(at::kCUDA, 0);
  LoadProgress progress;
  options.progress = [&](int64_t done_bytes, int64_t total_bytes) { progress.Show(done_bytes, total_bytes); };
  const auto began = std::chrono::steady_clock::now();
  ASSIGN_OR_RETURN(std::unique_ptr<CausalLm> model, CausalLm::Load(config.model_dir, options));
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
  log->Info("model_loaded", {{"architecture", shape.architecture},
                             {"dtype", options.dtype == DType::kBF16 ? "bfloat16" : "float32"},
                             {"quantization", std::string(Name(model->quantization()))},
                             {"weight_bytes", model->weight_bytes()},
                             {"seconds", seconds}});
  return model;
}

// None is allowed: such a model is served by token ids.
absl::StatusOr<std::shared_ptr<const Tokenizer>> LoadTokenizer(const std::string& model_dir, Log* log) {
  absl::StatusOr<std::shared_ptr<const Tokenizer>> tokenizer = Tokenizer::Load(model_dir);
  if (tokenizer.ok() || !absl::IsNotFound(tokenizer.status())) return tokenizer;
  log->Warning("no_tokenizer", {{"status", tokenizer.status().ToString()}, {"hint", "only token_ids can be used"}});
  return std::shared_ptr<const Tokenizer>();
}

}  // namespace

// In the order in which each needs those before it.
struct Serving::Parts {
  SteadyClock clock;
  std::shared_ptr<FileSource> files;
  std::unique_ptr<CausalLm> model;
  std::unique_ptr<PagePool> pages;
  std::unique_ptr<AdapterPool> adapters;
  std::unique_ptr<SlotSeam> seam;
  std::unique_ptr<SlotGraphSeam> graph_seam;
  std::unique_ptr<StepGraphs> graphs;  // null: no step is captured
  std::unique_ptr<ComputeGate> gate;
  std::unique_ptr<ModelExecutor> executor;
  UnreadAnswers unread{&pump};  // The pump's thread uses it to the end.
  StreamPump pump;
  Completions completions;
  std::unique_ptr<Engine> engine;
  std::unique_ptr<AdapterLoader> loader;  // Tells the engine of its events, so it ends first.
  std::unique_ptr<Merger> merger;
  Backend backend;
  LongTexts long_texts;  // submits to the engine
  std::thread engine_thread;
  std::unique_ptr<Tuning> tuning;  // uses the engine and the model
};

namespace {

constexpr size_t kMaxOpenLoads = 256;  // well below the engine's limit of commands

// Loads the adapters of --adapter, many at once; the first failure is the answer.
absl::Status LoadAdapters(const ServerConfig& config, Engine* engine, Log* log) {
  const auto failed = [](const std::string& name, const absl::Status& status) {
    return absl::Status(status.code(), absl::StrCat("--adapter=", name, ": ", status.message()));
  };
  std::vector<std::string> paths;
  for (const AdapterFlag& flag : config.adapters) {
    RETURN_IF_ERROR(CheckAdapterName(flag.name));
    absl::StatusOr<std::string> path = ResolveAdapterPath(flag.path, config.adapter_root);
    if (!path.ok()) return failed(flag.name, path.status());
    paths.push_back(*std::move(path));
  }

  // Replies use these, so from here on nothing returns before every one has come.
  std::mutex mutex;
  std::condition_variable wake;
  size_t open = 0;
  absl::Status first;
  for (size_t i = 0; i < paths.size(); ++i) {
    {
      std::unique_lock<std::mutex> lock(mutex);
      wake.wait(lock, [&] { return open < kMaxOpenLoads; });
      if (!first.ok()) break;
      ++open;
    }
    const std::string& name = config.adapters[i].name;
    LoadCommand command;
    command.name = name;
    command.path = std::move(paths[i]);
    command.reply = [&, name](const absl::StatusOr<AdapterInfo>& info) {
      if (info.ok()) log->Info("adapter_loaded", {{"adapter", name}, {"rank", info->rank_max}, {"bytes", info->bytes}});
      const std::lock_guard<std::mutex> lock(mutex);
      if (!info.ok()) first.Update(failed(name, info.status()));
      --open;
      wake.notify_all();
    };
    if (const absl::Status status = engine->Load(std::move(command)); !status.ok()) {
      const std::lock_guard<std::mutex> lock(mutex);
      first.Update(failed(name, status));
      --open;
    }
  }
  std::unique_lock<std::mutex> lock(mutex);
  wake.wait(lock, [&] { return open == 0; });
  return first;
}

// On a thread of its own, whose handle of cuBLAS is the engine's when it has ended.
absl::Status WarmUpDevice(const WarmUpLimits& limits, StepExecutor* executor, Log* log) {
  const auto began = std::chrono::steady_clock::now();
  absl::Status status;
  std::thread([&] { status = WarmUp(limits, executor); }).join();
  if (!status.ok()) return absl::Status(status.code(), absl::StrCat("a first step: ", status.message()));
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
  log->Info("warmed_up", {{"seconds", seconds}});
  return absl::OkStatus();
}

}  // namespace

Serving::Serving(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}

absl::StatusOr<std::unique_ptr<Serving>> Serving::Start(const ServerConfig& config, const ServingDevice& device,
                                                        Metrics* metrics, Log* log) {
  cpu::SetComputeThreads(static_cast<int>(config.threads));
  at::set_num_threads(static_cast<int>(config.threads));  // for what is left to LibTorch
  std::unique_ptr<Serving> serving(new Serving(std::make_unique<Parts>()));
  Parts& parts = *serving->parts_;
  ASSIGN_OR_RETURN(parts.model, LoadModel(config, device, log));
  if (device.is_cuda()) EndIfLostOnTerminate(parts.model->device());
  ASSIGN_OR_RETURN(parts.backend.tokenizer, LoadTokenizer(config.model_dir, log));

  const KvLayout layout = parts.model->kv_layout();
  ASSIGN_OR_RETURN(ServingMemory memory, CreateMemory(config, device, layout, log));
  parts.pages = std::move(memory.pages);
  const int64_t kv_tokens =
      parts.pages->total_pages() / std::max<int64_t>(1, parts.pages->PagesFor(layout.block_bytes())) * kKvBlockTokens;
  log->Info("memory", {{"bytes", parts.pages->memory().bytes()},
                       {"page_bytes", parts.pages->page_bytes()},
                       {"graph_bytes", memory.graph_bytes},
                       {"kv_tokens_at_most", kv_tokens}});

  const BaseShape& shape = parts.model->base_shape();
  parts.adapters = std::make_unique<AdapterPool>(parts.pages.get(), shape);
  parts.seam = std::make_unique<SlotSeam>(parts.adapters->slots(), parts.model->device());
  parts.gate = std::make_unique<ComputeGate>(config.tuning_slo);
  if (memory.graph_bytes > 0) {
    RETURN_IF_ERROR(GuardedOnDevice([&] {
      parts.graph_seam = std::make_unique<SlotGraphSeam>(parts.adapters->slots(), shape, parts.model->device());
      return absl::OkStatus();
    }));
    parts.graphs = StepGraphs::Create(parts.model.get(), parts.graph_seam.get(), {.most_bytes = memory.graph_bytes});
  }
  parts.executor = std::make_unique<ModelExecutor>(parts.model.get(),
                                                   KvView{parts.pages->arena(), parts.pages->page_bytes(), layout},
                                                   parts.seam.get(), parts.gate.get(), parts.graphs.get());
  if (device.is_cuda()) {
    RETURN_IF_ERROR(WarmUpDevice({.batch_tokens = config.max_batch_tokens,
                                  .total_pages = parts.pages->total_pages(),
                                  .pages_of_block = parts.pages->PagesFor(layout.block_bytes())},
                                 parts.executor.get(), log));
  }
  AdapterLoader::Options loader_options;
  loader_options.pool_dtype = parts.model->dtype();
  loader_options.pool_memory = &parts.pages->memory();
  loader_options.max_pool_bytes = parts.pages->total_pages() * parts.pages->page_bytes();
  loader_options.read_tokenizer = [tokenizers = std::make_shared<AdapterTokenizers>(config.model_dir)](
                                      FileSource& files, const std::string& dir) {
    return tokenizers->Read(files, dir);
  };
  ASSIGN_OR_RETURN(loader_options.base_tables, OpenBaseTables(config.model_dir, shape, config.quantization));
  ASSIGN_OR_RETURN(EngineConfig engine_config, EngineConfigOf(config, *parts.model));
  engine_config.host_adapter_bytes = config.host_adapter_bytes.value_or(
      DefaultHostAdapterBytes(parts.pages->memory().on_host(), AvailableMemoryBytes()));
  parts.files = AdapterFiles(config, engine_config.adapter_dir);
  parts.loader = std::make_unique<AdapterLoader>(loader_options, shape, parts.files, [&parts](LoaderEvent event) {
    parts.engine->OnLoaderEvent(std::move(event));
  });
  parts.engine = std::make_unique<Engine>(
      engine_config, Engine::Parts{parts.pages.get(), parts.adapters.get(), parts.loader.get(), parts.executor.get(),
                                   metrics, &parts.completions, &parts.clock, layout});
  parts.backend.engine = parts.engine.get();
  parts.backend.step_waits_us = [executor = parts.executor.get()] { return executor->waits_us(); };
  ASSIGN_OR_RETURN(parts.backend.model, FactsOf(config, device, *parts.model));
  parts.backend.adapter_roots = AdapterRoots(config);
  parts.backend.pump = &parts.pump;
  parts.backend.long_texts = &parts.long_texts;
  parts.backend.unread = &parts.unread;
  parts.backend.clock = &parts.clock;
  parts.merger = std::make_unique<Merger>(config.model_dir, shape, parts.files, config.adapter_root);
  parts.backend.merger = parts.merger.get();
  metrics->SetModel(parts.backend.model.name, kVersion);
  parts.engine_thread = std::thread([&parts] { parts.engine->Run(); });
  RETURN_IF_ERROR(LoadAdapters(config, parts.engine.get(), log));
  if (config.state_dir.empty()) return serving;
  // What training makes lies in the state folder and is loaded like any adapter.
  if (!config.adapter_root.empty()) {
    std::error_code error;
    std::filesystem::create_directories(config.state_dir, error);
    const absl::Status inside = ResolveAdapterPath(AbsolutePath(config.state_dir), config.adapter_root).status();
    if (!inside.ok()) return absl::Status(inside.code(), absl::StrCat("--state-dir: ", inside.message()));
  }
  ASSIGN_OR_RETURN(parts.tuning,
                   Tuning::Start({&parts.backend, parts.model.get(), loader_options.base_tables, parts.gate.get(),
                                  AbsolutePath(config.state_dir), ChatTemplate::Load(config.model_dir),
                                  config.tuning_jobs, parts.pages->total_pages() * parts.pages->page_bytes(), log}));
  Tuning* const tuning = parts.backend.tuning = parts.tuning.get();
  parts.backend.rollback = [tuning](const std::string& name, const std::string& revision, AdapterReply reply) {
    tuning->Rollback(name, revision, std::move(reply));
  };
  parts.backend.fill_revisions = [tuning](v1::Adapter* adapter) { tuning->FillRevisions(adapter); };
  return serving;
}

Serving::~Serving() {
  parts_->tuning.reset();
  if (!parts_->engine_thread.joinable()) return;
  parts_->engine->Stop();
  parts_->engine_thread.join();
}

const Backend* Serving::backend() const { return &parts_->backend; }

void Serving::Drain(int64_t patience_us) {
  if (parts_->tuning) parts_->tuning->Stop();
  parts_->engine->Drain(parts_->clock.NowUs() + patience_us);
  parts_->engine_thread.join();
}

}  // namespace lorad
