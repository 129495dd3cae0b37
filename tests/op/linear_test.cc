#include "model/ops/linear.h"

#include <ATen/ops/from_blob.h>
#include <c10/core/impl/FakeGuardImpl.h>

#include "model/ops/cpu_ops.h"
#include "model/ops/cuda_table.h"
#include "model/ops/cpu/parallel.h"
#include "tests/op/op_testing.h"

namespace lorad {
namespace {

class LinearTest : public testing::TestWithParam<at::ScalarType> {
 protected:
  void SetUp() override { cpu::SetComputeThreads(2); }
};

TEST_P(LinearTest, EqualsTheLoopForOddSizes) {
  Numbers numbers(3);
  for (int64_t rows : {1, 2, 3, 4, 5, 8, 40}) {
    for (int64_t in : {1, 7, 16, 33, 576, 4096}) {
      for (int64_t out : {1, 3, 8, 19}) {
        const at::Tensor x = Random(GetParam(), {rows, in}, numbers);
        const at::Tensor w = Random(GetParam(), {out, in}, numbers, 1.0f / std::sqrt(static_cast<float>(in)));
        std::vector<double> expected;
        for (int64_t r = 0; r < rows; ++r) {
          for (int64_t c = 0; c < out; ++c) {
            double sum = 0;
            for (int64_t k = 0; k < in; ++k) sum += At(x, r * in + k) * At(w, c * in + k);
            expected.push_back(sum);
          }
        }
        for (const LinearWeight& weight : {LinearWeight::Prepare(w), LinearWeight::Pack(w.clone())}) {
          at::Tensor y = Filled(GetParam(), {rows, out}, [](int64_t) { return 7.0f; });
          ASSERT_OK(Linear({x, weight, y}));
          ExpectClose(y, expected, 4e-6, Epsilon(GetParam()));
        }
      }
    }
  }
}

TEST_P(LinearTest, ARowHasTheSameBitsAloneAndAmongOthers) {
  Numbers numbers(4);
  const int64_t all = cpu::LinearGoesToOneDnn(GetParam(), 150) ? 31 : 150;
  for (int64_t in : {40, 576, 2048}) {
    const at::Tensor x = Random(GetParam(), {all, in}, numbers);
    const at::Tensor stored = Random(GetParam(), {77, in}, numbers, 0.1f);
    for (const LinearWeight& w : {LinearWeight::Prepare(stored), LinearWeight::Pack(stored.clone())}) {
      at::Tensor y = at::empty({all, 77}, x.options());
      ASSERT_OK(Linear({x, w, y}));
      for (int64_t rows : {1, 2, 3, 4, 6, 7, 12, 13, 16, 24, 25, 30}) {
        at::Tensor few = at::empty({rows, 77}, x.options());
        for (int64_t first : {int64_t{0}, (all - rows) / 2, all - rows}) {
          ASSERT_OK(Linear({x.narrow(0, first, rows), w, few}));
          for (int64_t r = 0; r < rows; ++r) ASSERT_EQ(RowBytes(few, r), RowBytes(y, first + r)) << in << " " << rows;
        }
      }
    }
  }
}

// In panels or not, in its own memory (32 x 64) or not (the others): the same numbers.
TEST_P(LinearTest, APackedWeightGivesItsRowsBack) {
  Numbers numbers(9);
  for (const auto& [out, in] : std::vector<std::array<int64_t, 2>>{{32, 64}, {1, 1}, {17, 33}, {48, 5}}) {
    const at::Tensor stored = Random(GetParam(), {out, in}, numbers);
    const LinearWeight packed = LinearWeight::Pack(stored.clone());
    EXPECT_EQ(packed.out_features(), out);
    EXPECT_EQ(packed.in_features(), in);
    EXPECT_TRUE(packed.RowMajor().equal(stored)) << out << " x " << in;
  }
}

// Of a weight whose last panel lacks columns, or whose last words elements.
TEST_P(LinearTest, PacksIntoTheRoomBehindAWeight) {
  Numbers numbers(10);
  for (const auto& [out, in] : std::vector<std::array<int64_t, 2>>{{17, 64}, {33, 5}, {1, 1}}) {
    const at::Tensor stored = Random(GetParam(), {out, in}, numbers);
    const at::Tensor room = at::empty({LinearWeight::PackedElements(out, in)}, stored.options());
    at::Tensor weight = room.narrow(0, 0, out * in).view({out, in}).copy_(stored);
    const LinearWeight packed = LinearWeight::Pack(std::move(weight));
    EXPECT_EQ(packed.weight().const_data_ptr(), room.const_data_ptr());
    EXPECT_TRUE(packed.RowMajor().equal(stored)) << out << " x " << in;
  }
}

TEST_P(LinearTest, ReadsAndWritesColumnsOfLargerTensors) {
  Numbers numbers(5);
  const at::Tensor wide = Random(GetParam(), {6, 100}, numbers);
  const at::Tensor x = wide.narrow(1, 10, 64);
  const LinearWeight w = LinearWeight::Prepare(Random(GetParam(), {20, 64}, numbers));
  at::Tensor wide_y = Filled(GetParam(), {6, 30}, [](int64_t) { return 1.0f; });
  at::Tensor y = wide_y.narrow(1, 5, 20), alone = at::empty({6, 20}, x.options());
  ASSERT_OK(Linear({x, w, y}));
  ASSERT_OK(Linear({x.contiguous(), w, alone}));
  EXPECT_TRUE(y.equal(alone));
  for (int64_t r = 0; r < 6; ++r) {
    EXPECT_EQ(At(wide_y, r * 30 + 4), 1.0f);
    EXPECT_EQ(At(wide_y, r * 30 + 25), 1.0f);
  }
}

TEST_P(LinearTest, ANanRowStaysAlone) {
  Numbers numbers(6);
  at::Tensor x = Random(GetParam(), {9, 33}, numbers);
  for (int64_t k = 0; k < 33; ++k) Put(x, 4 * 33 + k, std::numeric_limits<float>::quiet_NaN());
  const at::Tensor stored = Random(GetParam(), {11, 33}, numbers);
  for (const LinearWeight& w : {LinearWeight::Prepare(stored), LinearWeight::Pack(stored.clone())}) {
    at::Tensor y = at::empty({9, 11}, x.options());
    ASSERT_OK(Linear({x, w, y}));
    for (int64_t i = 0; i < y.numel(); ++i) EXPECT_EQ(std::isnan(At(y, i)), i / 11 == 4);
  }
}

TEST_P(LinearTest, NoRowsIsFine) {
  Numbers numbers(7);
  const at::Tensor x = at::empty({0, 16}, at::TensorOptions().dtype(GetParam()));
  at::Tensor y = at::empty({0, 8}, x.options());
  EXPECT_OK(Linear({x, LinearWeight::Prepare(Random(GetParam(), {8, 16}, numbers)), y}));
}

TEST_P(LinearTest, NamesTheBadArgument) {
  Numbers numbers(8);
  const LinearWeight w = LinearWeight::Prepare(Random(GetParam(), {8, 16}, numbers));
  const at::Tensor x = Random(GetParam(), {3, 16}, numbers);
  at::Tensor y = at::empty({3, 8}, x.options());
  EXPECT_INVALID(Linear({x, LinearWeight(), y}), "weight: undefined");
  EXPECT_INVALID(Linear({x.narrow(1, 0, 15), w, y}), "x: [3, 15]");
  at::Tensor short_y = y.narrow(0, 0, 2);
  EXPECT_INVALID(Linear({x, w, short_y}), "y: [2, 8]");
  EXPECT_INVALID(Linear({x.to(at::kDouble), w, y}), "x: [3, 16] Double");
}

TEST(OpDispatchTest, WithoutCudaOperatorsTheAnswerIsUnimplemented) {
  const at::Tensor meta = at::empty({2, 4}, at::TensorOptions().dtype(at::kFloat).device(at::kMeta));
  at::Tensor y = at::empty({2, 3}, meta.options());
  const absl::Status status = Linear({meta, LinearWeight::Prepare(at::empty({3, 4}, meta.options())), y});
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(InstalledCudaOps().linear, nullptr);
}

using FakeDevices = c10::impl::FakeGuardImpl<at::kCUDA>;
struct SeeCurrentDevice {
  c10::DeviceIndex* current;
};
absl::Status See(const SeeCurrentDevice& args) {
  *args.current = FakeDevices::getDeviceIndex();
  return absl::OkStatus();
}
TEST(OpDispatchTest, TheTensorsDeviceIsTheCurrentOneWhileACudaOperatorRuns) {
  const c10::impl::DeviceGuardImplRegistrar registered(at::kCUDA, new FakeDevices);  // for good
  FakeDevices::setDeviceIndex(0);
  float element = 0;
  const at::Device second(at::kCUDA, 1);
  const at::Tensor on = at::for_blob(&element, {1})
                            .options(at::TensorOptions().dtype(at::kFloat).device(second))
                            .target_device(second)
                            .make_tensor();
  c10::DeviceIndex current = -1;
  EXPECT_OK(Dispatch("See", on, &See, &See, SeeCurrentDevice{&current}));
  EXPECT_EQ(current, 1);
  EXPECT_EQ(FakeDevices::getDeviceIndex(), 0);
}

INSTANTIATE_TEST_SUITE_P(Cpu, LinearTest, testing::Values(at::kFloat, at::kBFloat16), DTypeName);

}  // namespace
}  // namespace lorad
