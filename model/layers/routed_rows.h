#pragma once

#include <ATen/core/Tensor.h>

#include "model/adapter_seam.h"

namespace lorad {

// The rows of an FFN taken apart into pairs and put together again, as functions that autograd can follow.

// The row of x [R, n] of each pair: [P, n].
at::Tensor RowsOfPairs(const at::Tensor& x, const RoutedRows& routed);

// What `made` [P, n] gives the routed rows, each pair by its weight, summed in f32: added to those rows of y [R, n], or
// in their place. Where `routed.pair_weights` is defined a new tensor, which a gradient goes through; else y itself,
// written in place.
at::Tensor CombinePairs(const at::Tensor& made, const RoutedRows& routed, bool add, at::Tensor y);

// Adds (sum of a row's weights - 1) * bias [n] to the routed rows of y, which have the bias once. As CombinePairs. Rows
// that were routed on the device have weights that sum to one.
at::Tensor ScaleBias(const at::Tensor& bias, const RoutedRows& routed, at::Tensor y);

}  // namespace lorad
