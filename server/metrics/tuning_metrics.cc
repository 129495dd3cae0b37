#include "server/metrics/tuning_metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <map>
#include <sstream>

namespace lorad {
namespace {

using Labels = std::map<std::string, std::string>;

// The series of one scrape: totals are kept elsewhere.
class Page final {
 public:
  explicit Page(const std::string& model_name) : labels_{{"model_name", model_name}} {}

  void Gauge(const char* name, const char* help, const Labels& labels, double value) {
    prometheus::BuildGauge().Name(name).Help(help).Labels(labels_).Register(registry_).Add(labels).Set(value);
  }
  void Count(const char* name, const char* help, const Labels& labels, double value) {
    prometheus::BuildCounter().Name(name).Help(help).Labels(labels_).Register(registry_).Add(labels).Increment(value);
  }
  std::string Text() const {
    std::ostringstream out;
    prometheus::TextSerializer().Serialize(out, registry_.Collect());
    return out.str();
  }

 private:
  const Labels labels_;
  prometheus::Registry registry_;
};

double Seconds(int64_t us) { return static_cast<double>(us) * 1e-6; }

}  // namespace

std::string TuningMetricsText(const TuningStats& stats, const std::string& model_name) {
  Page page(model_name);
  const char* const jobs_help = "Fine-tuning jobs by state";
  page.Gauge("lorad_tuning_jobs", jobs_help, {{"state", "queued"}}, static_cast<double>(stats.queued));
  page.Gauge("lorad_tuning_jobs", jobs_help, {{"state", "running"}}, static_cast<double>(stats.running));
  page.Gauge("lorad_tuning_jobs", jobs_help, {{"state", "paused"}}, static_cast<double>(stats.paused));
  page.Count("lorad_tuning_steps_total", "Optimizer steps", {}, static_cast<double>(stats.steps));
  page.Count("lorad_tuning_tokens_total", "Tokens trained on", {}, static_cast<double>(stats.tokens));
  page.Count("lorad_tuning_yields_total", "Pieces of training that waited for serving", {},
             static_cast<double>(stats.yields));
  const char* const time_help = "Seconds of the model's time by use; their rates are its shares";
  page.Count("lorad_tuning_model_seconds_total", time_help, {{"use", "training"}}, Seconds(stats.training_us));
  page.Count("lorad_tuning_model_seconds_total", time_help, {{"use", "serving"}}, Seconds(stats.serving_us));
  for (const TuningStats::RunningJob& job : stats.jobs) {
    const Labels labels = {{"job", job.id}, {"adapter", job.adapter}};
    page.Gauge("lorad_tuning_loss", "Loss of a running job's last step", labels, job.loss);
    if (job.router_loss.has_value()) {
      page.Gauge("lorad_tuning_router_loss", "What is added to that loss for the routers", labels, *job.router_loss);
    }
    page.Gauge("lorad_tuning_gradient_norm", "Of that step, before clipping", labels, job.grad_norm);
    page.Gauge("lorad_tuning_learning_rate", "Of that step", labels, job.learning_rate);
    page.Gauge("lorad_tuning_tokens_per_second", "Of that step", labels, job.tokens_per_second);
  }
  return page.Text();
}

}  // namespace lorad
