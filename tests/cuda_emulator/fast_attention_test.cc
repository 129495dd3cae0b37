// Which form attends, and the plan of the one that takes tiles and chunks: the same rows by either.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full_like.h>

#include "absl/strings/str_cat.h"
#include "model/ops/activate.h"
#include "model/ops/cuda/fast_attention.h"
#include "model/ops/fast_attention_cuda.h"
#include "model/ops/open_cuda.h"
#include "model/ops/paged_attention.h"
#include "tests/cuda_emulator/last_error.h"
#include "tests/cuda_emulator/tiled_attention.h"
#include "tests/device/device_copies.h"
#include "tests/op/kv_testing.h"
#include "tests/support/status_matchers.h"

namespace lorad {
namespace {

using emulator::SetTiledAttention;
using emulator::TiledAttention;
using emulator::TiledAttentionChunks;
using emulator::TiledAttentionRuns;

struct Sequence {
  int64_t context, rows;
};

// One call, with a cache of its own.
struct Problem {
  int64_t heads, kv_heads, head_dim, window;
  std::unique_ptr<TestCache> cache;
  int64_t last_block = 0;
  at::Tensor q, positions, cu_rows, block_table;

  Problem(int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t window, const std::vector<Sequence>& sequences)
      : heads(heads), kv_heads(kv_heads), head_dim(head_dim), window(window) {
    std::vector<int32_t> position_values, cu_values = {0}, table;
    int64_t blocks = 0, most_blocks = 0;
    for (const Sequence& s : sequences) {
      blocks += (s.context + 15) / 16;
      most_blocks = std::max(most_blocks, (s.context + 15) / 16);
    }
    cache = std::make_unique<TestCache>(at::kBFloat16, 1, kv_heads, head_dim, blocks);
    Numbers numbers(static_cast<uint64_t>(head_dim + window));
    int64_t next = blocks;
    for (const Sequence& s : sequences) {
      for (int64_t i = 0; i < s.rows; ++i) position_values.push_back(static_cast<int32_t>(s.context - s.rows + i));
      cu_values.push_back(static_cast<int32_t>(position_values.size()));
      for (int64_t b = 0; b < most_blocks; ++b) table.push_back(b < (s.context + 15) / 16 ? cache->Block(--next) : -1);
      for (int64_t t = 0; t < s.context; ++t) {
        const int32_t block = table[table.size() - static_cast<size_t>(most_blocks - t / 16)];
        for (int64_t i = 0; i < kv_heads * head_dim; ++i) {
          for (const bool value : {false, true}) {
            cache->Set(block, 0, value, i / head_dim, t % 16, i % head_dim, numbers.Uniform(-1, 1));
          }
        }
      }
    }
    q = Random(at::kBFloat16, {std::ssize(position_values), heads * head_dim}, numbers, 2.0f);
    positions = Ints(position_values);
    cu_rows = Ints(cu_values);
    block_table = Ints(table, {std::ssize(sequences), most_blocks});
    last_block = *std::max_element(table.begin(), table.end());
  }

