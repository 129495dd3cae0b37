#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "adapters/routing.h"
#include "model/base/dtype.h"
#include "model/sites.h"

namespace lorad {

// A tensor in host memory, row-major, in the file's dtype.
struct HostTensor {
  DType dtype = DType::kF32;
  std::vector<int64_t> shape = {};
  std::shared_ptr<const std::vector<std::byte>> bytes = nullptr;  // many tensors may share one buffer
  int64_t offset_bytes = 0;

  bool present() const { return !shape.empty(); }
  const std::byte* data() const { return bytes->data() + offset_bytes; }
  int64_t elements() const {
    int64_t n = 1;
    for (int64_t d : shape) n *= d;
    return n;
  }
};

// What an adapter changes at one site and layer:
//   y = f * (W x + scale * (B A x + delta_bias)) + bias
// with f as adapters/dora.h has it. For an embedding, x is the one-hot row of the token.
struct ImageSlot {
  Site site = Site::kQProj;
  int32_t layer = -1;   // -1: not in a layer
  int32_t experts = 1;  // of which each has a pair of its own
  int32_t rank = 0;     // of each pair; 0 = no pair: only a bias
  float scale = 1.0f;
  HostTensor a = {};  // [experts * rank, in], the experts one after the other
  HostTensor b = {};  // [out, experts * rank]
  // Each may be absent.
  HostTensor magnitude = {};   // [out]: DoRA; of experts [experts, out]
  HostTensor delta_bias = {};  // [out]: of B (lora_bias)
  HostTensor bias = {};        // [out], instead of the base's
  // Instead of rows of an embedding or a head [n, width], before anything is added; of a norm: weight [1, width], or
  // weight and bias [2, width], both of them the adapter's or the base's.
  HostTensor rows = {};
  std::vector<int32_t> row_ids = {};  // [n] tokens, ascending; empty: 0..n-1
  bool whole_module = false;          // the file has all rows, also those that are the base's
  HostTensor router = {};             // [experts, in]: which of them a row goes to
  // As applied, made by the reader from the above and the base.
  std::vector<float> dora = {};         // [experts, 3, out], DoraTerms::values of each
  std::vector<float> bias_change = {};  // [out], bias minus the base's
};

// An adapter in host form, the same for every kind; const after load. rsLoRA, patterns and target expressions are
// resolved: what is here is what is applied.
struct AdapterImage {
  std::string kind;                  // "lora", "dora", "alora", or one of MoE-PEFT's
  std::string folder_kind;           // AdapterKind::name of the folder it came from, which is how it is written back
  std::vector<ImageSlot> slots;      // ordered by (site, layer)
  RoutingRule routing;               // of the routers among them
  std::vector<std::string> targets;  // distinct module names, for people: "q_proj"
  std::vector<std::string> warnings;
  // aLoRA: the adapter is active from the first token of their last occurrence in the prompt on; without one, never.
  // Empty: from the beginning.
  std::vector<int32_t> invocation_tokens;
  int64_t vocab_size = 0;  // of an enlarged vocabulary: the base's tokens and its own; 0 = the base's
  std::string digest;      // hex SHA-256 over sorted (name, dtype, shape, bytes) and the normalised config
  int32_t rank_min = 0;
  int32_t rank_max = 0;
  int32_t num_labels = 0;  // of a classifier in the place of the head's first rows; 0 = it generates text
};

// Where one slot lies inside an adapter's run of pages. Both matrices are rank-major: A [experts * rank, in], B
// transposed [experts * rank, out]; each, and each f32 vector, starts on a 64-byte border. An offset of -1: absent.
struct PackedSlot {
  Site site = Site::kQProj;
  int32_t layer = -1;
  int32_t experts = 1;
  int32_t rank = 0;
  float scale = 1.0f;
  int64_t a_offset_bytes = -1;
  int64_t b_offset_bytes = -1;
  int64_t dora_offset_bytes = -1;
  int64_t delta_bias_offset_bytes = -1;
  int64_t bias_offset_bytes = -1;
  int32_t num_rows = 0;  // that replace the base's, [num_rows, width] in the pool's type
  int32_t width = 0;
  int64_t end_of_rows = 0;  // one past the last row that they replace
  int64_t rows_offset_bytes = -1;
  int64_t row_ids_offset_bytes = -1;  // [num_rows] int32; -1: all, from 0
  int64_t router_offset_bytes = -1;
  // Of the run's bytes, the slot's own: all of the above, but for rows that another slot has already.
  int64_t begin_bytes = 0;
  int64_t end_bytes = 0;
};

struct PackedLayout {
  DType dtype = DType::kF32;
  std::vector<PackedSlot> slots;
  RoutingRule routing;
  int64_t total_bytes = 0;
};

PackedLayout PlanLayout(const AdapterImage& image, DType pool_dtype);

// What of the base the adapter replaces rather than adds to, by name, sorted: tensors, and the way of a row through
// an FFN. Two adapters on one row must have none in common.
std::vector<std::string> ReplacedTensors(const AdapterImage& image);

// Writes one slot's own bytes, which begin at `destination`, converting dtypes.
void PackSlot(const ImageSlot& slot, const PackedSlot& packed, DType dtype, std::byte* destination);

// Writes the image into `destination` (layout.total_bytes) as `layout` says.
void Pack(const AdapterImage& image, const PackedLayout& layout, std::byte* destination);

}  // namespace lorad
