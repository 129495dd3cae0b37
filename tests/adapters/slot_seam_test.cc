#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "adapters/apply.h"
#include "adapters/pool.h"

namespace lorad {
namespace {

constexpr int64_t kHidden = 24, kVocab = 40, kQ = 16, kKv = 8;

BaseShape TinyBase() {
  BaseShape base;
  base.num_layers = 2;
  base.vocab_size = kVocab;
  base.hidden_size = kHidden;
  return base;
}

// One adapter: some pairs, and the same numbers for the reference.
struct Pair {
  Site site;
  int32_t layer;
  int64_t rank, in, out;
  float scale;
  std::vector<float> a, b;
};

class SlotSeamTest : public testing::Test {
 protected:
  void SetUp() override {
    pages_ = std::move(PagePool::Create(1 << 20, 4096)).value();
    pool_ = std::make_unique<AdapterPool>(pages_.get(), TinyBase());
  }
  void TearDown() override { leases_.clear(); }
  std::vector<float> Draw(int64_t count) {
    std::vector<float> values(static_cast<size_t>(count));
    for (float& value : values) value = normal_(random_);
    return values;
  }
  at::Tensor DrawTensor(int64_t rows, int64_t columns) {
    const at::Tensor tensor = at::empty({rows, columns}, at::kFloat);
    const std::vector<float> values = Draw(rows * columns);
    std::memcpy(tensor.data_ptr<float>(), values.data(), values.size() * sizeof(float));
    return tensor;
  }
  // Puts an adapter with these pairs into the pool and returns its slot.
  int32_t Load(std::vector<Pair> pairs) {
    AdapterImage image;
    for (Pair& pair : pairs) {
      pair.a = Draw(pair.rank * pair.in);
      pair.b = Draw(pair.rank * pair.out);
      image.slots.push_back({.site = pair.site,
                             .layer = pair.layer,
                             .rank = static_cast<int32_t>(pair.rank),
                             .scale = pair.scale,
                             .a = Host({pair.rank, pair.in}, pair.a),
                             .b = Host({pair.out, pair.rank}, pair.b)});
    }
    const AdapterId id = leases_.size() + 1;
    AdapterReservation reservation = pool_->Reserve(id, PlanLayout(image, DType::kF32)).value();
    Pack(image, reservation.layout(), reservation.data());
    pool_->Commit(std::move(reservation));
    leases_.push_back(pool_->Acquire(id).value());
    const int32_t slot = leases_.back().slot();
    adapters_.resize(static_cast<size_t>(std::max<int32_t>(slot + 1, static_cast<int32_t>(adapters_.size()))));
    adapters_[static_cast<size_t>(slot)] = std::move(pairs);
    return slot;
  }
  static HostTensor Host(std::vector<int64_t> shape, const std::vector<float>& values) {
    auto bytes = std::make_shared<std::vector<std::byte>>(values.size() * sizeof(float));
    std::memcpy(bytes->data(), values.data(), bytes->size());
    return {.dtype = DType::kF32, .shape = std::move(shape), .bytes = std::move(bytes)};
  }
  // What PEFT's formula gives for one row and part, in double, for one column.
  double Delta(const SlotTerm& term, Site site, int32_t layer, const std::vector<double>& x, int64_t column) const {
    double delta = 0;
    for (const Pair& pair : adapters_[static_cast<size_t>(term.slot)]) {
      if (pair.site != site || pair.layer != layer) continue;
      for (int64_t r = 0; r < pair.rank; ++r) {
        double dot = 0;
        for (int64_t i = 0; i < pair.in; ++i)
          dot += x[static_cast<size_t>(i)] * pair.a[static_cast<size_t>(r * pair.in + i)];
        delta += dot * pair.b[static_cast<size_t>(column * pair.rank + r)] * pair.scale * term.scale;
      }
    }
    return delta;
  }

