#include "clients/loadgen/trace.h"

#include <algorithm>
#include <cmath>
#include <random>

namespace lorad {

std::vector<TraceRequest> MakeTrace(const TraceOptions& options) {
  std::mt19937_64 random(options.seed);
  std::mt19937_64 disturbance(options.seed + 1);
  std::uniform_real_distribution<double> unit(0, 1);
  std::uniform_int_distribution<int64_t> prompt(options.min_prompt_tokens, options.max_prompt_tokens);
  std::uniform_int_distribution<int64_t> output(options.min_output_tokens, options.max_output_tokens);
  const double cv2 = options.cv * options.cv;
  std::gamma_distribution<double> gap(1 / cv2, options.rate_per_s > 0 ? cv2 / options.rate_per_s : 1);

  std::vector<TraceRequest> trace(static_cast<size_t>(options.requests));
  double now_s = 0;
  for (TraceRequest& request : trace) {
    if (options.rate_per_s > 0) now_s += gap(random);
    request.arrival_s = now_s;
    const bool base = unit(random) < options.base_share;
    const double power = std::pow(unit(random), 1 / options.alpha);  // numpy.random.power(alpha)
    if (options.adapters > 0 && !base) {
      request.adapter =
          std::min(static_cast<int64_t>(power * static_cast<double>(options.adapters)), options.adapters - 1);
    }
    request.prompt_tokens = prompt(random);
    request.output_tokens = output(random);
    request.prompt_seed = random();

    const double cancel = unit(disturbance), part = unit(disturbance), deadline = unit(disturbance);
    if (cancel < options.cancel_share) {
      request.cancel_after_tokens = static_cast<int64_t>(part * static_cast<double>(request.output_tokens));
    }
    if (deadline < options.deadline_share) request.deadline_s = options.deadline_s;
  }
  return trace;
}

std::vector<uint32_t> MakePrompt(const TraceRequest& request, uint32_t vocab_size) {
  std::mt19937_64 random(request.prompt_seed);
  std::uniform_int_distribution<uint32_t> token(0, vocab_size - 1);
  std::vector<uint32_t> ids(static_cast<size_t>(request.prompt_tokens));
  for (uint32_t& id : ids) id = token(random);
  return ids;
}

}  // namespace lorad
