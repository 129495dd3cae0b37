#include "server/tuning/trial.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "model/base/status_macros.h"
#include "server/tuning/probe.h"

namespace lorad {
namespace {

constexpr int64_t kSampledTokens = 64;
constexpr size_t kSmokeTokens = 64;

class Staged final {
 public:
  Staged(const Probe* probe, const std::string& job) : probe_(probe), name_(absl::StrCat("staged/", job)) {}
  ~Staged() { probe_->Unload(name_); }
  absl::Status Load(const std::string& folder) { return probe_->Load(name_, folder); }
  const std::string& name() const { return name_; }

 private:
  const Probe* const probe_;
  const std::string name_;
};

}  // namespace

absl::Status Trial::Validate(const std::string& folder) const {
  const Probe probe(backend);
  Staged staged(&probe, job);
  RETURN_IF_ERROR(staged.Load(folder));
  ASSIGN_OR_RETURN(Example smoke, sets.train.get(0));
  smoke.token_ids.resize(std::min(smoke.token_ids.size(), kSmokeTokens));
  RETURN_IF_ERROR(probe.Score(staged.name(), smoke.token_ids).status());
  if (!max_eval_loss_increase.has_value()) return absl::OkStatus();
  const absl::StatusOr<double> served = probe.Loss(adapter, sets.eval);
  if (absl::IsNotFound(served.status())) return absl::OkStatus();  // nothing has the name yet
  RETURN_IF_ERROR(served.status());
  ASSIGN_OR_RETURN(const double loss, probe.Loss(staged.name(), sets.eval));
  const double limit = *served + *max_eval_loss_increase;
  if (loss <= limit) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("max_eval_loss_increase: eval loss: ", loss, "; limit: ", limit,
                                                    ", of which ", *served, " is what is served now"));
}

absl::StatusOr<std::string> Trial::Sample(const std::string& folder) const {
  const Probe probe(backend);
  Staged staged(&probe, job);
  RETURN_IF_ERROR(staged.Load(folder));
  std::string text;
  for (const std::string& prompt : prompts) {
    ASSIGN_OR_RETURN(const std::string answer, probe.Answer(staged.name(), prompt, kSampledTokens));
    absl::StrAppend(&text, text.empty() ? "" : "\n", prompt, " => ", answer);
  }
  return text;
}

}  // namespace lorad
