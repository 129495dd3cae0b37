#include "server/serving.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
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
#include "model/step_graphs.h"
#include "model/text/chat_template.h"
#include "scheduler/completions.h"
#include "scheduler/engine.h"
#include "scheduler/model_executor.h"
#include "scheduler/warm_up.h"
#include "server/adapter_tokenizers.h"
#include "server/adapters_of_flags.h"
#include "server/base_model.h"
#include "server/memory_defaults.h"
#include "server/merger.h"
#include "server/tuning/tuning.h"
#include "server/version.h"

namespace lorad {
namespace {

std::string AbsolutePath(const std::string& path) {
  std::error_code error;
  const std::filesystem::path absolute = std::filesystem::absolute(path, error);
  return error ? path : absolute.string();
}

// The real path of --adapter-dir; "" without one.
absl::StatusOr<std::string> ResolveAdapterDir(const ServerConfig& config) {
  if (config.adapter_dir.empty()) return "";
  absl::StatusOr<std::string> path = ResolveAdapterPath(config.adapter_dir, config.adapter_root);
  if (path.ok()) return path;
  return absl::Status(path.status().code(), absl::StrCat("--adapter-dir: ", path.status().message()));
}

EngineConfig EngineConfigOf(const ServerConfig& config, const std::string& adapter_dir, const CausalLm& model) {
  EngineConfig engine;
  engine.adapter_dir = adapter_dir;
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

}  // namespace

// In the order in which each needs those before it.
struct Serving::Parts {
  SteadyClock clock;
  std::shared_ptr<FileSource> files;
  std::unique_ptr<CausalLm> model;
  BaseTables base_tables;
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

  // Start, in this order.
  absl::Status MakeModel(const ServerConfig& config, const ServingDevice& device, Log* log);  // what computes, too
  absl::Status MakeEngine(const ServerConfig& config, const std::string& adapter_dir, Metrics* metrics);
  absl::Status MakeBackend(const ServerConfig& config, const ServingDevice& device);
  absl::Status StartTuning(const ServerConfig& config, Log* log);