  at::Tensor Run() const {
    DeviceCopies on;
    const KvView kv = on.Of(cache->view(), last_block);
    at::Tensor y = at::full_like(q, 7.0), on_y = on.Of(y);  // a row that nobody writes differs from all others
    EXPECT_OK(on.Back(PagedAttention(
        {on.Of(q), heads, on.Of(positions), on.Of(cu_rows), on.Of(block_table), 0, window, 0.3, 0.0, kv, on_y})));
    return y;
  }
};

std::string BytesOf(const at::Tensor& t) {
  return std::string(static_cast<const char*>(t.const_data_ptr()), t.nbytes());
}

// By ours, then by the fast form, which is to have run.
void ExpectTheSame(const Problem& problem) {
  LeaveOutFastForms();
  const at::Tensor ours = problem.Run();
  SetTiledAttention(TiledAttention::kRight);
  cuda::TrustFastAttention({problem.head_dim});
  const int before = TiledAttentionRuns();
  const at::Tensor fast = problem.Run();
  ASSERT_EQ(TiledAttentionRuns(), before + 1);
  for (int64_t i = 0; i < ours.numel(); ++i) {
    const float expected = At(ours, i), actual = At(fast, i);
    if (std::isnan(expected) && std::isnan(actual)) continue;
    ASSERT_NEAR(actual, expected, 8e-3) << "row " << i / ours.size(1) << ", column " << i % ours.size(1);
  }
}

TEST(FastAttentionTest, NothingIsTrustedBeforeItIsChecked) {
  const int before = TiledAttentionRuns();
  Problem(4, 2, 64, 0, {{20, 2}}).Run();
  EXPECT_EQ(TiledAttentionRuns(), before);
}

TEST(FastAttentionTest, AFormThatDiffersIsNamedAndNeverUsed) {
  const Problem problem(4, 2, 64, 0, {{20, 2}, {40, 1}});
  const at::Tensor ours = problem.Run();
  SetTiledAttention(TiledAttention::kWrong);
  const std::vector<std::string> lines = CheckFastForms();
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_THAT(lines[1],
              testing::HasSubstr("the stand-in, head size 128, 4 heads on 1, window 0: differs from ours by 0.5"));
  EXPECT_THAT(lines[1], testing::HasSubstr("limit: 0.01; ours is used"));
  const int before = TiledAttentionRuns();
  EXPECT_EQ(BytesOf(problem.Run()), BytesOf(ours));
  EXPECT_EQ(TiledAttentionRuns(), before);
}

// A form that is wrong only where models are is found out, for every size of heads.
TEST(FastAttentionTest, WhatModelsAskForIsAmongWhatIsCompared) {
  using Call = emulator::TiledAttentionCall;
  constexpr int64_t kLayers = 2;  // of the check
  const auto block_bytes = [](const Call& c) { return kLayers * 2 * c.kv_heads * c.head_bytes; };
  std::vector<std::pair<std::string, std::function<bool(const Call&)>>> places = {
      {"columns of qkv", [](const Call& c) { return c.q_stride > c.heads * c.head_dim; }},
      {"pages below a block", [&](const Call& c) { return c.page_bytes < block_bytes(c); }},
      {"pages above a block", [&](const Call& c) { return c.page_bytes > block_bytes(c); }},
      {"a second layer", [](const Call& c) { return c.key_offset_bytes > 0; }},
      {"three chunks", [](const Call& c) { return c.most_chunks == 3; }}};
  for (const int64_t group : {1, 2, 3, 4, 5, 7, 8, 16}) {
    places.emplace_back(absl::StrCat("groups of ", group),
                        [=](const Call& c) { return c.heads / c.kv_heads == group; });
  }
  for (const bool many : {false, true}) {
    for (const bool chunks : {false, true}) {
      for (const bool window : {false, true}) {
        places.emplace_back(absl::StrCat("many ", many, ", chunks ", chunks, ", window ", window), [=](const Call& c) {
          return (c.tile_rows > 16) == many && (c.most_chunks > 1) == chunks && (c.window_tokens > 0) == window;
        });
      }
    }
  }
  for (const auto& [name, wrong_at] : places) {
    SCOPED_TRACE(name);
    emulator::SetTiledAttentionWrongAt(wrong_at);
    EXPECT_THAT(cuda::CheckFastAttention(nullptr),
                testing::ElementsAre(testing::HasSubstr("head size 64, "), testing::HasSubstr("head size 128, "),
                                     testing::HasSubstr("head size 256, ")));
  }
  for (const bool many : {false, true}) {
    emulator::SetTiledAttentionWrongAt([=](const Call& c) { return c.capped && (c.tile_rows > 16) == many; });
    EXPECT_THAT(cuda::CheckFastAttention(nullptr), testing::ElementsAre(testing::HasSubstr("head size 256, ")));
  }
  SetTiledAttention(TiledAttention::kRight);
}

TEST(FastAttentionTest, AFormThatFailsIsNamedAndNeverUsed) {
  const Problem problem(4, 2, 128, 0, {{20, 2}});
  SetTiledAttention(TiledAttention::kFails);
  EXPECT_THAT(CheckFastForms(), testing::Each(testing::HasSubstr("the stand-in: CUDA: ")));
  const int before = TiledAttentionRuns();
  problem.Run();
  EXPECT_EQ(TiledAttentionRuns(), before);
}

TEST(FastAttentionTest, WhatAgreesIsNamedAndWhatIsLeftOutIsNotUsed) {
  const Problem problem(4, 2, 128, 0, {{20, 2}});
  SetTiledAttention(TiledAttention::kRight);
  std::vector<std::string> used;
  ASSERT_THAT(CheckFastForms(&used), testing::IsEmpty());
  EXPECT_THAT(used, testing::Contains("attention by the stand-in of heads of 64, 128, 256"));
  LeaveOutFastForms();
  const int before = TiledAttentionRuns();
  problem.Run();
  EXPECT_EQ(TiledAttentionRuns(), before);
}

// The runtime keeps an error until somebody asks, and LibTorch throws it as if it were its own operator's.
TEST(FastAttentionTest, AFormThatFailsForSomeHeadsCostsNobodyElseAnything) {
  for (const int64_t head_dim : {64, 256}) {
    SetTiledAttention(TiledAttention::kFails, head_dim);
    EXPECT_THAT(CheckFastForms(), testing::ElementsAre(testing::HasSubstr(absl::StrCat("head size ", head_dim))));
    EXPECT_NO_THROW(at::empty({4}, at::TensorOptions().device(at::kCUDA, 0)));
  }
  SetTiledAttention(TiledAttention::kRight);
  ASSERT_THAT(CheckFastForms(), testing::IsEmpty());
}

TEST(FastAttentionTest, ALaunchThatFailsIsToldOnceAndTheNextCallIsNotBlamed) {
  at::Tensor x = at::empty({2, 8}, at::TensorOptions().device(at::kCUDA, 0));
  emulator::failing_launches = 1;
  EXPECT_THAT(Activate({x, Activation::kRelu, x}), IsError(absl::StatusCode::kInternal, testing::HasSubstr("CUDA")));
  EXPECT_NO_THROW(at::empty_like(x));
  EXPECT_THAT(Activate({x, Activation::kRelu, x}), IsOk());
}

TEST(FastAttentionTest, DecodeOverLongContextsInChunks) {
  ExpectTheSame(Problem(4, 2, 64, 0, {{700, 1}}));
  ExpectTheSame(Problem(4, 1, 64, 0, {{600, 1}, {1, 1}, {256, 1}, {257, 1}}));
  ExpectTheSame(Problem(2, 2, 128, 300, {{650, 1}, {299, 1}, {310, 1}}));
}

TEST(FastAttentionTest, PromptsInPiecesBesideDecode) {
  for (const int64_t window : {0, 1, 21, 100}) {
    ExpectTheSame(Problem(4, 2, 64, window, {{90, 50}, {33, 2}, {100, 1}, {37, 37}, {16, 1}}));
  }
  ExpectTheSame(Problem(8, 1, 64, 0, {{70, 70}, {5, 0}, {3, 1}}));
  ExpectTheSame(Problem(3, 3, 256, 30, {{290, 20}}));
}

TEST(FastAttentionTest, HeadsItHasNoKernelForAreOurs) {
  SetTiledAttention(TiledAttention::kRight);
  ASSERT_THAT(cuda::CheckFastAttention(nullptr), testing::IsEmpty());
  const int before = TiledAttentionRuns();
  Problem(4, 2, 96, 0, {{20, 2}}).Run();
  EXPECT_EQ(TiledAttentionRuns(), before);
}

// What the plan refuses is ours, row by row: NaN where a block is missing, numbers in the rows that miss none.
TEST(FastAttentionTest, SequencesThatMissABlockAndRowsOfNone) {
  for (const int64_t long_context : {120, 600}) {
    Problem problem(4, 2, 64, 0, {{40, 30}, {long_context, 2}, {50, 1}});
    static_cast<int32_t*>(problem.block_table.mutable_data_ptr())[1] = -1;  // tokens 16 to 31 of the first
    ExpectTheSame(problem);
    static_cast<int32_t*>(problem.positions.mutable_data_ptr())[31] = 1 << 20;
    ExpectTheSame(problem);
    static_cast<int32_t*>(problem.cu_rows.mutable_data_ptr())[3] = 32;  // the last row is nobody's
    ExpectTheSame(problem);
  }
}

TEST(FastAttentionTest, RowsWithoutAnySequenceAreNan) {
  Problem problem(4, 2, 64, 0, {{20, 3}});
  problem.cu_rows = Ints({0});
  problem.block_table = at::empty({0, 2}, problem.cu_rows.options());
  ExpectTheSame(problem);
  EXPECT_TRUE(problem.Run().isnan().all().item<bool>());
}

// As a captured step is padded: sequences of one row at position 0 that have no block.
TEST(FastAttentionTest, RowsOfPaddingAndNothingElse) {
  for (const int64_t own_rows : {100, 0}) {
    constexpr int64_t kRows = 128;
    std::vector<Sequence> sequences;
    for (int64_t s = 0; s < kRows; ++s) sequences.push_back({1 + s * 7 % 40, 1});
    Problem problem(4, 2, 64, 0, sequences);
    const int64_t blocks = problem.block_table.size(1);
    auto* const table = static_cast<int32_t*>(problem.block_table.mutable_data_ptr());
    std::fill(table + own_rows * blocks, table + kRows * blocks, -1);
    auto* const positions = static_cast<int32_t*>(problem.positions.mutable_data_ptr());
    std::fill(positions + own_rows, positions + kRows, 0);
    ExpectTheSame(problem);
  }
}

// Tiles alone keep the device busy, but for those of the long one, which all others would wait for.
TEST(FastAttentionTest, ALongContextAmongManyShortOnesIsCutInChunks) {
  std::vector<Sequence> sequences(40, Sequence{20, 1});
  sequences[17].context = 4000;
  ExpectTheSame(Problem(8, 8, 64, 0, sequences));
  EXPECT_EQ(TiledAttentionChunks(), 1);
  sequences[17].context = 5000;
  ExpectTheSame(Problem(8, 8, 64, 0, sequences));
  EXPECT_EQ(TiledAttentionChunks(), 3);
  ExpectTheSame(Problem(8, 8, 64, 4090, sequences));  // with the tile's 16 rows beside the window
  EXPECT_EQ(TiledAttentionChunks(), 3);
  ExpectTheSame(Problem(8, 8, 64, 200, sequences));
  EXPECT_EQ(TiledAttentionChunks(), 1);
}

}  // namespace
}  // namespace lorad
