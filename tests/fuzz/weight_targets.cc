#include <algorithm>
#include <map>

#include "adapters/kinds/kind.h"
#include "model/base/check.h"
#include "model/config.h"
#include "model/pickled_tensors.h"
#include "model/safetensors.h"
#include "model/torch_file.h"
#include "tests/fuzz/targets.h"
#include "tests/support/memory_files.h"

namespace lorad {
namespace {

constexpr int64_t kMostReadBytes = 1 << 20;

void ReadAll(FileSource& files, const absl::StatusOr<SafetensorsIndex>& index) {
  if (!index.ok()) return;
  for (const auto& [name, entry] : index->tensors) {
    if (entry.size_bytes > kMostReadBytes) continue;
    std::vector<std::byte> bytes(static_cast<size_t>(entry.size_bytes));
    (void)ReadTensor(files, index->path, entry, bytes.data());
  }
}

// The first eight bytes say how long the header is; here they are made to say the truth.
void RepairSafetensors(std::string* input) {
  if (input->size() < 8) return;
  const size_t end = input->rfind("}}");
  const uint64_t header_bytes = end == std::string::npos ? input->size() - 8 : end + 2 - std::min<size_t>(end + 2, 8);
  for (int i = 0; i < 8; ++i) (*input)[i] = static_cast<char>(header_bytes >> (8 * i));
}

// "….data.pkl" of the archives, by their stored bytes.
std::vector<std::string> PicklesOf(const std::vector<std::string>& archives) {
  std::vector<std::string> pickles;
  for (const std::string& archive : archives) {
    const size_t begin = archive.find("\x80\x02");
    const size_t end = archive.find("PK", begin);
    if (begin != std::string::npos && end != std::string::npos) pickles.push_back(archive.substr(begin, end - begin));
  }
  LORAD_CHECK(!pickles.empty());
  return pickles;
}

const char kConfigWords[] =
    R"("r" "lora_alpha" "rank_pattern" "alpha_pattern" "target_modules" "all-linear" "layers_to_transform" "layers_pattern" )"
    R"("use_dora" "use_rslora" "lora_bias" "bias" "all" "q_proj" ".*" "(a|b)*" "(((((a{1000}){1000}" [ ] { } , : null 513 )"
    R"(-1 1e308)";

}  // namespace

std::vector<FuzzTarget> WeightTargets(const FuzzPlaces& places) {
  const std::string& golden = places.golden;
  const std::vector<std::string> adapters = {golden + "/refused", golden + "/accepted", golden + "/llama2/adapters"};
  const auto safetensors = SeedsNamed("adapter_model.safetensors", {golden + "/accepted", golden + "/refused"});
  const auto archives =
      SeedsNamed("adapter_model.bin", {golden + "/refused", golden + "/llama3/adapters/pickled_views"});
  const std::string sound_weights = Contents(golden + "/accepted/control/adapter_model.safetensors");
  const std::string sound_config = Contents(golden + "/accepted/control/adapter_config.json");
  const BaseShape base = BaseShapeOf(ReadModelConfig(golden + "/llama2/model").value());
  const auto read_adapter = [base](const std::string& config, const std::string& name, const std::string& weights) {
    MemoryFiles files({{"a/adapter_config.json", config}, {"a/" + name, weights}});
    (void)ReadAdapter("a", base, files, {.pool_dtype = DType::kF32, .max_pool_bytes = 1 << 20});
  };

  std::vector<FuzzTarget> targets;
  targets.push_back({.name = "safetensors",
                     .seeds = safetensors,
                     .words = Words(R"("dtype" "F32" "shape" "data_offsets" [0,0] __metadata__ { })"),
                     .run =
                         [](const std::string& input) {
                           MemoryFiles files({{"f", input}});
                           ReadAll(files, ParseSafetensorsHeader(files, "f"));
                         },
                     .repair = RepairSafetensors});
  targets.push_back({.name = "torch_file",
                     .seeds = archives,
                     .words = Words("PK\x03\x04 PK\x01\x02 PK\x05\x06 PK\x06\x06 /data.pkl /data/0 /byteorder"),
                     .run = [](const std::string& input) {
                       MemoryFiles files({{"f", input}});
                       ReadAll(files, ParseTorchFile(files, "f"));
                     }});
  targets.push_back({.name = "pickle",
                     .seeds = PicklesOf(archives),
                     .words = Words("( . t R Q q\x01 h\x01 } ] u s b \x85 \x94 \x93 ctorch\nFloatStorage\n "
                                    "ctorch._utils\n_rebuild_tensor_v2\n ctorch._utils\n_rebuild_parameter\n "
                                    "ccollections\nOrderedDict\n cos\nsystem\n"),
                     .run = [](const std::string& input) { (void)ReadPickledTensors(input, "f"); }});
  targets.push_back(
      {.name = "adapter_config",
       .seeds = SeedsNamed("adapter_config.json", adapters),
       .words = Words(kConfigWords),
       .run = [=](const std::string& input) { read_adapter(input, "adapter_model.safetensors", sound_weights); },
       .cost = 4});
  targets.push_back(
      {.name = "adapter_weights",
       .seeds = safetensors,
       .words = Words(".lora_A.weight .lora_B.weight layers.0 q_proj F32 BF16 F64"),
       .run = [=](const std::string& input) { read_adapter(sound_config, "adapter_model.safetensors", input); },
       .repair = RepairSafetensors,
       .cost = 4});
  targets.push_back({.name = "adapter_pickle",
                     .seeds = archives,
                     .words = Words("lora_A q_proj FloatStorage HalfStorage"),
                     .run = [=](const std::string& input) { read_adapter(sound_config, "adapter_model.bin", input); },
                     .cost = 4});
  return targets;
}

}  // namespace lorad
