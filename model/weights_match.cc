#include "model/weights_match.h"

#include <algorithm>
#include <numeric>
#include <set>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "model/safetensors.h"

namespace lorad {
namespace {

constexpr size_t kShownNames = 10;

bool IsLeftover(const std::string& name) {
  return absl::EndsWith(name, "rotary_emb.inv_freq") || absl::EndsWith(name, "masked_bias") ||
         absl::EndsWith(name, "decoder.version");
}

// "missing: 12: a, b, …" for a list that is not empty.
void AppendList(const char* what, const std::vector<std::string>& names, std::vector<std::string>* parts) {
  if (names.empty()) return;
  const std::vector<std::string> shown(names.begin(), names.begin() + std::min(names.size(), kShownNames));
  parts->push_back(absl::StrCat(what, ": ", names.size(), ": ", absl::StrJoin(shown, ", "),
                                names.size() > kShownNames ? ", …" : ""));
}

// The tensors that a row stands for, layer by layer.
std::vector<WeightKey> KeysOf(const WeightRow& row, int64_t num_layers) {
  std::vector<int32_t> layers = row.layers;
  if (!row.per_layer()) {
    layers = {-1};
  } else if (layers.empty()) {
    layers.resize(static_cast<size_t>(num_layers));
    std::iota(layers.begin(), layers.end(), 0);
  }
  std::vector<WeightKey> keys;
  for (const int32_t layer : layers) {
    if (row.experts == 0) keys.push_back({row.name, layer});
    for (int32_t expert = 0; expert < row.experts; ++expert) keys.push_back({row.name, layer, expert});
  }
  return keys;
}

}  // namespace

absl::StatusOr<MatchedWeights> MatchWeights(const std::vector<WeightRow>& rows, int64_t num_layers,
                                            const Checkpoint& checkpoint) {
  MatchedWeights matched;
  std::set<std::string> wanted;
  std::vector<std::string> missing, unexpected, wrong_shape, wrong_dtype;
  for (const WeightRow& row : rows) {
    for (const WeightKey& key : KeysOf(row, num_layers)) {
      const std::string name = absl::StrReplaceAll(
          row.stored_name, {{"{}", absl::StrCat(key.layer)}, {"{expert}", absl::StrCat(key.expert)}});
      wanted.insert(name);
      const auto it = checkpoint.find(name);
      if (it == checkpoint.end()) {
        if (!row.optional) missing.push_back(name);
        continue;
      }
      const StoredTensor& tensor = it->second;
      if (tensor.shape != row.shape) {
        wrong_shape.push_back(absl::StrCat(name, " ", ShapeText(tensor.shape), ", expected ", ShapeText(row.shape)));
      }
      if (tensor.dtype != DType::kF32 && tensor.dtype != DType::kF16 && tensor.dtype != DType::kBF16) {
        wrong_dtype.push_back(name);
      }
      matched[key] = tensor;
    }
  }
  for (const auto& [name, tensor] : checkpoint) {
    if (!wanted.contains(name) && !IsLeftover(name)) unexpected.push_back(Printable(name));
  }
  std::vector<std::string> problems;
  AppendList("missing", missing, &problems);
  AppendList("unexpected", unexpected, &problems);
  AppendList("wrong shape", wrong_shape, &problems);
  if (!problems.empty()) {
    return absl::DataLossError(
        absl::StrCat("the checkpoint's tensors do not fit config.json: ", absl::StrJoin(problems, "; ")));
  }
  AppendList("tensors that are not F32, F16 or BF16", wrong_dtype, &problems);
  if (!problems.empty()) return absl::UnimplementedError(problems[0]);
  return matched;
}

}  // namespace lorad
