// What MoE-PEFT's folders must be: its own golden folders with one thing changed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "adapters/kinds/kind.h"
#include "adapters/kinds/moe_names.h"
#include "adapters/kinds/moe_peft.h"
#include "adapters/kinds/tensor_reader.h"
#include "model/config.h"
#include "model/safetensors.h"
#include "model/safetensors_writer.h"
#include "model/torch_file.h"
#include "tests/support/source_dir.h"
#include "tests/support/test_files.h"

namespace lorad {
namespace {

using absl::StatusCode;
using nlohmann::json;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

const std::string kGolden = SourceDir() + "/tests/golden/";

struct Tensor {
  std::string name;
  HostTensor host;
};

class MoeReaderTest : public testing::Test {
 protected:
  MoeReaderTest() : base_(BaseShapeOf(ReadModelConfig(kGolden + "llama2/model").value())) {}

  static std::string Folder(const std::string& name) { return kGolden + "moe_peft/llama2/adapters/" + name; }
  absl::StatusOr<AdapterImage> Read(const std::string& dir) { return ReadAdapter(dir, base_, *files_); }

  absl::StatusOr<AdapterImage> WithConfig(const std::string& name, const std::function<void(json&)>& change) {
    CopyFiles(Folder(name), dir_.path());
    json config = ReadJsonFile(Folder(name) + "/adapter_config.json");
    change(config);
    WriteFile(dir_.File("adapter_config.json"), config.dump());
    return Read(dir_.path());
  }
  absl::StatusOr<AdapterImage> With(const std::string& name, const std::string& key, const json& value) {
    return WithConfig(name, [&](json& config) { config[key] = value; });
  }

  absl::StatusOr<AdapterImage> WithTensors(const std::string& name,
                                           const std::function<void(std::vector<Tensor>&)>& change) {
    const SafetensorsIndex index = ParseTorchFile(*files_, Folder(name) + "/adapter_model.bin").value();
    TensorReader reader(*files_, index.path);
    for (const auto& [tensor, entry] : index.tensors) reader.Want(entry);
    EXPECT_TRUE(reader.Read().ok());
    std::vector<Tensor> tensors;
    for (const auto& [tensor, entry] : index.tensors) tensors.push_back({tensor, reader.Get(entry)});
    change(tensors);
    std::vector<TensorToWrite> written;
    for (const Tensor& tensor : tensors) {
      const auto bytes = static_cast<size_t>(tensor.host.elements() * SizeBytes(tensor.host.dtype));
      written.push_back({tensor.name, tensor.host.dtype, tensor.host.shape, {tensor.host.data(), bytes}});
    }
    CopyFiles(Folder(name), dir_.path());
    EXPECT_TRUE(WriteSafetensors(dir_.File("adapter_model.safetensors"), written, {}).ok());
    return Read(dir_.path());
  }

  void ExpectError(const absl::StatusOr<AdapterImage>& image, StatusCode code, const std::vector<std::string>& names) {
    ASSERT_FALSE(image.ok());
    EXPECT_EQ(image.status().code(), code) << image.status();
    for (const std::string& name : names) EXPECT_THAT(std::string(image.status().message()), HasSubstr(name));
  }

