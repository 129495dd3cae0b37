#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "adapters/base_tables.h"
#include "adapters/image.h"
#include "adapters/train/train_config.h"
#include "model/sites.h"

namespace lorad {

class CausalLm;

// What is widened of a base's weight at once: 64 MiB.
inline constexpr int64_t kWidenedElements = int64_t{1} << 24;

// What is trained at one module: f32 master weights that require a gradient, contiguous.
struct LeafModule {
  std::string path;             // HF's: "model.layers.0.self_attn.q_proj"
  std::string saved_path = "";  // of its tensors in a saved folder; "": PEFT's, of `path`
  Site site = Site::kQProj;
  int32_t layer = -1;
  int32_t expert = -1;  // whose the pair is; -1: every row's
  float scale = 1.0f;
  // Each may be undefined: not trained.
  at::Tensor a;          // [rank, in]
  at::Tensor b;          // [out, rank]
  at::Tensor magnitude;  // [out]: DoRA
  // DoRA: -> rows [count, in] of W as stored, or of W' made anew where the base is quantised. Empty: not needed.
  std::function<at::Tensor(int64_t first_row, int64_t count)> base_weight;
  at::Tensor initial_a;  // PiSSA, OLoRA: the pair that was taken off the base's weight
  at::Tensor initial_b;
  at::Tensor router;  // [experts, in]: deals rows to the experts that have pairs here, or of the FFN at Site::kFfn
  at::Tensor norm;    // [out], ||W + scale B A|| by row, of the weights since UpdateNorms: DoRA
  // What begins as the base's and is trained instead of it.
  at::Tensor bias;               // [out]
  at::Tensor weight;             // of an embedding or a head [vocabulary, width], of a norm [width]
  at::Tensor token_rows;         // [n, width]: rows of an embedding or a head
  at::Tensor token_ids;          // [n] int64, ascending: which
  bool tokens_are_tied = false;  // of a tied head: token_rows are the embedding's, and named there
  // Of an embedding: the row of weight, token_rows or A's columns that learns nothing where it is looked up; -1: none.
  int64_t padding_row = -1;
};

// Where what is trained lies.
at::Device DeviceOf(const LeafModule& module);

struct NamedLeaf {
  std::string name;  // PEFT's, in a saved folder
  at::Tensor tensor;
  bool is_b = false;
  bool of_embedding_pair = false;
  bool is_base_vector = false;  // a bias, or the weight of a layer norm
};

// The trainable weights of one adapter.
//
// Threads  the trainer's.
class AdapterLeaves final {
 public:
  // Fresh weights; the same seed gives the same ones. `go_on` is asked before each module. Errors: as SelectTrained.
  static absl::StatusOr<AdapterLeaves> Create(const TrainConfig& config, const BaseShape& base,
                                              const BaseTables& base_tables, const GoOnFn& go_on = nullptr);
  // Takes what `image` has for the trained modules: a pair for each that has one here, of the same rank; of what
  // replaces a part of the base, what is not in it stays the base's.
  absl::Status CopyFrom(const AdapterImage& image);

  // Moves all to the device of `model`, whose weights stand for the base's tables from then on; on the CPU those that
  // are quantised. Before anybody holds a tensor of these. In turns (adapters/train/device_turns.h), as CopyFrom.
  absl::Status MoveToDeviceOf(const CausalLm& model);

  const std::vector<LeafModule>& modules() const { return modules_; }
  // Null when the module is not trained. `expert`: which one, where experts have pairs there.
  const LeafModule* Find(Site site, int32_t layer, int32_t expert = -1) const;
  // Those of an adapter with routers; else null.
  const RoutedTraining* routed() const { return routed_.has_value() ? &*routed_ : nullptr; }
  // Every leaf in a fixed order.
  std::vector<NamedLeaf> Named() const;
  // What never changes and is not in a fresh start's reach to the bit: part of a checkpoint.
  std::vector<NamedLeaf> Constants() const;
  // The adapter's file: where a pair was taken off the base, it stands beside the trained one with its sign turned, so
  // that both together are what was learnt.
  std::vector<NamedLeaf> Saved() const;
  // The lowest layer that has a leaf; num_layers when only the head has, -1 when one lies before the layers.
  int64_t first_layer() const { return first_layer_; }
  int64_t parameters() const;

  void DropGradients();

  // DoRA's norms are constants of a step: no gradient passes through them. Call after the weights changed. In pieces
  // (model/ops/pieces.h).
  void UpdateNorms();
  // The same outside of a turn.
  absl::Status UpdateNormsInTurns();

 private:
  void TieTokens();

  std::vector<LeafModule> modules_;  // by path
  int64_t first_layer_ = 0;
  std::optional<RoutedTraining> routed_;
};

}  // namespace lorad
