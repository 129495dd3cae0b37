#include "tests/component/random_adapter.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <utility>

#include "model/base/sha256.h"

namespace lorad {
namespace {

HostTensor TensorOf(const std::vector<float>& values, int64_t rows, int64_t columns) {
  auto bytes = std::make_shared<std::vector<std::byte>>(values.size() * sizeof(float));
  std::memcpy(bytes->data(), values.data(), bytes->size());
  return {.dtype = DType::kF32, .shape = {rows, columns}, .bytes = std::move(bytes)};
}

HostTensor Normal(Rng& rng, int64_t rows, int64_t columns, double deviation) {
  std::normal_distribution<float> normal(0.0f, static_cast<float>(deviation));
  std::vector<float> values(static_cast<size_t>(rows * columns));
  for (float& value : values) value = normal(rng);
  return TensorOf(values, rows, columns);
}

HostTensor Filled(int64_t rows, int64_t columns, float value) {
  return TensorOf(std::vector<float>(static_cast<size_t>(rows * columns), value), rows, columns);
}

void Add(ImageSlot slot, AdapterImage* image) {
  image->rank_min = image->slots.empty() ? slot.rank : std::min(image->rank_min, slot.rank);
  image->rank_max = std::max(image->rank_max, slot.rank);
  image->slots.push_back(std::move(slot));
}

std::string DigestOf(const AdapterImage& image) {
  Sha256 digest;
  for (const ImageSlot& slot : image.slots) {
    digest.UpdateInt(static_cast<int64_t>(slot.site));
    digest.UpdateInt(slot.layer);
    digest.Update(&slot.scale, sizeof(slot.scale));
    for (const HostTensor* tensor : {&slot.a, &slot.b}) {
      digest.Update(tensor->data(), static_cast<size_t>(tensor->elements() * SizeBytes(tensor->dtype)));
    }
  }
  return digest.HexDigest();
}

// Calls `make` for each site and layer of the base, in the image's order.
template <typename Make>
std::shared_ptr<const AdapterImage> ForEachPlace(const BaseShape& base, Make make) {
  auto image = std::make_shared<AdapterImage>();
  image->kind = "lora";
  for (const SiteShape& site : base.sites) {
    const int64_t layers = site.per_layer ? base.num_layers : 1;
    for (int64_t layer = 0; layer < layers; ++layer) {
      make(site, site.per_layer ? static_cast<int32_t>(layer) : -1, image.get());
    }
  }
  std::stable_sort(image->slots.begin(), image->slots.end(),
                   [](const ImageSlot& a, const ImageSlot& b) { return a.site < b.site; });
  image->digest = DigestOf(*image);
  return image;
}

}  // namespace

int64_t Pick(Rng& rng, int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(rng); }

bool Chance(Rng& rng, double probability) { return std::bernoulli_distribution(probability)(rng); }

std::vector<int32_t> RandomPrompt(Rng& rng, int64_t tokens, int64_t vocab) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < tokens; ++i) ids.push_back(static_cast<int32_t>(Pick(rng, 0, vocab - 1)));
  return ids;
}

std::shared_ptr<const AdapterImage> RandomAdapter(Rng& rng, const BaseShape& base) {
  static constexpr int32_t kRanks[] = {1, 2, 3, 4, 8, 16, 17, 40, 130};
  const double share_of_places = std::uniform_real_distribution<double>(0.2, 1.0)(rng);
  const auto image = ForEachPlace(base, [&](const SiteShape& site, int32_t layer, AdapterImage* out) {
    if (!Chance(rng, share_of_places)) return;
    const int32_t rank = kRanks[Pick(rng, 0, static_cast<int64_t>(std::size(kRanks)) - 1)];
    const bool lookup = site.site == Site::kEmbedTokens;
    const double in_scale = lookup ? 1.0 : 1.0 / std::sqrt(static_cast<double>(site.in_features));
    Add({.site = site.site,
         .layer = layer,
         .rank = rank,
         .scale = static_cast<float>(Pick(rng, 1, 3)) * 0.25f,
         .a = Normal(rng, rank, site.in_features, in_scale),
         .b = Normal(rng, site.out_features, rank, 1.0 / std::sqrt(static_cast<double>(rank)))},
        out);
  });
  return image->slots.empty() ? RandomAdapter(rng, base) : image;
}

std::shared_ptr<const AdapterImage> NanAdapter(const BaseShape& base, int32_t rank) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  return ForEachPlace(base, [&](const SiteShape& site, int32_t layer, AdapterImage* out) {
    Add({.site = site.site,
         .layer = layer,
         .rank = rank,
         .a = Filled(rank, site.in_features, nan),
         .b = Filled(site.out_features, rank, nan)},
        out);
  });
}

}  // namespace lorad
