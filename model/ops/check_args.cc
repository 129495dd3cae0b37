#include "model/ops/check_args.h"

#include "absl/strings/str_cat.h"
#include "model/base/status_macros.h"

namespace lorad {

std::string ShapeOf(const at::Tensor& t) {
  if (!t.defined()) return "undefined";
  std::string shape = "[";
  for (int64_t i = 0; i < t.dim(); ++i) absl::StrAppend(&shape, i == 0 ? "" : ", ", t.size(i));
  return absl::StrCat(shape, "] ", c10::toString(t.scalar_type()));
}

namespace {
std::string Wanted(at::ScalarType dtype, std::initializer_list<int64_t> shape) {
  std::string text = "[";
  const char* separator = "";
  for (int64_t size : shape) {
    if (size == ArgCheck::kAny) {
      absl::StrAppend(&text, separator, "any");
    } else {
      absl::StrAppend(&text, separator, size);
    }
    separator = ", ";
  }
  return absl::StrCat(text, "] ", c10::toString(dtype));
}
}  // namespace

absl::Status ArgCheck::Error(std::string_view name, std::string_view value, std::string_view limit) const {
  return absl::InvalidArgumentError(absl::StrCat(std::string(op_), ": ", std::string(name), ": ", std::string(value),
                                                 "; limit: ", std::string(limit)));
}

absl::Status ArgCheck::Tensor(std::string_view name, const at::Tensor& t, at::ScalarType dtype,
                              std::initializer_list<int64_t> shape) const {
  bool good = t.defined() && t.scalar_type() == dtype && t.dim() == static_cast<int64_t>(shape.size());
  if (good) {
    int64_t i = 0;
    for (int64_t size : shape) {
      good = good && (size == kAny || t.size(i) == size);
      ++i;
    }
  }
  if (!good) return Error(name, ShapeOf(t), Wanted(dtype, shape));
  if (t.dim() > 0 && t.stride(-1) != 1 && t.size(-1) > 1) return Error(name, "last dimension strided", "contiguous");
  return absl::OkStatus();
}

absl::Status ArgCheck::Contiguous(std::string_view name, const at::Tensor& t, at::ScalarType dtype,
                                  std::initializer_list<int64_t> shape) const {
  RETURN_IF_ERROR(Tensor(name, t, dtype, shape));
  if (!t.is_contiguous()) return Error(name, absl::StrCat(ShapeOf(t), " strided"), "contiguous");
  return absl::OkStatus();
}

absl::Status ArgCheck::Floating(std::string_view name, const at::Tensor& t) const {
  if (!t.defined() || (t.scalar_type() != at::kFloat && t.scalar_type() != at::kBFloat16)) {
    return Error(name, ShapeOf(t), "Float or BFloat16");
  }
  return absl::OkStatus();
}

absl::Status ArgCheck::NormWeight(std::string_view name, const at::Tensor& t, at::ScalarType dtype,
                                  int64_t size) const {
  const bool wide = t.defined() && t.scalar_type() == at::kFloat;
  return Contiguous(name, t, wide ? at::kFloat : dtype, {size});
}

absl::Status ArgCheck::SameDevice(const at::Tensor& a, std::string_view name, const at::Tensor& b) const {
  if (a.device() != b.device()) return Error(name, b.device().str(), absl::StrCat("device ", a.device().str()));
  return absl::OkStatus();
}

}  // namespace lorad
