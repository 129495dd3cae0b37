// Which form multiplies the rows of experts that were dealt on the device, and by which problems: the same rows by
// either.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>

#include "model/ops/cuda_table.h"
#include "model/ops/dealt_experts.h"
#include "model/ops/device_graph.h"
#include "model/ops/open_cuda.h"
#include "tests/cuda_emulator/grouped_loops.h"
#include "tests/op/op_testing.h"

namespace lorad {
namespace {

using emulator::GroupedLoops;
using emulator::GroupedLoopsRuns;
using emulator::SetGroupedLoops;

const at::Device kDevice(at::kCUDA, 0);

// Rows dealt to experts of two parts, on the device.
struct Problem {
  at::ScalarType dtype;
  int64_t rows, experts, in, first_columns, second_columns;

  // [P, first + second] on the host; 7 where nothing is written. replayed: captured while all rows chose expert 0.
  at::Tensor Run(Quantization quantization = Quantization::kNone, bool replayed = false) const {
    constexpr int64_t kChoices = 2;
    Numbers numbers(static_cast<uint64_t>(rows + in));
    std::vector<int32_t> chosen;
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t expert = numbers.Below(experts - 1),
                    other = (expert + 1 + numbers.Below(experts - 2)) % (experts - 1);
      chosen.push_back(static_cast<int32_t>(expert));
      chosen.push_back(r % 5 == 4 ? -1 : static_cast<int32_t>(other));
    }
    const DealtRows dealt = DealtRows::Empty(rows, kChoices, experts, kDevice);
    const at::Tensor choices = Ints(std::vector<int32_t>(chosen.size(), 0), {rows, kChoices}).to(kDevice);
    const at::Tensor of_choices = at::full({rows, kChoices}, 1.0f).to(kDevice);
    const auto weights = [&](int64_t columns) {
      std::vector<LinearWeight> all;
      for (int64_t e = 0; e < experts; ++e) {
        const at::Tensor w =
            Random(quantization == Quantization::kNone ? dtype : at::kFloat, {columns, in}, numbers, 0.1f);
        if (quantization == Quantization::kNone) {
          all.push_back(LinearWeight::Prepare(w.to(kDevice)));
          continue;
        }
        const LinearWeight packed = LinearWeight::Quantize(w, quantization);
        all.push_back(LinearWeight::FromStored(packed.weight().to(kDevice), columns, in, quantization));
      }
      return ExpertWeights(std::move(all));
    };
    const ExpertWeights first = weights(first_columns), second = weights(second_columns);
    const at::Tensor x = Random(dtype, {rows, in}, numbers).to(kDevice);
    at::Tensor y = at::full({rows * kChoices, first_columns + second_columns}, 7.0f, x.options());
    const DealtLinearPart parts[] = {{first, 0}, {second, first_columns}};
    const auto run = [&] {
      EXPECT_OK(DealToExperts({choices, of_choices, dealt}));
      return DealtLinear({x, parts, dealt.starts, dealt.rows, rows, y});
    };
    const std::unique_ptr<DeviceGraphs> graphs = InstalledCudaOps().new_graphs();
    std::unique_ptr<DeviceGraph> graph;
    if (replayed) graph = graphs->Capture(run).value();
    choices.copy_(Ints(chosen, {rows, kChoices}));
    EXPECT_OK(replayed ? graph->Replay() : run());
    return y.cpu();
  }
};

const Problem kFew = {at::kBFloat16, 6, 40, 64, 40, 24};
const Problem kMany = {at::kBFloat16, 90, 4, 72, 16, 8};

std::string BytesOf(const at::Tensor& t) {
  return std::string(static_cast<const char*>(t.const_data_ptr()), t.nbytes());
}

void ExpectUnused(const Problem& problem, const at::Tensor& ours) {
  const int before = GroupedLoopsRuns();
  EXPECT_EQ(BytesOf(problem.Run()), BytesOf(ours));
  EXPECT_EQ(GroupedLoopsRuns(), before);
  EXPECT_TRUE(DealsOnDevice({kDevice, at::kBFloat16, Quantization::kNone, 64}));
  EXPECT_FALSE(DealsOnDevice({kDevice, at::kBFloat16, Quantization::kNone, 65}));
}

TEST(GroupedGemmTest, NothingIsTrustedBeforeItIsChecked) {
  const int before = GroupedLoopsRuns();
  ExpectUnused(kFew, kFew.Run());
  EXPECT_EQ(GroupedLoopsRuns(), before);
}

TEST(GroupedGemmTest, AFormThatDiffersIsNamedAndNeverUsed) {
  const at::Tensor ours = kMany.Run();
  SetGroupedLoops(GroupedLoops::kWrong);
  EXPECT_THAT(CheckFastForms(), testing::ElementsAre(testing::AllOf(
                                    testing::HasSubstr("experts by the stand-in, 8 rows: differs from ours by "),
                                    testing::HasSubstr("; limit: 0.01; ours and cuBLAS are used"))));
  ExpectUnused(kMany, ours);
}

TEST(GroupedGemmTest, AFormThatFailsIsNamedAndNeverUsed) {
  const at::Tensor ours = kFew.Run();
  SetGroupedLoops(GroupedLoops::kFails);
  EXPECT_THAT(CheckFastForms(), testing::ElementsAre(testing::HasSubstr("the stand-in: CUDA: ")));
  ExpectUnused(kFew, ours);
}

TEST(GroupedGemmTest, WhatAgreesMultipliesFewRowsAndMany) {
  SetGroupedLoops(GroupedLoops::kFails);
  CheckFastForms();
  std::vector<at::Tensor> ours;
  for (const Problem& problem : {kFew, kMany}) ours.push_back(problem.Run());
  SetGroupedLoops(GroupedLoops::kRight);
  std::vector<std::string> used;
  ASSERT_THAT(CheckFastForms(&used), testing::IsEmpty());
  EXPECT_THAT(used, testing::Contains("experts by the stand-in"));
  for (const Problem& problem : {kFew, kMany}) {
    const int before = GroupedLoopsRuns();
    const at::Tensor fast = problem.Run();
    ASSERT_EQ(GroupedLoopsRuns(), before + 1);
    const at::Tensor& expected = ours[problem.rows == kFew.rows ? 0 : 1];
    for (int64_t i = 0; i < fast.numel(); ++i) ASSERT_NEAR(At(fast, i), At(expected, i), 1e-2) << i;
  }
  EXPECT_TRUE(DealsOnDevice({kDevice, at::kBFloat16, Quantization::kNone, 8192}));
  EXPECT_FALSE(DealsOnDevice({kDevice, at::kFloat, Quantization::kNone, 65}));
  EXPECT_FALSE(DealsOnDevice({kDevice, at::kBFloat16, Quantization::kInt8, 65}));
  EXPECT_FALSE(DealsOnDevice({at::kCPU, at::kBFloat16, Quantization::kNone, 1}));
}

TEST(GroupedGemmTest, WhatIsLeftOutIsNotUsedThoughItAgreed) {
  SetGroupedLoops(GroupedLoops::kRight);
  ASSERT_THAT(CheckFastForms(), testing::IsEmpty());
  LeaveOutFastForms();
  ExpectUnused(kMany, kMany.Run());
}

TEST(GroupedGemmTest, ACapturedCallReadsTheDealingOfItsReplay) {
  for (const GroupedLoops how : {GroupedLoops::kFails, GroupedLoops::kRight}) {
    SetGroupedLoops(how);
    CheckFastForms();
    for (const Problem& problem : {kFew, kMany}) {
      EXPECT_EQ(BytesOf(problem.Run(Quantization::kNone, /*replayed=*/true)), BytesOf(problem.Run()));
    }
  }
}

TEST(GroupedGemmTest, OtherTypesQuantizedWeightsAndOddWidthsAreOurs) {
  SetGroupedLoops(GroupedLoops::kRight);
  ASSERT_THAT(CheckFastForms(), testing::IsEmpty());
  const int before = GroupedLoopsRuns();
  Problem{at::kFloat, 6, 5, 64, 16, 8}.Run();
  Problem{at::kBFloat16, 6, 5, 60, 16, 8}.Run();
  Problem{at::kBFloat16, 6, 5, 64, 20, 8}.Run();
  Problem{at::kBFloat16, 6, 5, 64, 16, 8}.Run(Quantization::kInt8);
  EXPECT_EQ(GroupedLoopsRuns(), before);
}

}  // namespace
}  // namespace lorad
