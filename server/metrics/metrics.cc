#include "server/metrics/metrics.h"

#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

#include <sstream>
#include <utility>
#include <vector>

#include "server/metrics/metric_series.h"

namespace lorad {
namespace {

double Seconds(int64_t us) { return static_cast<double>(us) * 1e-6; }

}  // namespace

Metrics::Metrics() = default;
Metrics::~Metrics() = default;

void Metrics::SetModel(const std::string& model_name, const std::string& version) {
  const std::lock_guard<std::mutex> lock(mutex_);
  series_ = std::make_unique<MetricSeries>(model_name, version);
}

void Metrics::Tell(Told told) {
  const std::lock_guard<std::mutex> lock(told_mutex_);
  told_.push_back(std::move(told));
}

void Metrics::CountToldIfFree() {
  const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
  if (lock.owns_lock()) CountTold();
}

void Metrics::CountTold() {
  std::vector<Told> told;
  {
    const std::lock_guard<std::mutex> lock(told_mutex_);
    told.swap(told_);
  }
  if (!series_) return;
  for (const Told& each : told) each(series_.get());
}

std::string Metrics::Text(const EngineSnapshot* snapshot, double unix_seconds) {
  std::vector<prometheus::MetricFamily> families;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    CountTold();
    if (!series_) return "";
    if (snapshot != nullptr) series_->Refresh(*snapshot, unix_seconds);
    families = series_->registry.Collect();
  }
  std::ostringstream out;
  prometheus::TextSerializer().Serialize(out, families);
  return out.str();
}

void Metrics::CountRefused(absl::StatusCode code) {
  Tell([code](MetricSeries* series) { series->refused.Add({{"code", absl::StatusCodeToString(code)}}).Increment(); });
  CountToldIfFree();
}

void Metrics::OnStep(const StepStats& step) {
  Tell([step](MetricSeries* series) {
    const int64_t overhead_us = step.plan_us + step.commit_us;
    // Of a step behind another the device sees nothing of it.
    series->step_seconds.Observe(Seconds(step.execute_us + (step.behind ? 0 : overhead_us)));
    series->step_overhead.Observe(Seconds(overhead_us));
    series->step_sequences.Observe(static_cast<double>(step.sequences));
    series->step_adapters.Observe(static_cast<double>(step.distinct_adapters));
    series->iteration_tokens.Observe(static_cast<double>(step.rows_tokens));
    series->of_device.Observe(step);
  });
  CountToldIfFree();  // Once a step: what a step tells is counted together.
}

void Metrics::OnScheduled(int64_t queue_us) {
  Tell([queue_us](MetricSeries* series) { series->queue_time.Observe(Seconds(queue_us)); });
}

void Metrics::OnFirstToken(int64_t first_token_us) {
  Tell([first_token_us](MetricSeries* series) { series->first_token.Observe(Seconds(first_token_us)); });
}

void Metrics::OnToken(const std::string& adapter, int64_t tokens, int64_t gap_us) {
  Tell([adapter, tokens, gap_us](MetricSeries* series) {
    series->generation_tokens.Increment(static_cast<double>(tokens));
    if (gap_us >= 0) series->inter_token.Observe(Seconds(gap_us));
    series->CountAdapterTokens(adapter, tokens);
  });
}

void Metrics::OnFinish(const SequenceStats& sequence) {
  if (sequence.begun) {
    Tell([reason = sequence.reason, prompt_tokens = sequence.usage.prompt_tokens,
          end_to_end_us = sequence.end_to_end_us](MetricSeries* series) {
      series->finished[static_cast<size_t>(reason)]->Increment();
      series->prompt_tokens.Increment(static_cast<double>(prompt_tokens));
      if (end_to_end_us >= 0) series->end_to_end.Observe(Seconds(end_to_end_us));
    });
  }
  if (sequence.late) Tell([](MetricSeries* series) { series->late.Increment(); });
  CountToldIfFree();  // Not every end has a step.
}

void Metrics::OnAdapterLoaded(const std::string& name, LoadedFrom from, int64_t load_us) {
  Tell([from, load_us](MetricSeries* series) {
    MetricSeries::Histogram& seconds =
        from == LoadedFrom::kHost ? series->warm_load_seconds : series->cold_load_seconds;
    seconds.Observe(Seconds(load_us));
  });
  CountToldIfFree();
}

void Metrics::OnAdapterLoadFailed(const std::string& name) {
  Tell([](MetricSeries* series) { series->load_failures.Increment(); });
  CountToldIfFree();
}

void Metrics::OnAdapterEvicted(const std::string& name) {
  Tell([](MetricSeries* series) { series->evictions.Increment(); });
}

void Metrics::OnPreempted(const std::string& adapter) {
  Tell([](MetricSeries* series) { series->preemptions.Increment(); });
}

}  // namespace lorad
