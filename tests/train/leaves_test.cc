#include "adapters/train/leaves.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include <ATen/Context.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include "model/ops/pieces.h"
#include "tests/support/status_matchers.h"

namespace lorad {
namespace {

constexpr int64_t kIn = 16384, kOut = 600;

// A base of one wide linear of random numbers.
BaseShape WideBase() {
  return {.model_type = "llama",
          .num_layers = 1,
          .vocab_size = 10,
          .hidden_size = kIn,
          .sites = {
              {.site = Site::kQProj, .module_path = "model.layers.{}.q_proj", .in_features = kIn, .out_features = kOut},
              {.site = Site::kEmbedTokens,
               .module_path = "model.embed_tokens",
               .in_features = 10,
               .out_features = kIn,
               .per_layer = false},
              {.site = Site::kLmHead,
               .module_path = "lm_head",
               .in_features = kIn,
               .out_features = 10,
               .per_layer = false}}};
}

TEST(AdapterLeavesTest, DorasNormsAreMadeInPiecesThatLetOthersGoFirst) {
  at::manual_seed(1);
  const at::Tensor weight = at::randn({kOut, kIn});
  int64_t most_rows = 0;
  const BaseTables tables = [&](const BaseTableName& name) -> absl::StatusOr<BaseTable> {
    BaseTable table = {.dtype = DType::kF32, .rows = kOut, .columns = kIn};
    table.data = static_cast<const std::byte*>(weight.const_data_ptr());
    if (name.row_count > 0) {
      table.data += name.first_row * kIn * static_cast<int64_t>(sizeof(float));
      table.rows = name.row_count;
      most_rows = std::max(most_rows, name.row_count);
    }
    return table;
  };
  TrainConfig config;
  config.adapter.rank = 2;
  config.adapter.alpha = 4;
  config.adapter.target_names = {"q_proj"};
  config.adapter.use_dora = true;
  auto leaves = AdapterLeaves::Create(config, WideBase(), tables);
  ASSERT_THAT(leaves, IsOk());
  const LeafModule& module = *leaves->Find(Site::kQProj, 0);
  {
    const at::NoGradGuard frozen;
    at::Tensor(module.b).copy_(at::randn({kOut, 2}));
  }
  most_rows = 0;
  std::vector<int64_t> pieces;
  {
    const PieceListener listener([&](int64_t products) { pieces.push_back(products); });
    leaves->UpdateNorms();
  }
  EXPECT_GE(pieces.size(), 2u);  // so that requests need not wait for the whole
  EXPECT_LT(most_rows, kOut);
  EXPECT_GT(most_rows, 0);
  const at::NoGradGuard frozen;
  const at::Tensor merged = at::addmm(weight, module.b, module.a, /*beta=*/1, /*alpha=*/module.scale);
  EXPECT_TRUE(at::allclose(module.norm, at::linalg_vector_norm(merged, 2, at::IntArrayRef{1}), /*rtol=*/1e-5));
}

// A square weight of random numbers in each of some layers, to begin pairs from.
class SmallBase {
 public:
  explicit SmallBase(int32_t layers) {
    shape_.num_layers = layers;
    shape_.sites[0].in_features = shape_.sites[0].out_features = kSmall;
    config_.adapter.rank = 2;
    config_.adapter.alpha = 4;
    config_.adapter.target_names = {"q_proj"};
  }
  absl::StatusOr<AdapterLeaves> Create(const GoOnFn& go_on = nullptr) {
    reads = 0;
    const BaseTables tables = [&](const BaseTableName& name) -> absl::StatusOr<BaseTable> {
      if (name.row_count > 0) ++reads;
      return BaseTable{.dtype = DType::kF32,
                       .rows = kSmall,
                       .columns = kSmall,
                       .data = static_cast<const std::byte*>(weight_.const_data_ptr())};
    };
    return AdapterLeaves::Create(config_, shape_, tables, go_on);
  }
  TrainConfig& config() { return config_; }

  int reads = 0;  // of weights

 private:
  static constexpr int64_t kSmall = 8;
  BaseShape shape_ = WideBase();
  TrainConfig config_;
  const at::Tensor weight_ = at::randn({kSmall, kSmall});
};

TEST(AdapterLeavesTest, WhatBeginsFromAStateDoesNotDecomposeTheBase) {
  SmallBase base(/*layers=*/1);
  for (const LeafInit init : {LeafInit::kPissa, LeafInit::kOlora}) {
    base.config().init = init;
    base.config().begins_from_state = false;
    const auto fresh = base.Create();
    ASSERT_THAT(fresh, IsOk());
    EXPECT_EQ(base.reads, 1);
    base.config().begins_from_state = true;
    const auto loaded = base.Create();
    ASSERT_THAT(loaded, IsOk());
    EXPECT_EQ(base.reads, 0);
    ASSERT_EQ(loaded->Named().size(), fresh->Named().size());
    EXPECT_EQ(loaded->Constants().size(), fresh->Constants().size());
    for (size_t i = 0; i < fresh->Named().size(); ++i) {
      EXPECT_EQ(loaded->Named()[i].tensor.sizes(), fresh->Named()[i].tensor.sizes());
    }
  }
}

TEST(AdapterLeavesTest, WhetherToGoOnIsAskedBeforeEachDecomposition) {
  SmallBase base(/*layers=*/4);
  base.config().init = LeafInit::kPissa;
  int asked = 0;
  const auto stopped = base.Create([&] { return ++asked == 3 ? absl::CancelledError("enough") : absl::OkStatus(); });
  EXPECT_THAT(stopped, IsError(absl::StatusCode::kCancelled, testing::HasSubstr("enough")));
  EXPECT_EQ(base.reads, 2);
}

TEST(AdapterLeavesTest, WhetherToGoOnIsAskedBeforeEachNorm) {
  SmallBase base(/*layers=*/4);
  base.config().adapter.use_dora = true;
  int asked = 0;
  const auto stopped = base.Create([&] { return ++asked == 6 ? absl::CancelledError("enough") : absl::OkStatus(); });
  EXPECT_THAT(stopped, IsError(absl::StatusCode::kCancelled, testing::HasSubstr("enough")));
  EXPECT_EQ(base.reads, 5);  // a magnitude of each of four layers, and the first one's norm
}

}  // namespace
}  // namespace lorad
