#pragma once

#include <cstdint>
#include <map>
#include <tuple>
#include <vector>

#include <ATen/core/Tensor.h>

#include "adapters/train/micro_batch_part.h"
#include "model/sites.h"

namespace lorad {

// What a router made of a part's rows. Where a forward is recorded, probabilities and squares are.
struct RouterSums {
  int64_t rows = 0;
  at::Tensor probabilities;  // [experts], sums over rows
  at::Tensor chosen;         // [experts], how many rows chose each
  at::Tensor squares;        // [], the sum over rows of logsumexp(logits) squared
};

// The routers' losses of a micro-batch, one for each part, over the rows of all its routers together, or of all parts
// with the same tally:
//
//   aux_loss_coef * E * sum_e F[e] P[e] + z_loss_coef * mean(logsumexp(logits)^2)
//
// F[e] is the share of rows that chose e, a constant; P[e] the mean of its probability. F is known when the forward is
// done; from then on the loss is a sum over places, and is followed down layer by layer with the rest.
//
// Source   the router losses of MoE-PEFT 2.0.2's adapters/mixlora/model.py, without rows of padding.
class RouterLoss final {
 public:
  explicit RouterLoss(const std::vector<MicroBatchPart>* parts) : parts_(*parts) {}  // outlive it

  // Of a place that is computed again, in place of what it made before.
  void Put(int32_t part, Site site, int32_t layer, RouterSums sums);

  // The forward is done: adds to the tallies that are not complete. [parts], unscaled; 0 of a part without such a loss.
  std::vector<double> Values();

  // What is to be followed down with `layer`, in the order of its places, and the scaled loss's derivatives by it.
  // After Values; gives each up.
  void TakeRoots(int32_t layer, std::vector<at::Tensor>* roots, std::vector<at::Tensor>* gradients);

 private:
  struct Totals {
    int64_t rows = 0;          // of the part, or its tally
    at::Tensor chosen;         // [experts] f64, of the same rows
    at::Tensor probabilities;  // [experts] f64, of the part
    at::Tensor squares;        // [] f64
  };
  void JoinTallies();

  using Place = std::tuple<int32_t, int32_t, Site>;  // layer, part, site

  const std::vector<MicroBatchPart>& parts_;
  std::map<Place, RouterSums> sums_;
  std::vector<Totals> totals_;  // by part
};

}  // namespace lorad
