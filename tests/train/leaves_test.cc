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

TEST(AdapterLeavesTest, WhatBeginsFromAStateDoesNotDecomposeTheBase) {
  constexpr int64_t kSmall = 8;
  BaseShape base = WideBase();
  base.sites[0].in_features = base.sites[0].out_features = kSmall;
  const at::Tensor weight = at::randn({kSmall, kSmall});
  int reads = 0;
  const BaseTables tables = [&](const BaseTableName& name) -> absl::StatusOr<BaseTable> {
    if (name.row_count > 0) ++reads;
    return BaseTable{.dtype = DType::kF32,
                     .rows = kSmall,
                     .columns = kSmall,
                     .data = static_cast<const std::byte*>(weight.const_data_ptr())};
  };
  TrainConfig config;
  config.adapter.rank = 2;
  config.adapter.alpha = 4;
  config.adapter.target_names = {"q_proj"};
  for (const LeafInit init : {LeafInit::kPissa, LeafInit::kOlora}) {
    config.init = init;
    config.begins_from_state = false;
    reads = 0;
    const auto fresh = AdapterLeaves::Create(config, base, tables);
    ASSERT_THAT(fresh, IsOk());
    EXPECT_EQ(reads, 1);
    config.begins_from_state = true;
    const auto loaded = AdapterLeaves::Create(config, base, tables);
    ASSERT_THAT(loaded, IsOk());
    EXPECT_EQ(reads, 1);
    ASSERT_EQ(loaded->Named().size(), fresh->Named().size());
    EXPECT_EQ(loaded->Constants().size(), fresh->Constants().size());
    for (size_t i = 0; i < fresh->Named().size(); ++i) {
      EXPECT_EQ(loaded->Named()[i].tensor.sizes(), fresh->Named()[i].tensor.sizes());
    }
  }
}

}  // namespace
}  // namespace lorad
