#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "model/rope_switch.h"
#include "model/sampler/sampling_options.h"

namespace lorad {

// A "model" whose next token depends on every token before it, in order, on the content of the adapter it ran on, and
// on the variant of the rope. A sequence that was served with a wrong adapter, at wrong positions or from KV that is
// lost or was rotated by other angles answers something else.
inline constexpr int32_t kFakeVocabulary = 997;

inline uint64_t FakeMix(uint64_t x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

// The content of a composition, one adapter after the other; of one alone at scale 1 it is the adapter's own.
inline uint64_t FakeContent(uint64_t before, uint64_t adapter, float scale) {
  if (before == 0 && scale == 1.0f) return adapter;
  return FakeMix(FakeMix(before) ^ adapter) ^ static_cast<uint64_t>(scale * 1024.0f);
}

// What the KV of a position holds: all before it, this token, the adapter.
inline uint64_t FakeHidden(uint64_t before, int32_t token, uint64_t adapter_content) {
  return FakeMix(before ^ FakeMix(static_cast<uint64_t>(token) + 1) ^ (adapter_content * 31));
}

// What stands for an adapter's content in a sequence of so many tokens: another for each variant of the rope.
inline uint64_t FakeRotated(uint64_t adapter_content, const RopeSwitch& rope, int64_t sequence_tokens) {
  const auto variant = static_cast<uint64_t>(rope.VariantOf(sequence_tokens));
  return variant == 0 ? adapter_content : FakeMix(adapter_content + variant);
}

inline int32_t FakeToken(uint64_t hidden, uint64_t seed, absl::Span<const int32_t> banned) {
  auto token = static_cast<int32_t>(FakeMix(hidden ^ seed) % kFakeVocabulary);
  for (size_t i = 0; i < banned.size(); ++i) {
    for (const int32_t id : banned) token = token == id ? (token + 1) % kFakeVocabulary : token;
  }
  return token;
}

// The answer of a sequence alone; before `active_from` it runs on the base, whose content is 0.
inline std::vector<int32_t> FakeGenerate(const std::vector<int32_t>& prompt, uint64_t adapter_content,
                                         const SamplingOptions& sampling, const RopeSwitch& rope = {},
                                         int64_t active_from = 0) {
  std::vector<int32_t> tokens = prompt;
  std::vector<int32_t> generated;
  while (static_cast<int64_t>(generated.size()) < sampling.max_tokens) {
    uint64_t hidden = 0;
    for (int64_t i = 0; i < static_cast<int64_t>(tokens.size()); ++i) {
      const uint64_t content = i < active_from ? 0 : adapter_content;
      hidden = FakeHidden(hidden, tokens[i], FakeRotated(content, rope, static_cast<int64_t>(tokens.size())));
    }
    const bool ban = static_cast<int64_t>(generated.size()) < sampling.min_tokens;
    const int32_t token = FakeToken(hidden, sampling.seed, ban ? sampling.stop_token_ids : absl::Span<const int32_t>());
    generated.push_back(token);
    for (const int32_t stop : sampling.stop_token_ids) {
      if (!ban && token == stop) return generated;
    }
    tokens.push_back(token);
  }
  return generated;
}

}  // namespace lorad
