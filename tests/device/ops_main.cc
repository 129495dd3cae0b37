// The main of the operators' own tests on the device (on_device_model_ops.cc). Left out are those of what a device does
// not promise: a value there is looked at by no host, so none is refused, and cuBLAS may choose by the number of rows
// (model/ops/cuda/README.md), as tensor cores do; and those that put a device of their own in its place.
//   --brief  fewer of them, which launch each kernel of ours all the same
//   --fast   instead, what kernels of other libraries compute, by each that agrees with ours; it fails where one does
//   not
#include <cstdio>
#include <string>

#include <gtest/gtest.h>

#include "model/ops/cpu/parallel.h"
#include "model/ops/open_cuda.h"
#include "tests/device/ends_when_broken.h"
#include "tests/device/test_device.h"
#include "tests/op/kv_testing.h"

namespace {

constexpr char kPromised[] =
    "-OpDispatchTest.*:*NamesTheBadArgument*:*EmbeddingRefuses*:*AddPositionsRefuses*:*RefusesAnId*:"
    "*RowsOfAnotherWidth*:*/LinearTest.ARowHasTheSameBits*:*/LinearTest.ReadsAndWritesColumns*:*LinearHasTheBits*:"
    "*ExpertsHaveTheBits*:*Gradient*:*ManyRows*BF16*:*/LongSegmentsTest.RowsHaveTheSameBitsAlone/BF16";
// For tools under which each call takes a hundred times as long: without cuBLAS's kernels, and the same ones once more.
constexpr char kNotBrief[] = ":*TheSameBits*:*/LinearTest.*";
// Tiles and chunks go by the batch, and so do a row's bits.
constexpr char kFast[] =
    "*PagedAttentionTest.*BF16:*/DealtExpertsTest.Linear*/BF16-*NamesTheBadArgument*:*ARowHasTheSameBits*";

// Whether all forms of other libraries agree with ours; those that do are used from now on.
bool AllFormsAgree() {
  std::vector<std::string> used;
  const std::vector<std::string> lines = lorad::CheckFastForms(&used);
  for (const std::string& line : lines) std::printf("[  FAILED  ] %s\n", line.c_str());
  for (const std::string& name : used) std::printf("uses %s\n", name.c_str());
  std::fflush(stdout);
  lorad::AttentionTolerance() = 4e-3;  // values are within 1
  return lines.empty();
}

}  // namespace

int main(int argc, char** argv) {
  const std::string choice = argc > 1 ? argv[1] : "";
  const bool fast = choice == "--fast";
  GTEST_FLAG_SET(filter, fast ? kFast : choice == "--brief" ? std::string(kPromised) + kNotBrief : kPromised);
  testing::InitGoogleTest(&argc, argv);
  lorad::cpu::SetComputeThreads(2);
  lorad::OpenTestDevice();
  testing::UnitTest::GetInstance()->listeners().Append(
      new lorad::EndsWhenBroken([] { return lorad::TestDeviceMemory().available_bytes().status(); }));
  const bool agree = !fast || AllFormsAgree();
  return RUN_ALL_TESTS() == 0 && agree ? 0 : 1;
}
