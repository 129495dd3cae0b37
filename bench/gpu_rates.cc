// Tokens a second: decode beside the bandwidth's bound, prefill beside the bf16 product's speed, both with adapters.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench/gpu_bench.h"

namespace lorad::bench {
namespace {

std::string Base(int64_t) { return ""; }

// Tokens a second of so many requests, `streams` at a time.
double Rate(Traffic& traffic, const Ask& ask, int64_t requests, int64_t streams,
            const std::function<std::string(int64_t)>& adapter_of) {
  std::vector<Ask> asks(static_cast<size_t>(requests), ask);
  for (int64_t i = 0; i < requests; ++i) asks[static_cast<size_t>(i)].adapter = adapter_of(i);
  return TokensPerSecond(traffic.Run(asks, streams));
}

int64_t RankOf(const Kept& kept, int64_t i) { return kept.ranks[static_cast<size_t>(i) % kept.ranks.size()]; }
std::string NameOf(const Kept& kept, int64_t i) { return absl::StrCat("n-", kept.name, "-", i); }

}  // namespace

Spread GpuBench::RatiosOf(const std::function<double(const AdapterOf&)>& rate, const AdapterOf& adapter_of) const {
  rate(adapter_of);
  std::vector<double> ratios;
  for (int round = 0; round < scale_.rounds; ++round) {
    const double without = rate(&Base);
    ratios.push_back(rate(adapter_of) / without);
  }
  return SpreadOf(std::move(ratios));
}

double GpuBench::StepBytes(int64_t streams, const Ask& ask) {
  const double context = static_cast<double>(ask.prompt_tokens) + static_cast<double>(ask.output_tokens) / 2;
  return static_cast<double>(llama_.step_weight_bytes()) +
         static_cast<double>(streams) * context * static_cast<double>(llama_.kv_token_bytes());
}

void GpuBench::Decode() {
  for (const int64_t batch : scale_.decode_batches) {
    const auto engine = EngineFor(batch, scale_.decode);
    Traffic traffic(&engine->engine(), llama_.shape().vocab);
    const auto rates = [&](const Ask& ask) {
      const std::vector<Ask> asks(static_cast<size_t>(batch), ask);
      traffic.Run(asks, batch);  // kernels are loaded, the allocator has its blocks, graphs are captured
      std::vector<double> each;
      for (int round = 0; round < scale_.rounds; ++round) {
        each.push_back(SteadyTokensPerSecond(traffic.Run(asks, batch)));
      }
      return SpreadOf(std::move(each));
    };
    const Spread greedy = rates(scale_.decode);
    report_->Value(absl::StrCat("decode, batch ", batch), greedy, "tokens/s");
    const double bound = static_cast<double>(batch) * speed_.bytes_per_second / StepBytes(batch, scale_.decode);
    Print("  of the bandwidth's bound", greedy.median / bound);
    if (batch == scale_.sampled_batch) {
      Ask sampled = scale_.decode;
      sampled.temperature = 1.0f;
      sampled.top_p = 0.9f;
      const Spread drawn = rates(sampled);
      report_->Value(absl::StrCat("decode, batch ", batch, ", temperature 1, top-p 0.9"), drawn, "tokens/s");
      Print("  of greedy", drawn.median / greedy.median);
    }
    End(*engine);
  }
}

// Prompts of one token each: of the base, then with one adapter for all of them, and with one for each stream.
void GpuBench::Prefill() {
  const int64_t streams = scale_.prefill_streams;
  int64_t adapter_bytes = 0;
  for (const int64_t rank : scale_.prefill_ranks) adapter_bytes += streams * AdapterBytes(rank);
  const auto engine = EngineFor(streams, scale_.prefill, adapter_bytes);
  Traffic traffic(&engine->engine(), llama_.shape().vocab);
  const auto rate = [&](const AdapterOf& adapter_of) {
    return Rate(traffic, scale_.prefill, streams, streams, adapter_of);
  };
  rate(&Base);
  std::vector<double> rates;
  for (int round = 0; round < scale_.rounds; ++round) {
    rates.push_back(rate(&Base) * static_cast<double>(scale_.prefill.prompt_tokens));
  }
  const Spread tokens = SpreadOf(std::move(rates));
  report_->Value(absl::StrCat("prefill, prompts of ", scale_.prefill.prompt_tokens), tokens, "tokens/s");
  const double flops_of_token =
      llama_.PrefillFlops(scale_.prefill.prompt_tokens) / static_cast<double>(scale_.prefill.prompt_tokens);
  Print("  of the bf16 product's speed", tokens.median * flops_of_token / speed_.bf16_flops);
  for (const int64_t rank : scale_.prefill_ranks) {
    const auto name = [&](int64_t i) { return absl::StrCat("p", rank, "-", i); };
    for (int64_t i = 0; i < streams; ++i) Load(*engine, name(i), adapters_.Of(rank));
    for (const int64_t count : {int64_t{1}, streams}) {
      const auto of_adapters = [&](int64_t i) { return name(i % count); };
      report_->Value(absl::StrCat("  kept(", count, ", r", rank, ")"), RatiosOf(rate, of_adapters));
    }
  }
}

void GpuBench::KeptWithAdapters() {
  int64_t adapter_bytes = 0;
  for (const Kept& kept : scale_.series) {
    const int64_t most = *std::max_element(kept.counts.begin(), kept.counts.end());
    for (int64_t i = 0; i < most; ++i) adapter_bytes += AdapterBytes(RankOf(kept, i));
  }
  const auto engine = EngineFor(scale_.kept_streams, scale_.kept, adapter_bytes);
  Traffic traffic(&engine->engine(), llama_.shape().vocab);
  const auto rate = [&](const AdapterOf& adapter_of, int64_t requests) {
    return Rate(traffic, scale_.kept, requests, scale_.kept_streams, adapter_of);
  };
  const auto base = [&] {
    std::vector<double> rates;
    for (int round = 0; round < scale_.rounds; ++round) rates.push_back(rate(&Base, scale_.kept_requests));
    return SpreadOf(std::move(rates));
  };
  rate(&Base, scale_.kept_requests);
  const Spread alone = base();
  report_->Value(absl::StrCat("base, ", scale_.kept_streams, " streams"), alone, "tokens/s");

  const double base_bytes = StepBytes(scale_.kept_streams, scale_.kept);
  for (const Kept& kept : scale_.series) {
    int64_t loaded = 0;
    for (const int64_t count : kept.counts) {
      for (; loaded < count; ++loaded) Load(*engine, NameOf(kept, loaded), adapters_.Of(RankOf(kept, loaded)));
      const int64_t requests = std::max(count, scale_.kept_requests);
      const auto of_adapters = [&](int64_t i) { return NameOf(kept, i % count); };
      report_->Value(absl::StrCat("kept(", count, ", ", kept.name, ")"),
                     RatiosOf([&](const AdapterOf& adapter_of) { return rate(adapter_of, requests); }, of_adapters));
      // Requests take the adapters in turn: as many run at once as there are streams, each adapter read once a step.
      double all_bytes = 0.0;
      for (int64_t i = 0; i < count; ++i) all_bytes += static_cast<double>(AdapterBytes(RankOf(kept, i)));
      const double at_once = static_cast<double>(std::min({count, scale_.kept_streams, requests}));
      Print("  what bytes alone allow", base_bytes / (base_bytes + all_bytes * at_once / static_cast<double>(count)));
    }
  }
  Print("base beside all of them, of base alone", base().median / alone.median);
  End(*engine);
}

}  // namespace lorad::bench
