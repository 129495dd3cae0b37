// The main of the operators' own tests on the device (on_device_model_ops.cc). Left out are those of what a device does
// not promise: a value there is looked at by no host, so none is refused, and cuBLAS may choose by the number of rows
// (model/ops/cuda/README.md), as tensor cores do; and those that put a device of their own in its place.
//   --fast  instead, attention alone by the kernels of another library; it fails where they do not agree with ours
#include <cstdio>
#include <string>

#include <gtest/gtest.h>

#include "model/ops/cpu/parallel.h"
#include "model/ops/open_cuda.h"
#include "tests/device/test_device.h"
#include "tests/op/kv_testing.h"

namespace {

constexpr char kPromised[] =
    "-OpDispatchTest.*:*NamesTheBadArgument*:*EmbeddingRefuses*:*AddPositionsRefuses*:*RefusesAnId*:"
    "*RowsOfAnotherWidth*:*/LinearTest.ARowHasTheSameBits*:*/LinearTest.ReadsAndWritesColumns*:*LinearHasTheBits*:"
    "*ExpertsHaveTheBits*:*Gradient*:*ManyRows*BF16*:*/LongSegmentsTest.RowsHaveTheSameBitsAlone/BF16";
// Tiles and chunks go by the batch, and so do a row's bits.
constexpr char kFast[] = "*PagedAttentionTest.*BF16-*NamesTheBadArgument*:*ARowHasTheSameBits*";

// Whether all forms of other libraries agree with ours, and are used from now on.
bool AllFormsAgree() {
  const std::vector<std::string> lines = lorad::CheckFastForms();
  for (const std::string& line : lines) std::fprintf(stderr, "%s\n", line.c_str());
  lorad::AttentionTolerance() = 4e-3;  // values are within 1
  return lines.empty();
}

}  // namespace

int main(int argc, char** argv) {
  const bool fast = argc > 1 && std::string(argv[1]) == "--fast";
  GTEST_FLAG_SET(filter, fast ? kFast : kPromised);
  testing::InitGoogleTest(&argc, argv);
  lorad::cpu::SetComputeThreads(2);
  lorad::OpenTestDevice();
  if (fast && !AllFormsAgree()) return 1;
  return RUN_ALL_TESTS();
}
