#include <algorithm>
#include <optional>
#include <utility>

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>

#include "absl/strings/str_cat.h"
#include "model/base/status_macros.h"
#include "model/ops/compare_forms_cuda.h"
#include "model/ops/cuda/grouped_gemm.h"
#include "model/ops/cuda/tensor_rows.h"
#include "model/ops/cuda_ops.h"

// The products of experts whose rows were dealt on the device: ours, or on tensor cores by a library's grouped GEMM.
namespace lorad::cuda {
namespace {

using Bf16 = __nv_bfloat16;

// Our kernels read an expert's weights for each eight of its rows and multiply outside of tensor cores: with more rows
// of a step, matmuls that the host deals are the faster.
constexpr int64_t kFewDealtRows = 64;

// Whether the grouped GEMM is used. At start it is not; CheckGroupedGemm and LeaveOutGroupedGemm alone
// change it.
bool& TrustsGroupedGemm() {
  static bool trusts = false;
  return trusts;
}

const std::byte* const* AddressesOf(const at::Tensor& table) {
  return reinterpret_cast<const std::byte* const*>(table.const_data_ptr<int64_t>());
}

template <typename T>
DealtProducts<T> ProductsOf(const DealtLinearArgs& args) {
  DealtProducts<T> products = {.experts = args.starts.size(0) - 1,
                               .pairs = args.y.size(0),
                               .most_rows = std::min(args.most_rows, args.y.size(0)),
                               .in = args.x.size(1),
                               .starts = args.starts.const_data_ptr<int32_t>(),
                               .input_rows = DataOf<int32_t>(args.rows),
                               .x = RowsOf<T>(args.x),
                               .y = MutableRowsOf<T>(args.y),
                               .parts = {},
                               .num_parts = 0};
  for (const DealtLinearPart& part : args.parts) {
    products.parts[products.num_parts++] = {AddressesOf(part.weights.addresses()), part.first_column,
                                            part.weights.out_features()};
  }
  return products;
}

bool Covers(const GroupedGemm& gemm, const DealtLinearArgs& args) {
  const auto fits = [&](int64_t elements) { return elements % gemm.alignment == 0; };
  const auto lies = [&](const at::Tensor& t) {
    const auto address = reinterpret_cast<uintptr_t>(t.const_data_ptr());
    return fits(t.stride(0)) && address % static_cast<uintptr_t>(gemm.alignment * t.element_size()) == 0;
  };
  return lies(args.x) && lies(args.y) && fits(args.x.size(1)) &&
         std::all_of(args.parts.begin(), args.parts.end(), [&](const DealtLinearPart& part) {
           return fits(part.first_column) && fits(part.weights.out_features()) &&
                  part.weights.alignment() >= gemm.alignment * args.x.element_size();
         });
}

// `products` of these rows of x; `rows` as DealtLinearArgs has them.
absl::Status RunGrouped(const GroupedGemm& gemm, DealtProducts<Bf16> products, const at::Tensor& x,
                        const at::Tensor& rows) {
  const cudaStream_t stream = StreamOf(x);
  at::Tensor gathered;
  if (rows.defined()) {
    gathered = at::empty({products.pairs, products.in}, x.options());
    const GatheredRows<Bf16> from = {products.pairs, products.in,     products.input_rows,          0,
                                     x.size(0),      RowsOf<Bf16>(x), MutableRowsOf<Bf16>(gathered)};
    RETURN_IF_ERROR(StatusOf("DealtLinear", LaunchGatherRows(from, /*add=*/false, stream)));
    products.x = RowsOf<Bf16>(gathered);
    products.input_rows = nullptr;
  }
  GroupedProblems problems = {};
  const int64_t bytes = PlaceProblems(products, nullptr, &problems);
  const at::Tensor memory = at::empty({bytes}, x.options().dtype(at::kByte));
  PlaceProblems(products, static_cast<std::byte*>(memory.mutable_data_ptr()), &problems);
  RETURN_IF_ERROR(StatusOf("DealtLinear", LaunchGroupedProblems(products, problems, stream)));
  return StatusOf(gemm.name, gemm.run(problems, stream));
}

// Rows that all choose expert 1 and one other: some experts have many, the first and the last none.
struct CheckedRows {
  int64_t rows, experts;
};

// What the grouped GEMM or our kernel makes of them, f32 on the host.
absl::StatusOr<at::Tensor> Multiply(const CheckedRows& checked, bool grouped) {
  constexpr int64_t kChoices = 2, kIn = 264;
  constexpr int64_t kColumns[] = {136, 8}, kFirstColumns[] = {8, 0};
  constexpr double kScale = 1.0 / 16;  // results within 2
  std::vector<int32_t> chosen;
  for (int64_t r = 0; r < checked.rows; ++r) {
    chosen.push_back(static_cast<int32_t>(2 + r * 7 % (checked.experts - 3)));
    chosen.push_back(1);
  }
  const at::Tensor experts = IntsOnDevice(chosen, {checked.rows, kChoices});
  const at::Tensor weights = at::full({checked.rows, kChoices}, 1.0f, experts.options().dtype(at::kFloat));
  const DealtRows dealt = DealtRows::Empty(checked.rows, kChoices, checked.experts, experts.device());
  RETURN_IF_ERROR(DealToExperts({experts, weights, dealt}));
  const at::Tensor x = DrawnOnDevice(checked.rows, kIn, /*seed=*/3);
  at::Tensor y = at::full({dealt.num_pairs(), kColumns[0] + kColumns[1]}, 0.0f, x.options());
  DealtProducts<Bf16> products = {.experts = checked.experts,
                                  .pairs = dealt.num_pairs(),
                                  .most_rows = checked.rows,
                                  .in = kIn,
                                  .starts = dealt.starts.const_data_ptr<int32_t>(),
                                  .input_rows = dealt.rows.const_data_ptr<int32_t>(),
                                  .x = RowsOf<Bf16>(x),
                                  .y = MutableRowsOf<Bf16>(y),
                                  .parts = {},
                                  .num_parts = 2};
  at::Tensor stacks[2], tables[2];
  for (int part = 0; part < products.num_parts; ++part) {
    const int64_t columns = kColumns[part], expert_bytes = columns * kIn * int64_t{sizeof(Bf16)};
    stacks[part] = DrawnOnDevice(checked.experts * columns, kIn, /*seed=*/100 + static_cast<uint64_t>(part));
    stacks[part].mul_(kScale);
    const at::Tensor table = at::empty({checked.experts}, at::kLong);
    const auto begin = reinterpret_cast<int64_t>(stacks[part].const_data_ptr());
    for (int64_t e = 0; e < checked.experts; ++e) table.mutable_data_ptr<int64_t>()[e] = begin + e * expert_bytes;
    tables[part] = table.to(x.device());
    products.parts[part] = {AddressesOf(tables[part]), kFirstColumns[part], columns};
  }
  if (grouped) {
    RETURN_IF_ERROR(RunGrouped(LinkedGroupedGemm(), products, x, dealt.rows));
  } else {
    RETURN_IF_ERROR(StatusOf("DealtLinear", LaunchDealtProducts(products, StreamOf(x))));
  }
  return y.to(at::kFloat).cpu();
}

}  // namespace

absl::Status DealtLinear(const DealtLinearArgs& args) {
  if (args.y.numel() == 0) return absl::OkStatus();
  const Quantization quantization = args.parts[0].weights.quantization();
  const bool quantized = quantization != Quantization::kNone;
  if (!quantized && args.x.scalar_type() == at::kBFloat16 && TrustsGroupedGemm()) {
    if (const GroupedGemm& gemm = LinkedGroupedGemm(); Covers(gemm, args)) {
      return RunGrouped(gemm, ProductsOf<Bf16>(args), args.x, args.rows);
    }
  }
  return StatusOf("DealtLinear", ForTypeOf(args.x, [&](auto of_rows) {
                    const auto products = ProductsOf<decltype(of_rows)>(args);
                    const cudaStream_t stream = StreamOf(args.x);
                    return quantized ? LaunchDealtQuantized(products, quantization, stream)
                                     : LaunchDealtProducts(products, stream);
                  }));
}

bool DealsOnDevice(const DealsOnDeviceArgs& args) {
  if (args.rows <= kFewDealtRows) return true;
  return args.dtype == at::kBFloat16 && args.quantization == Quantization::kNone && TrustsGroupedGemm();
}

std::vector<std::string> CheckGroupedGemm(std::vector<std::string>* used) {
  constexpr double kLimit = 1e-2;  // both round sums in f32 to bf16
  std::vector<std::string> objections;
  for (const CheckedRows& checked : {CheckedRows{8, 40}, CheckedRows{150, 6}}) {
    const std::optional<std::string> objection =
        ObjectionTo([&] { return Multiply(checked, true); }, [&] { return Multiply(checked, false); }, kLimit);
    if (!objection.has_value()) continue;
    objections.push_back(absl::StrCat("experts by ", LinkedGroupedGemm().name, ", ", checked.rows,
                                      " rows: ", *objection, "; ours and cuBLAS are used"));
    break;
  }
  TrustsGroupedGemm() = objections.empty();
  if (used != nullptr && objections.empty()) used->push_back(absl::StrCat("experts by ", LinkedGroupedGemm().name));
  return objections;
}

void LeaveOutGroupedGemm() { TrustsGroupedGemm() = false; }

}  // namespace lorad::cuda