  int64_t pool_bytes() const { return pages->total_pages() * pages->page_bytes(); }
};

namespace {

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

absl::Status Serving::Parts::MakeModel(const ServerConfig& config, const ServingDevice& device, Log* log) {
  ASSIGN_OR_RETURN(model, LoadBaseModel(config, device, log));
  if (device.is_cuda()) EndIfLostOnTerminate(model->device());
  ASSIGN_OR_RETURN(backend.tokenizer, LoadTokenizer(config.model_dir, log));

  const KvLayout layout = model->kv_layout();
  ASSIGN_OR_RETURN(ServingMemory memory, CreateMemory(config, device, layout, log));
  pages = std::move(memory.pages);
  const int64_t pages_of_block = pages->PagesFor(layout.block_bytes());
  const int64_t kv_tokens = pages->total_pages() / std::max<int64_t>(1, pages_of_block) * kKvBlockTokens;
  log->Info("memory", {{"bytes", pages->memory().bytes()},
                       {"page_bytes", pages->page_bytes()},
                       {"graph_bytes", memory.graph_bytes},
                       {"kv_tokens_at_most", kv_tokens}});

  adapters = std::make_unique<AdapterPool>(pages.get(), model->base_shape());
  seam = std::make_unique<SlotSeam>(adapters->slots(), model->device());
  gate = std::make_unique<ComputeGate>(config.tuning_slo);
  if (memory.graph_bytes > 0) {
    RETURN_IF_ERROR(GuardedOnDevice([&] {
      graph_seam = std::make_unique<SlotGraphSeam>(adapters->slots(), model->base_shape(), model->device());
      return absl::OkStatus();
    }));
    graphs = StepGraphs::Create(model.get(), graph_seam.get(), {.most_bytes = memory.graph_bytes});
  }
  executor = std::make_unique<ModelExecutor>(model.get(), KvView{pages->arena(), pages->page_bytes(), layout},
                                             seam.get(), gate.get(), graphs.get());
  if (!device.is_cuda()) return absl::OkStatus();
  return WarmUpDevice(
      {.batch_tokens = config.max_batch_tokens, .total_pages = pages->total_pages(), .pages_of_block = pages_of_block},
      executor.get(), log);
}

absl::Status Serving::Parts::MakeEngine(const ServerConfig& config, const std::string& adapter_dir, Metrics* metrics) {
  const BaseShape& shape = model->base_shape();
  ASSIGN_OR_RETURN(base_tables, OpenBaseTables(config.model_dir, shape, config.quantization));
  EngineConfig engine_config = EngineConfigOf(config, adapter_dir, *model);
  engine_config.host_adapter_bytes =
      config.host_adapter_bytes.value_or(DefaultHostAdapterBytes(pages->memory().on_host(), AvailableMemoryBytes()));
  files = AdapterFiles(config, adapter_dir);

  AdapterLoader::Options options;
  options.pool_dtype = model->dtype();
  options.pool_memory = &pages->memory();
  options.max_pool_bytes = pool_bytes();
  options.read_tokenizer = [tokenizers = std::make_shared<AdapterTokenizers>(config.model_dir)](
                               FileSource& from, const std::string& dir) { return tokenizers->Read(from, dir); };
  options.base_tables = base_tables;
  loader = std::make_unique<AdapterLoader>(options, shape, files,
                                           [this](LoaderEvent event) { engine->OnLoaderEvent(std::move(event)); });
  engine = std::make_unique<Engine>(
      engine_config, Engine::Parts{pages.get(), adapters.get(), loader.get(), executor.get(), metrics, &completions,
                                   &clock, model->kv_layout(), [this] { pump.Wake(); }});
  return absl::OkStatus();
}

absl::Status Serving::Parts::MakeBackend(const ServerConfig& config, const ServingDevice& device) {
  backend.engine = engine.get();
  backend.step_waits_us = [executor = executor.get()] { return executor->waits_us(); };
  ASSIGN_OR_RETURN(backend.model, FactsOf(config, device, *model));
  backend.adapter_roots = AdapterRoots(config);
  backend.pump = &pump;
  backend.long_texts = &long_texts;
  backend.unread = &unread;
  backend.clock = &clock;
  merger = std::make_unique<Merger>(config.model_dir, model->base_shape(), files, config.adapter_root);
  backend.merger = merger.get();
  return absl::OkStatus();
}

absl::Status Serving::Parts::StartTuning(const ServerConfig& config, Log* log) {
  // What training makes lies in the state folder and is loaded like any adapter.
  if (!config.adapter_root.empty()) {
    std::error_code error;
    std::filesystem::create_directories(config.state_dir, error);
    const absl::Status inside = ResolveAdapterPath(AbsolutePath(config.state_dir), config.adapter_root).status();
    if (!inside.ok()) return absl::Status(inside.code(), absl::StrCat("--state-dir: ", inside.message()));
  }
  absl::StatusOr<std::unique_ptr<Tuning>> started =
      Tuning::Start({&backend, model.get(), base_tables, gate.get(), AbsolutePath(config.state_dir),
                     ChatTemplate::Load(config.model_dir), config.tuning_jobs, pool_bytes(), log});
  if (!started.ok()) {
    return absl::Status(started.status().code(), absl::StrCat("--state-dir: ", started.status().message()));
  }
  tuning = *std::move(started);
  backend.tuning = tuning.get();
  backend.rollback = [tuning = tuning.get()](const std::string& name, const std::string& revision, AdapterReply reply) {
    tuning->Rollback(name, revision, std::move(reply));
  };
  backend.fill_revisions = [tuning = tuning.get()](v1::Adapter* adapter) { tuning->FillRevisions(adapter); };
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Serving>> Serving::Start(const ServerConfig& config, const ServingDevice& device,
                                                        Metrics* metrics, Log* log) {
  cpu::SetComputeThreads(static_cast<int>(config.threads));
  at::set_num_threads(static_cast<int>(config.threads));  // for what is left to LibTorch
  std::unique_ptr<Serving> serving(new Serving(std::make_unique<Parts>()));
  Parts& parts = *serving->parts_;
  // What the flags name is looked for before the model is read, which may take minutes.
  ASSIGN_OR_RETURN(const std::string adapter_dir, ResolveAdapterDir(config));
  ASSIGN_OR_RETURN(const std::vector<AdapterFlag> adapters, ResolveAdapterFlags(config));
  RETURN_IF_ERROR(parts.MakeModel(config, device, log));
  RETURN_IF_ERROR(parts.MakeEngine(config, adapter_dir, metrics));
  RETURN_IF_ERROR(parts.MakeBackend(config, device));
  metrics->SetModel(parts.backend.model.name, kVersion);
  parts.engine_thread = std::thread([&parts] { parts.engine->Run(); });
  RETURN_IF_ERROR(LoadAdaptersOfFlags(adapters, parts.engine.get(), log));
  if (!config.state_dir.empty()) RETURN_IF_ERROR(parts.StartTuning(config, log));
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
