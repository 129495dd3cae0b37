#pragma once

#include <functional>
#include <string>

#include <ATen/core/Tensor.h>

namespace lorad {

// Holds each derivative by an element of `leaf` (some forty of them), f64, that backward() leaves in leaf.grad()
// against the difference of value() on both sides of it.
void ExpectGradient(const std::string& name, at::Tensor leaf, const std::function<double()>& value,
                    const std::function<void()>& backward);

// The same of a loss that autograd follows.
void ExpectGradient(const std::string& name, at::Tensor leaf, const std::function<at::Tensor()>& loss);

}  // namespace lorad
