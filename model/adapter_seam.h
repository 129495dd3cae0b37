#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include <ATen/core/Tensor.h>

#include "absl/functional/function_ref.h"
#include "model/config.h"
#include "model/row_segments.h"
#include "model/sites.h"

namespace lorad {

struct DealtRows;  // model/ops/dealt_experts.h

// One part of a fused matmul's output columns.
struct SitePart {
  Site site;
  int64_t first_column;
  int64_t columns;
};

// The sites that one base matmul computes: q|k|v, gate|up, or a single one.
struct SiteGroup {
  int layer = -1;   // -1: not in a layer (embed_tokens, lm_head)
  int expert = -1;  // on a routed base
  std::vector<SitePart> parts;
};

// Rows of one layer's FFN that adapters send to experts of their own. A pair is a row at one of its experts; all
// experts share the base's weights.
struct RoutedRows {
  RowSegments others;              // the step's rows without the terms of those that are routed
  RowSegments pairs;               // [P], by adapter and expert; input_rows: the row of x of each
  std::vector<int32_t> rows;       // [Q], the routed rows, ascending
  std::vector<int32_t> row_pairs;  // [Q, k], by ascending expert; -1 behind a row's last
  std::vector<float> weights;      // [Q, k]
  at::Tensor pair_weights;         // [P] the same by pair, where a gradient is to go through them; else undefined
  bool scales_down = false;        // an adapter multiplies down's base too (DoRA beside experts): it is no plain sum
  struct OtherActivation {
    int32_t first_pair, end_pair;
    Activation activation;
  };
  std::vector<OtherActivation> activations;  // of pairs whose adapter names one, ascending; the others have the base's
  at::Tensor passed;                         // [R, hidden] to be added to what the FFN gives; undefined: nothing
  // Where the rows were routed on the device it alone knows the lists above, by these; `activations` holds.
  struct OnDevice {
    at::Tensor rows;        // [Q] int32; negative: nobody's
    at::Tensor row_pairs;   // [Q, k] int32; -1 behind a row's last
    at::Tensor weights;     // [Q, k] f32
    at::Tensor input_rows;  // [P] int32, P = Q k
    at::Tensor tiles;       // the seam's own
    at::Tensor terms;       // the seam's own
  };
  std::optional<OnDevice> on_device;
};

// Rows for the FFN of one layer. Without a routed adapter in the step it is the identity: `rows` are the step's own.
struct RowRouting {
  const RowSegments* rows;
  std::shared_ptr<const RoutedRows> routed = nullptr;  // holds `rows` if there are any
  at::Tensor noisy_input = {};                         // stands for x from here on; undefined: x itself does
};

// What stands in for a norm's weight and bias in some rows, ascending.
struct NormOverride {
  struct Rows {
    int64_t first = 0;
    int64_t count = 0;
    at::Tensor weight;  // [width], as a checkpoint has it, in the model's dtype; undefined: the base's
    at::Tensor bias;    // the same
  };
  std::vector<Rows> rows;
};

// Where adapters touch the base model; the only thing that layers know of adapters.
//
// Shapes   x [R, in], y [R, out] in the model's dtype and on the batch's device.
// Threads  called by the executor's thread within one forward; implementations keep no state between steps.
// Errors   throw StatusException (model/base/guarded.h): every call happens under Guarded.
class AdapterSeam {
 public:
  virtual ~AdapterSeam() = default;
  // y holds x W^T. Adds the deltas of `rows` and the bias (`base_bias` [out] or undefined); in place unless a gradient
  // is needed. Of the head, a wider y comes back when an adapter has tokens of its own.
  virtual at::Tensor FinishLinear(const SiteGroup& group, const at::Tensor& x, at::Tensor y,
                                  const at::Tensor& base_bias, const RowSegments& rows) = 0;
  // A linear layer: `base` makes x W^T [R, out], the rest is FinishLinear's. What waits for x alone may run beside it.
  virtual at::Tensor ForwardLinear(const SiteGroup& group, const at::Tensor& x, absl::FunctionRef<at::Tensor()> base,
                                   const at::Tensor& base_bias, const RowSegments& rows);
  // Whether FinishDealt does all that the adapters of `rows` do to the layer's experts. If not, the host deals the
  // rows, and FinishLinear gets the segments of their pairs.
  virtual bool FinishesDealt(int layer, const RowSegments& rows);
  // FinishLinear for experts' rows that were dealt on the device: y [P, out]. `rows` [P]: the row of x of each pair;
  // undefined: its own.
  virtual at::Tensor FinishDealt(const SiteGroup& group, const at::Tensor& x, at::Tensor y, const DealtRows& dealt,
                                 const at::Tensor& rows);
  // FinishLinear for the pairs of rows that RouteFfn routed: y [P, out]. by_row: a pair reads its row of x, else its
  // own.
  virtual at::Tensor FinishPairs(const SiteGroup& group, const at::Tensor& x, at::Tensor y, const at::Tensor& base_bias,
                                 const RoutedRows& routed, bool by_row);
  // Which rows of an FFN's input x [R, hidden] are routed, and where to.
  virtual RowRouting RouteFfn(int layer, const at::Tensor& x, const RowSegments& rows) = 0;
  // ids [R] int32, beyond the table an adapter's own; raw [R, hidden] are the base table's rows (or any), unscaled.
  virtual at::Tensor FinishEmbedding(const at::Tensor& ids, at::Tensor raw, const RowSegments& rows) = 0;
  // nullptr: every row has the base's. Valid until the next call.
  virtual const NormOverride* Norm(int layer, Site site, const RowSegments& rows) = 0;
};

// The seam of a step without adapters: adds the base's bias, nothing else.
class BaseOnlySeam final : public AdapterSeam {
 public:
  at::Tensor FinishLinear(const SiteGroup& group, const at::Tensor& x, at::Tensor y, const at::Tensor& base_bias,
                          const RowSegments& rows) override;
  RowRouting RouteFfn(int layer, const at::Tensor& x, const RowSegments& rows) override;
  at::Tensor FinishEmbedding(const at::Tensor& ids, at::Tensor raw, const RowSegments& rows) override;
  const NormOverride* Norm(int layer, Site site, const RowSegments& rows) override;
};

}  // namespace lorad