  std::mt19937 random_{5};
  std::normal_distribution<float> normal_;
  std::unique_ptr<PagePool> pages_;
  std::unique_ptr<AdapterPool> pool_;
  std::vector<AdapterLease> leases_;
  std::vector<std::vector<Pair>> adapters_;  // by slot
};

const SiteGroup kQkv = {1, -1, {{Site::kQProj, 0, kQ}, {Site::kKProj, kQ, kKv}, {Site::kVProj, kQ + kKv, kKv}}};

TEST_F(SlotSeamTest, AddsEachRowsOwnTermsAndTheBiasToEveryRow) {
  const int32_t one =
      Load({{Site::kQProj, 1, 4, kHidden, kQ, 0.5f, {}, {}}, {Site::kVProj, 1, 2, kHidden, kKv, 2.0f, {}, {}}});
  const int32_t two =
      Load({{Site::kQProj, 1, 33, kHidden, kQ, 1.0f, {}, {}}, {Site::kQProj, 0, 3, kHidden, kQ, 9.0f, {}, {}}});
  // rows 0-2 base, 3-4 `one`, 5 `two` and `one` together, 6 base, 7-9 `two`
  RowSegments rows;
  rows.starts = {0, 3, 5, 6, 7, 10};
  rows.term_starts = {0, 0, 1, 3, 3, 4};
  rows.terms = {{one, 1.0f}, {two, 0.5f}, {one, 1.0f}, {two, 1.0f}};

  const at::Tensor x = DrawTensor(10, kHidden), y = DrawTensor(10, kQ + 2 * kKv),
                   bias = DrawTensor(1, kQ + 2 * kKv).view({-1});
  SlotSeam seam(pool_->slots());
  const at::Tensor result = seam.FinishLinear(kQkv, x, y.clone(), bias, rows);
  for (int64_t g = 0; g < rows.groups(); ++g) {
    for (int64_t r = rows.starts[g]; r < rows.starts[g + 1]; ++r) {
      std::vector<double> input(kHidden);
      for (int64_t i = 0; i < kHidden; ++i) input[static_cast<size_t>(i)] = x[r][i].item<float>();
      for (const SitePart& part : kQkv.parts) {
        for (int64_t c = 0; c < part.columns; ++c) {
          const int64_t column = part.first_column + c;
          double expected = y[r][column].item<float>() + bias[column].item<float>();
          for (int32_t t = rows.term_starts[g]; t < rows.term_starts[g + 1]; ++t) {
            expected += Delta(rows.terms[static_cast<size_t>(t)], part.site, 1, input, c);
          }
          const float found = result[r][column].item<float>();
          if (rows.term_starts[g] == rows.term_starts[g + 1]) {
            EXPECT_EQ(found, y[r][column].item<float>() + bias[column].item<float>()) << "a base row is touched: " << r;
          } else {
            EXPECT_NEAR(found, expected, 1e-3 * (1 + std::abs(expected))) << "row " << r << ", column " << column;
          }
        }
      }
    }
  }
}

TEST_F(SlotSeamTest, AStepWithoutAdaptersOrAWeightThatNoneTouchesIsTheBasesAlone) {
  const int32_t slot = Load({{Site::kQProj, 0, 4, kHidden, kQ, 1.0f, {}, {}}});
  SlotSeam seam(pool_->slots());
  const at::Tensor x = DrawTensor(3, kHidden), y = DrawTensor(3, kQ + 2 * kKv);
  RowSegments base_only;
  base_only.starts = {0, 3};
  base_only.term_starts = {0, 0};
  RowSegments other_layer = base_only;
  other_layer.term_starts = {0, 1};
  other_layer.terms = {{slot, 1.0f}};
  for (const RowSegments& rows : {base_only, other_layer}) {
    at::Tensor in_place = y.clone();
    const at::Tensor result = seam.FinishLinear(kQkv, x, in_place, {}, rows);
    EXPECT_TRUE(at::equal(result, y));
    EXPECT_EQ(result.data_ptr(), in_place.data_ptr());
    EXPECT_EQ(seam.RouteFfn(0, x, rows).rows, &rows);
    EXPECT_EQ(seam.Norm(0, Site::kQProj, rows), nullptr);
  }
}

TEST_F(SlotSeamTest, AnEmbeddingsPairActsOnTheRowsOfItsTokensAndNotOnTheHead) {
  const int32_t slot = Load({{Site::kEmbedTokens, -1, 5, kVocab, kHidden, 0.25f, {}, {}}});
  SlotSeam seam(pool_->slots());
  RowSegments rows;
  rows.starts = {0, 2, 4};
  rows.term_starts = {0, 1, 1};
  rows.terms = {{slot, 1.0f}};
  const std::vector<int32_t> ids = {7, 39, 7, 0};
  const at::Tensor id_tensor = at::empty({4}, at::kInt);
  std::memcpy(id_tensor.data_ptr<int32_t>(), ids.data(), ids.size() * sizeof(int32_t));
  const at::Tensor raw = DrawTensor(4, kHidden);
  const at::Tensor result = seam.FinishEmbedding(id_tensor, raw.clone(), rows);
  for (int64_t r = 0; r < 4; ++r) {
    std::vector<double> one_hot(kVocab);
    one_hot[static_cast<size_t>(ids[static_cast<size_t>(r)])] = 1;
    for (int64_t c = 0; c < kHidden; ++c) {
      const float before = raw[r][c].item<float>();
      if (r >= 2) {
        EXPECT_EQ(result[r][c].item<float>(), before);
      } else {
        EXPECT_NEAR(result[r][c].item<float>(), before + Delta(rows.terms[0], Site::kEmbedTokens, -1, one_hot, c),
                    1e-4);
      }
    }
  }
  const at::Tensor logits = DrawTensor(4, kVocab);
  const SiteGroup head = {-1, -1, {{Site::kLmHead, 0, kVocab}}};
  EXPECT_TRUE(at::equal(seam.FinishLinear(head, DrawTensor(4, kHidden), logits.clone(), {}, rows), logits));
}

TEST_F(SlotSeamTest, CompactionBetweenStepsDoesNotChangeTheResult) {
  const int32_t first = Load({{Site::kQProj, 1, 4, kHidden, kQ, 1.0f, {}, {}}});
  const int32_t second = Load({{Site::kQProj, 1, 8, kHidden, kQ, 1.0f, {}, {}}});
  RowSegments rows;
  rows.starts = {0, 2};
  rows.term_starts = {0, 1};
  rows.terms = {{second, 1.0f}};
  const at::Tensor x = DrawTensor(2, kHidden), y = DrawTensor(2, kQ + 2 * kKv);
  SlotSeam seam(pool_->slots());
  const at::Tensor before = seam.FinishLinear(kQkv, x, y.clone(), {}, rows);
  PageRun kv = pages_->Reserve(1, PageOwner::kKv).value();
  leases_.erase(leases_.begin());
  ASSERT_TRUE(pool_->Remove(1).ok());
  ASSERT_EQ(pool_->slots().At(Site::kQProj, 1)[first], SlotWeights());
  pages_->Compact(1 << 20, [](PageOwner) {});
  pool_->RefreshAddresses();
  EXPECT_TRUE(at::equal(seam.FinishLinear(kQkv, x, y.clone(), {}, rows), before));
}

}  // namespace
}  // namespace lorad