  TempDir dir_;
  const BaseShape base_;
  const std::unique_ptr<FileSource> files_ = LocalFiles();
};

TEST_F(MoeReaderTest, ExpertsOfAPlaceLieTogetherAndTheRouterIsOfTheFfn) {
  const AdapterImage image = Read(Folder("mixlora_expert_lora")).value();
  EXPECT_EQ(image.kind, "mixlora");
  EXPECT_EQ(image.routing.choice, RoutingRule::Choice::kTopK);
  EXPECT_EQ(image.routing.top_k, 1);
  EXPECT_EQ(image.routing.activation, Activation::kSilu);
  EXPECT_EQ(image.rank_min, 2);
  EXPECT_EQ(image.rank_max, 5);
  for (const ImageSlot& slot : image.slots) {
    const bool attention = slot.site == Site::kVProj;
    EXPECT_EQ(slot.experts, attention ? 1 : 6);
    EXPECT_EQ(slot.router.present(), slot.site == Site::kFfn);
    if (slot.site == Site::kFfn) {
      EXPECT_THAT(slot.router.shape, ElementsAre(6, base_.hidden_size));
      continue;
    }
    EXPECT_EQ(slot.rank, attention ? 2 : 5);
    EXPECT_FLOAT_EQ(slot.scale,
                    attention ? 3.0f : static_cast<float>(15.0 / std::sqrt(5.0)));  // rsLoRA of experts alone
    EXPECT_THAT(slot.a.shape, ElementsAre(slot.experts * slot.rank, base_.Find(slot.site)->in_features));
    EXPECT_THAT(slot.b.shape, ElementsAre(base_.Find(slot.site)->out_features, slot.experts * slot.rank));
  }
}

TEST_F(MoeReaderTest, OldNamesAreTheSamePlaces) {
  EXPECT_EQ(PresentMoeName("mixlora.layers.3.gate.weight"), "mixlora.layers.3.mlp.moe_gate.weight");
  EXPECT_EQ(PresentMoeName("mixlora.layers.3.experts.7.w2_proj.lora_A.weight"),
            "mixlora.layers.3.mlp.down_proj.experts.7.lora_A.weight");
  EXPECT_EQ(PresentMoeName("mixlora.layers.3.experts.7.gate_proj.lora_B.weight"),
            "mixlora.layers.3.mlp.gate_proj.experts.7.lora_B.weight");
  const std::string present = "mixlora.layers.3.mlp.up_proj.experts.7.lora_B.weight";
  EXPECT_EQ(PresentMoeName(present), present);
}

BaseShape ShapeOf(const std::string& base) { return BaseShapeOf(ReadModelConfig(kGolden + base + "/model").value()); }

// OPT's are ours: MoE-PEFT has no OPT.
TEST_F(MoeReaderTest, PlacesHaveTheNamesOfTheBasesModules) {
  const auto path = [](const std::string& base, Site site) {
    return MoeProjectionPath("mixlora", 1, *ShapeOf(base).Find(site));
  };
  for (const char* base : {"phi", "opt"}) {
    EXPECT_EQ(path(base, Site::kUpProj), "mixlora.layers.1.mlp.fc1");
    EXPECT_EQ(path(base, Site::kDownProj), "mixlora.layers.1.mlp.fc2");
    EXPECT_EQ(path(base, Site::kQProj), "mixlora.layers.1.self_attn.q_proj");
  }
  EXPECT_EQ(path("phi", Site::kOProj), "mixlora.layers.1.self_attn.dense");
  EXPECT_EQ(path("opt", Site::kOProj), "mixlora.layers.1.self_attn.out_proj");
  EXPECT_EQ(path("phi3", Site::kGateUpProj), "mixlora.layers.1.mlp.gate_up_proj");
  EXPECT_EQ(path("phi3", Site::kQkvProj), "mixlora.layers.1.self_attn.qkv_proj");
  EXPECT_EQ(path("gemma2", Site::kGateProj), "mixlora.layers.1.mlp.gate_proj");
}

TEST_F(MoeReaderTest, ProjectionsThatTheBaseLacksAreRefusedByName) {
  for (const auto& [base, target] : {std::pair("phi3", "gate_proj"), std::pair("phi3", "q_proj"),
                                     std::pair("phi", "gate_proj"), std::pair("phi", "o_proj")}) {
    const std::string golden = kGolden + "moe_peft/" + base + "/adapters/mixlora";
    CopyFiles(golden, dir_.path());
    json config = ReadJsonFile(golden + "/adapter_config.json");
    config["target_modules"].push_back(target);
    WriteFile(dir_.File("adapter_config.json"), config.dump());
    ExpectError(ReadAdapter(dir_.path(), ShapeOf(base), *files_), StatusCode::kInvalidArgument,
                {"target_modules", target});
  }
}

TEST_F(MoeReaderTest, TheDigestIsOfWhatIsApplied) {
  const std::string digest = Read(Folder("mixlora")).value().digest;
  EXPECT_EQ(With("mixlora", "router_aux_loss_coef", 0.5).value().digest, digest);
  EXPECT_EQ(WithConfig("mixlora", [](json& c) { c.erase("peft_type"); }).value().digest, digest);
  EXPECT_EQ(WithConfig("mixlora", [](json& c) { c.erase("top_k"); }).value().digest, digest);  // 2 is the default
  EXPECT_NE(With("mixlora", "top_k", 1).value().digest, digest);
  EXPECT_NE(With("mixlora", "act_fn", "relu").value().digest, digest);
  EXPECT_NE(With("mixlora", "use_rslora", true).value().digest, digest);
  EXPECT_NE(With("mixlora", "routing_strategy", "mixlora-dynamic").value().digest, digest);
  EXPECT_EQ(WithTensors("mixlora", [](auto&) {}).value().digest, digest);  // as safetensors
}

TEST_F(MoeReaderTest, WhatItWouldServeOtherwiseIsAWarning) {
  EXPECT_THAT(Read(Folder("mixlora")).value().warnings, testing::IsEmpty());
  EXPECT_THAT(Read(Folder("mixlora_switch")).value().warnings, Contains(HasSubstr("expert_capacity: 8")));
  EXPECT_THAT(With("mixlora", "use_dora", true).value().warnings, Contains(HasSubstr("use_dora")));
  EXPECT_THAT(Read(Folder("dora_without_magnitudes")).value().warnings, Contains(HasSubstr("use_dora")));
}

TEST_F(MoeReaderTest, MagnitudesOfExpertsAreTakenWithUseDoraAllOrNone) {
  // B's first column, as if it were one.
  const auto add = [](std::vector<Tensor>& tensors) {
    const size_t count = tensors.size();
    for (size_t i = 0; i < count; ++i) {
      const std::string& name = tensors[i].name;
      const size_t end = name.find(".lora_B.weight");
      if (end == std::string::npos || name.find(".experts.") == std::string::npos) continue;
      Tensor magnitude{name.substr(0, end) + ".lora_magnitude_vector", tensors[i].host};
      magnitude.host.shape.resize(1);
      tensors.push_back(std::move(magnitude));
    }
  };
  const auto with_dora = [&](const std::string& key, const json& value) {
    json config = ReadJsonFile(dir_.File("adapter_config.json"));
    config[key] = value;
    WriteFile(dir_.File("adapter_config.json"), config.dump());
    return Read(dir_.path());
  };
  const json of_experts = {{"use_dora", true}};
  ExpectError(WithTensors("mixlora", add), StatusCode::kInvalidArgument, {"lora_magnitude_vector", "no such place"});
  ExpectError(with_dora("expert_lora", of_experts), StatusCode::kUnimplemented, {"needs the base's weights"});
  ExpectError(with_dora("use_dora", true), StatusCode::kDataLoss, {"self_attn", "lora_magnitude_vector"});
  const auto add_but_one = [&](std::vector<Tensor>& tensors) {
    add(tensors);
    tensors.pop_back();
  };
  (void)WithTensors("mixlora", add_but_one);
  ExpectError(with_dora("expert_lora", of_experts), StatusCode::kDataLoss, {"experts", "lora_magnitude_vector"});
  (void)WithTensors("mola", add);
  ExpectError(with_dora("use_dora", true), StatusCode::kUnimplemented, {"DoRA of mola", "limit: MixLoRA"});
}

TEST_F(MoeReaderTest, ConfigurationsThatCannotBeAreRefusedByName) {
  constexpr auto kInvalid = StatusCode::kInvalidArgument;
  constexpr auto kUnimplemented = StatusCode::kUnimplemented;
  ExpectError(With("mixlora", "top_k", 5), kInvalid, {"top_k: 5", "1..4"});
  ExpectError(With("mixlora", "top_k", 0), kInvalid, {"top_k: 0"});
  for (const char* kind : {"mixlora", "mola"}) {
    const auto one_expert_without_top_k = [](json& config) {
      config.erase("top_k");
      config["num_experts"] = 1;
    };
    ExpectError(WithConfig(kind, one_expert_without_top_k), kInvalid, {"top_k: missing, which means 2", "1..1"});
  }
  ExpectError(With("mixlora", "num_experts", 257), kInvalid, {"num_experts: 257", "256"});
  ExpectError(WithConfig("mixlora", [](json& c) { c.erase("num_experts"); }), kInvalid, {"num_experts", "missing"});
  ExpectError(With("mixlora", "r", 4.5), kInvalid, {"r: 4.5"});
  ExpectError(With("mixlora", "lora_alpha", "8"), kInvalid, {"lora_alpha"});
  ExpectError(With("mixlora", "act_fn", "mish"), kUnimplemented, {"act_fn", "mish"});
  ExpectError(With("mixlora", "bias", "all"), kUnimplemented, {"bias", "all"});
  ExpectError(With("mixlora", "task_type", "SEQ_CLS"), kUnimplemented, {"task_type", "SEQ_CLS"});
  ExpectError(With("mixlora", "new_idea", 3), kUnimplemented, {"new_idea"});
  ExpectError(With("mixlora", "expert_lora", {{"new_idea", 3}}), kUnimplemented, {"expert_lora", "new_idea"});
  ExpectError(With("mixlora", "target_modules", {"q_proj", "fc1"}), kInvalid, {"target_modules", "fc1"});
  ExpectError(With("mixlora", "target_modules", {{"q_proj", 1}}), kInvalid, {"target_modules"});
  ExpectError(With("mixlora", "routing_strategy", "mola"), kInvalid, {"routing_strategy", "mola", "MIXLORA"});
  ExpectError(With("mixlora_dynamic", "top_p", 1.5), kInvalid, {"top_p: 1.5", "0..1"});
  ExpectError(With("mola", "expert_lora", {{"r", 2}}), kInvalid, {"expert_lora", "mola"});
}

TEST_F(MoeReaderTest, TensorsThatAreMissingTooManyOrOfAnotherShapeAreRefusedByName) {
  const auto is = [](const std::string& name) { return [name](const Tensor& t) { return t.name == name; }; };
  const std::string router = "mixlora.layers.1.mlp.moe_gate.weight";
  const std::string pair = "mixlora.layers.0.mlp.up_proj.experts.3.lora_B.weight";
  for (const std::string& name : {router, pair}) {
    ExpectError(WithTensors("mixlora", [&](auto& tensors) { std::erase_if(tensors, is(name)); }), StatusCode::kDataLoss,
                {name});
  }
  ExpectError(WithTensors("mixlora",
                          [&](auto& tensors) {
                            auto found = std::find_if(tensors.begin(), tensors.end(), is(router));
                            found->host.shape = {found->host.shape[1], found->host.shape[0]};
                          }),
              StatusCode::kInvalidArgument, {router, "shape", "[4, 32]"});
  ExpectError(WithTensors("mixlora",
                          [&](auto& tensors) {
                            tensors.push_back({"mixlora.layers.2.mlp.moe_gate.weight", tensors.back().host});
                          }),
              StatusCode::kInvalidArgument, {"mixlora.layers.2.mlp.moe_gate.weight"});
  ExpectError(WithTensors("mixlora",
                          [&](auto& tensors) {
                            tensors.push_back({"classifier", tensors.back().host});
                          }),
              StatusCode::kInvalidArgument, {"classifier", "not supported yet"});
  ExpectError(WithTensors("mixlora",
                          [&](auto& tensors) {
                            tensors.push_back({"mixlora.layers.1.gate.weight", tensors.back().host});
                          }),
              StatusCode::kDataLoss, {"stands for the same"});
}

TEST_F(MoeReaderTest, OneRoutingOfTheFfnIsAllThatARowCanHave) {
  const auto replaced = [&](const std::string& name) { return ReplacedTensors(Read(Folder(name)).value()); };
  EXPECT_THAT(replaced("mixlora"), Contains(HasSubstr("routing of ")));
  EXPECT_THAT(replaced("mola"), IsEmpty());  // routes single projections, each its own update
}

}  // namespace
}  // namespace lorad
