#pragma once

#include <memory>
#include <random>
#include <vector>

#include "adapters/image.h"
#include "model/sites.h"

namespace lorad {

using Rng = std::mt19937_64;

int64_t Pick(Rng& rng, int64_t low, int64_t high);  // both may come
bool Chance(Rng& rng, double probability);
std::vector<int32_t> RandomPrompt(Rng& rng, int64_t tokens, int64_t vocab);

// Random weights on a random choice of sites and layers, each with a rank of its own, strong enough to change what the
// base answers.
std::shared_ptr<const AdapterImage> RandomAdapter(Rng& rng, const BaseShape& base);

// Every site and layer, nothing but NaN: what it touches is lost. Readers refuse such a folder.
std::shared_ptr<const AdapterImage> NanAdapter(const BaseShape& base, int32_t rank);

}  // namespace lorad
