// Fine-tuning on a quantised base against fine-tuning on a checkpoint that holds its rounded weights W'.
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "adapters/checkpoint_tables.h"
#include "model/quantization.h"
#include "model/safetensors_checkpoint.h"
#include "model/safetensors_writer.h"
#include "tests/support/source_dir.h"
#include "tests/support/status_matchers.h"
#include "tests/support/test_files.h"
#include "tests/train/train_fixture.h"

namespace lorad {
namespace {

constexpr double kTolerance = 2e-4;

std::string ModelOf(const std::string& base) { return SourceDir() + "/tests/golden/" + base + "/model"; }

// A copy of the base with W' in its matrices.
void WriteRounded(const std::string& model, Quantization quantization, const TempDir& to) {
  CopyFiles(model, to.path());
  const Checkpoint checkpoint = OpenCausalCheckpoint(model).value();
  std::vector<TensorToWrite> tensors;
  for (const auto& [name, tensor] : checkpoint) {
    ASSERT_EQ(tensor.dtype, DType::kF32);
    tensors.push_back({.name = name, .dtype = tensor.dtype, .shape = tensor.shape});
  }
  std::vector<float> values;
  const auto make = [&](const TensorToWrite& tensor) -> absl::StatusOr<absl::Span<const std::byte>> {
    const StoredTensor& stored = checkpoint.at(tensor.name);
    values.resize(static_cast<size_t>(stored.size_bytes) / sizeof(float));
    std::memcpy(values.data(), stored.data, static_cast<size_t>(stored.size_bytes));
    if (absl::EndsWith(tensor.name, "_proj.weight")) {
      RoundToQuantized(quantization, stored.shape[0], stored.shape[1], values.data());
    }
    return absl::MakeConstSpan(reinterpret_cast<const std::byte*>(values.data()),
                               static_cast<size_t>(stored.size_bytes));
  };
  ASSERT_THAT(WriteSafetensors(to.File("model.safetensors"), tensors, {{"format", "pt"}}, make), IsOk());
}

TrainBase Load(const std::string& dir, Quantization quantization, at::Device device = at::kCPU) {
  TrainBase base;
  base.model = CausalLm::Load(dir, {.device = device, .quantization = quantization}).value();
  base.tables = OpenBaseTables(dir, base.model->base_shape(), quantization).value();
  return base;
}

std::vector<double> Losses(const TrainBase& base, const TrainConfig& config) {
  const std::unique_ptr<Trainer> trainer = MakeTrainer(base, config, RandomExamples(8, 20, 1));
  std::vector<double> losses;
  while (!trainer->done()) {
    const auto report = trainer->Advance();
    EXPECT_THAT(report, IsOk());
    if (!report.ok()) break;
    if (report->has_value()) losses.push_back((*report)->loss);
  }
  return losses;
}

class QuantizedTrainingTest : public testing::TestWithParam<Quantization> {
 protected:
  void ExpectTheSameLosses(TrainConfig config, const std::string& base = "llama3") {
    config.optimizer.learning_rate = 5e-3;
    const TempDir dir;
    WriteRounded(ModelOf(base), GetParam(), dir);
    const std::vector<double> expected = Losses(Load(dir.path(), Quantization::kNone), config);
    const std::vector<double> found = Losses(Load(ModelOf(base), GetParam(), TrainDevice()), config);
    const std::vector<double> whole = Losses(Load(ModelOf(base), Quantization::kNone), config);
    ASSERT_EQ(found.size(), 6u);
    ASSERT_EQ(expected.size(), 6u);
    for (size_t i = 0; i < found.size(); ++i) EXPECT_NEAR(found[i], expected[i], kTolerance) << i;
    EXPECT_GT(std::abs(found[0] - whole[0]), 2 * kTolerance);  // that it is quantised shows
  }
};

TEST_P(QuantizedTrainingTest, LoraHasTheLossesOfTheRoundedBase) { ExpectTheSameLosses(SmallConfig(4, /*steps=*/6)); }

TEST_P(QuantizedTrainingTest, DoraHasTheLossesOfTheRoundedBase) {
  TrainConfig config = SmallConfig(4, /*steps=*/6);
  config.adapter.use_dora = true;
  config.dropout = 0.1;
  ExpectTheSameLosses(config);
}

// Whose k and v begin within a panel of the fused weight.
TEST_P(QuantizedTrainingTest, DoraOnARoutedBaseHasTheLossesOfTheRoundedOne) {
  TrainConfig config = SmallConfig(4, /*steps=*/6);
  config.adapter.use_dora = true;
  ExpectTheSameLosses(config, "qwen2_moe");
}

TEST_P(QuantizedTrainingTest, PissaBeginsFromTheRoundedBase) {
  TrainConfig config = SmallConfig(4, /*steps=*/6);
  config.init = LeafInit::kPissa;
  ExpectTheSameLosses(config);
}

INSTANTIATE_TEST_SUITE_P(Forms, QuantizedTrainingTest, testing::ValuesIn(kQuantizedForms),
                         [](const auto& info) { return std::string(Name(info.param)); });

}  // namespace
}  // namespace lorad
