#include "adapters/train/trained_modules.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "model/base/status_macros.h"

namespace lorad {
namespace {

constexpr size_t kShownCharacters = 200;

bool IsTable(Site site) { return site == Site::kEmbedTokens || site == Site::kLmHead; }

class Selector final {
 public:
  Selector(const TrainConfig& config, const BaseShape& base)
      : config_(config), base_(base), modules_(AllModules(base)) {}

  absl::StatusOr<std::map<std::string, TrainedModule>> Select() {
    // PEFT's all-linear means experts and routers too, on some bases, and they can have no DoRA. Here it does not.
    PeftLoraConfig wanted = config_.adapter;
    if (wanted.all_linear) wanted.use_dora = false;
    ASSIGN_OR_RETURN(const auto targets, SelectTargets(wanted, base_));
    for (const auto& [path, target] : targets) {
      if (!target.shape->parameter.empty()) {
        if (wanted.all_linear) continue;
        return absl::UnimplementedError(
            absl::StrCat("adapter.targets: ", path, ": experts or router of the base; limit: what is neither"));
      }
      RETURN_IF_ERROR(CheckRank(path, target));
      selected_[path] = {.module = target, .pair = true};
    }
    for (const std::string& name : config_.adapter.modules_to_save) RETURN_IF_ERROR(Save(name));
    RETURN_IF_ERROR(AddTokens());
    AddBiases();
    return std::move(selected_);
  }

 private:
  TrainedModule& Entry(const std::string& path) {
    TrainedModule& entry = selected_[path];
    if (entry.module.shape == nullptr) entry.module = modules_.at(path);
    return entry;
  }

  // PiSSA and OLoRA take as many vectors off the weight.
  absl::Status CheckRank(const std::string& path, const TargetedModule& target) const {
    const SiteShape& shape = *target.shape;
    const int64_t limit = std::min(shape.in_features, shape.out_features);
    if (!TakesOffBase(config_.init) || shape.site == Site::kEmbedTokens || target.rank <= limit) {
      return absl::OkStatus();
    }
    return absl::InvalidArgumentError(
        absl::StrCat("adapter.rank: ", target.rank, "; limit: ", limit, ", of ", path, " with this adapter.init"));
  }

  // As PEFT, every module whose path ends so.
  absl::Status Save(const std::string& name) {
    const std::string what = absl::StrCat("adapter.modules_to_save: ", name.substr(0, kShownCharacters));
    bool found = false;
    for (const auto& [path, module] : modules_) {
      if (name.empty() || !absl::EndsWith(path, name)) continue;
      if (!IsTable(module.shape->site) && !IsNorm(module.shape->site)) {
        return absl::UnimplementedError(
            absl::StrCat(what, ": ", path, "; limit: embedding, head and norms of the base"));
      }
      TrainedModule& entry = Entry(path);
      if (entry.pair) return absl::InvalidArgumentError(absl::StrCat(what, ": ", path, "; in adapter.targets as well"));
      entry.weight = true;
      entry.bias = module.shape->has_bias;
      found = true;
    }
    if (found) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(what, "; limit: the end of a module's path"));
  }

  absl::Status AddTokens() {
    const SiteShape* const embedding = base_.Find(Site::kEmbedTokens);
    const SiteShape* const head = base_.Find(Site::kLmHead);
    for (const SiteShape* shape : {embedding, head}) {
      const std::string& path = shape->module_path;
      const std::vector<int32_t>* tokens = config_.adapter.TokensOf(path, shape == embedding);
      if (tokens == nullptr) continue;
      const char* const field = shape == embedding ? "adapter.trainable_token_ids" : "adapter.trainable_head_token_ids";
      TrainedModule& entry = Entry(path);
      if (entry.pair || entry.weight) return OnOneTable(field, path, entry);
      entry.tokens = *tokens;
      std::sort(entry.tokens.begin(), entry.tokens.end());
      RETURN_IF_ERROR(CheckTokens(field, entry.tokens));
    }
    return base_.tied_embeddings ? TieTokens(embedding->module_path, head->module_path) : absl::OkStatus();
  }

  // As PEFT, which takes neither: its trained tokens wrap an embedding or a linear of the base, none with LoRA around
  // it.
  static absl::Status OnOneTable(const char* field, const std::string& path, const TrainedModule& entry) {
    return absl::UnimplementedError(absl::StrCat(field, ": with ", path, " in adapter.",
                                                 entry.pair ? "targets" : "modules_to_save",
                                                 "; limit: one of the two, as in PEFT"));
  }

  absl::Status CheckTokens(const char* field, const std::vector<int32_t>& sorted) const {
    for (size_t i = 0; i < sorted.size(); ++i) {
      const bool twice = i > 0 && sorted[i] == sorted[i - 1];
      if (sorted[i] >= 0 && sorted[i] < base_.vocab_size && !twice) continue;
      return absl::InvalidArgumentError(absl::StrCat(field, ": ", sorted[i], twice ? " twice" : "", "; limit: 0 to ",
                                                     base_.vocab_size - 1, ", each once"));
    }
    return absl::OkStatus();
  }

  // A tied head reads the embedding's new rows, unless it has tokens of its own.
  absl::Status TieTokens(const std::string& embedding, const std::string& head) {
    const auto tokens = selected_.find(embedding);
    if (tokens == selected_.end() || tokens->second.tokens.empty()) return absl::OkStatus();
    TrainedModule& tied = Entry(head);
    if (!tied.tokens.empty() && tied.tokens != tokens->second.tokens) return absl::OkStatus();
    // PEFT has plain LoRA on a tied head, around its rows; what DoRA's norms and PiSSA's pairs would be of is unclear.
    const bool is_plain = !config_.adapter.use_dora && !TakesOffBase(config_.init);
    if (tied.weight || (tied.pair && !is_plain)) return OnOneTable("adapter.trainable_token_ids", head, tied);
    tied.tokens = tokens->second.tokens;
    tied.tokens_are_tied = true;
    return absl::OkStatus();
  }

  void AddBiases() {
    if (config_.adapter.bias == PeftBias::kNone) return;
    for (const auto& [path, module] : modules_) {
      const auto found = selected_.find(path);
      const bool targeted = found != selected_.end() && found->second.pair;
      if (module.shape->has_bias && (targeted || config_.adapter.bias == PeftBias::kAll)) Entry(path).bias = true;
    }
  }

  const TrainConfig& config_;
  const BaseShape& base_;
  const std::map<std::string, TargetedModule> modules_;
  std::map<std::string, TrainedModule> selected_;
};

}  // namespace

absl::StatusOr<std::map<std::string, TrainedModule>> SelectTrained(const TrainConfig& config, const BaseShape& base) {
  return Selector(config, base).Select();
}

}  // namespace lorad
