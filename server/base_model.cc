#include "server/base_model.h"

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "model/base/status_macros.h"
#include "model/causal_lm.h"
#include "model/padding_token.h"

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

}  // namespace

absl::StatusOr<std::unique_ptr<CausalLm>> LoadBaseModel(const ServerConfig& config, const ServingDevice& device,
                                                        Log* log) {
  const absl::StatusOr<ModelConfig> read = ReadModelConfig(config.model_dir);
  if (absl::IsNotFound(read.status())) {
    return absl::NotFoundError(
        absl::StrCat("--model: ", config.model_dir, "; ", read.status().message(),
                     "; limit: the folder of a Hugging Face checkpoint; nothing is downloaded by its name"));
  }
  RETURN_IF_ERROR(read.status());
  const ModelConfig& shape = *read;
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

absl::StatusOr<std::shared_ptr<const Tokenizer>> LoadTokenizer(const std::string& model_dir, Log* log) {
  absl::StatusOr<std::shared_ptr<const Tokenizer>> tokenizer = Tokenizer::Load(model_dir);
  if (tokenizer.ok() || !absl::IsNotFound(tokenizer.status())) return tokenizer;
  log->Warning("no_tokenizer", {{"status", tokenizer.status().ToString()}, {"hint", "only token_ids can be used"}});
  return std::shared_ptr<const Tokenizer>();
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

}  // namespace lorad
