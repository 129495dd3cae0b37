// Whether the fast form of attention computes on the device at hand what ours does.
#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <ATen/ops/empty.h>
#include <c10/core/InferenceMode.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "model/base/status_macros.h"
#include "model/kv/kv_layout.h"
#include "model/ops/compare_forms_cuda.h"
#include "model/ops/cuda/fast_attention.h"
#include "model/ops/cuda_ops.h"
#include "model/ops/fast_attention_cuda.h"

namespace lorad::cuda {
namespace {

constexpr int64_t kLayers = 2;

struct CheckedSequence {
  int64_t context, rows;
};

// A small batch. What a kernel of the fast form is compiled for is the size of heads, the tile and whether there is a
// softcap; it learns of the rest when it runs. So each size has cases with tiles of few and of many rows, with and
// without chunks of the context, both under windows and without, and in these lie the groups of query heads that models
// have, pages that are not a block and layers that are not the first.
struct CheckedCase {
  int64_t heads, kv_heads;
  int64_t window_tokens;
  std::vector<CheckedSequence> sequences;
  int64_t layer = 0;
  int64_t pages_of_block = 1, blocks_of_page = 1;
  double softcap = 0.0;

  int64_t blocks() const {
    int64_t sum = 0;
    for (const CheckedSequence& sequence : sequences) sum += CeilDiv(sequence.context, kKvBlockTokens);
    return sum;
  }
  KvLayout Layout(int64_t head_dim) const {
    return {.num_layers = kLayers, .num_kv_heads = kv_heads, .head_dim = head_dim, .dtype = DType::kBF16};
  }
  int64_t arena_bytes(int64_t head_dim) const { return blocks() * Layout(head_dim).block_bytes() * blocks_of_page; }
};

std::vector<CheckedCase> CasesOf(bool with_softcap) {
  const std::vector<CheckedSequence> decode = {{300, 1}, {80, 1}}, prompt = {{300, 1}, {80, 75}, {17, 1}};
  std::vector<CheckedCase> cases = {
      // Tiles of few rows: three chunks, one.
      {.heads = 4, .kv_heads = 1, .window_tokens = 0, .sequences = {{530, 1}, {80, 1}, {17, 1}}, .layer = 1},
      {.heads = 8, .kv_heads = 1, .window_tokens = 0, .sequences = {{80, 1}, {33, 2}}, .pages_of_block = 2},
      {.heads = 16, .kv_heads = 1, .window_tokens = 33, .sequences = decode},
      {.heads = 6, .kv_heads = 2, .window_tokens = 270, .sequences = {{320, 1}, {290, 1}, {17, 1}}},
      // Of many: two chunks, one.
      {.heads = 4, .kv_heads = 2, .window_tokens = 0, .sequences = prompt},
      {.heads = 3, .kv_heads = 3, .window_tokens = 0, .sequences = {{80, 75}, {33, 3}}, .blocks_of_page = 2},
      {.heads = 5, .kv_heads = 1, .window_tokens = 33, .sequences = prompt, .layer = 1, .pages_of_block = 2},
      {.heads = 14, .kv_heads = 2, .window_tokens = 270, .sequences = {{320, 1}, {290, 6}, {17, 1}}},
  };
  if (with_softcap) {
    cases.push_back({.heads = 4, .kv_heads = 2, .window_tokens = 0, .sequences = prompt, .softcap = 2.5});
    cases.push_back({.heads = 4, .kv_heads = 2, .window_tokens = 270, .sequences = decode, .softcap = 2.5});
  }
  return cases;
}

// What PagedAttention makes of the case with keys and values out of `arena`, on the host in f32.
absl::StatusOr<at::Tensor> Attend(const CheckedCase& checked, int64_t head_dim, at::Tensor& arena) {
  int64_t most_blocks = 0;
  for (const CheckedSequence& each : checked.sequences) {
    most_blocks = std::max(most_blocks, CeilDiv(each.context, kKvBlockTokens));
  }
  std::vector<int32_t> positions, cu_rows = {0}, table;
  int64_t next = checked.blocks();
  for (const auto& [context, count] : checked.sequences) {
    for (int64_t i = 0; i < count; ++i) positions.push_back(static_cast<int32_t>(context - count + i));
    cu_rows.push_back(static_cast<int32_t>(positions.size()));
    for (int64_t b = 0; b < most_blocks; ++b) {
      const bool there = b < CeilDiv(context, kKvBlockTokens);
      table.push_back(there ? static_cast<int32_t>(--next * checked.pages_of_block) : -1);
    }
  }
  const auto rows = static_cast<int64_t>(positions.size()), count = std::ssize(checked.sequences);
  KvView kv;
  kv.layout = checked.Layout(head_dim);
  kv.page_bytes = kv.layout.block_bytes() * checked.blocks_of_page / checked.pages_of_block;
  kv.arena = static_cast<std::byte*>(arena.mutable_data_ptr());
  // As a layer has it, beside its k and v.
  const at::Tensor qkv = DrawnOnDevice(rows, (checked.heads + 2 * checked.kv_heads) * head_dim, /*seed=*/2);
  const at::Tensor q = qkv.narrow(1, 0, checked.heads * head_dim);
  at::Tensor y = at::empty({rows, checked.heads * head_dim}, q.options());
  y.fill_(7.0);  // its memory may be the other form's, with the right numbers in it
  RETURN_IF_ERROR(PagedAttention({.q = q,
                                  .num_heads = checked.heads,
                                  .positions = IntsOnDevice(positions, {rows}),
                                  .cu_rows = IntsOnDevice(cu_rows, {count + 1}),
                                  .block_table = IntsOnDevice(table, {count, most_blocks}),
                                  .layer = checked.layer,
                                  .window_tokens = checked.window_tokens,
                                  .scale = 1.0 / std::sqrt(static_cast<double>(head_dim)),
                                  .softcap = checked.softcap,
                                  .kv = kv,
                                  .y = y}));
  return y.to(at::kFloat).cpu();
}

// What speaks against the fast form of heads of this size, or nothing.
std::optional<std::string> Objection(const FastAttention& fast, int64_t head_dim) {
  constexpr double kLimit = 1e-2;  // values are within 1, and both round them to bf16, the fast form's weights as well
  const std::vector<CheckedCase> cases = CasesOf(fast.caps(head_dim));
  at::Tensor arena;
  const auto attend = [&](const CheckedCase& checked, std::vector<int64_t> trusted) {
    if (!arena.defined()) {
      int64_t bytes = 0;
      for (const CheckedCase& each : cases) bytes = std::max(bytes, each.arena_bytes(head_dim));
      arena = DrawnOnDevice(1, bytes / SizeBytes(DType::kBF16), /*seed=*/1);
    }
    TrustFastAttention(std::move(trusted));
    return Attend(checked, head_dim, arena);
  };
  for (const CheckedCase& checked : cases) {
    const std::optional<std::string> objection =
        ObjectionTo([&] { return attend(checked, {head_dim}); }, [&] { return attend(checked, {}); }, kLimit);
    if (!objection.has_value()) continue;
    return absl::StrCat("attention by ", fast.name, ", head size ", head_dim, ", ", checked.heads, " heads on ",
                        checked.kv_heads, ", window ", checked.window_tokens, ": ", *objection, "; ours is used");
  }
  return std::nullopt;
}

}  // namespace

std::vector<std::string> CheckFastAttention(std::vector<std::string>* used) {
  const c10::InferenceMode no_autograd;
  const FastAttention& fast = LinkedFastAttention();
  std::vector<std::string> objections;
  std::vector<int64_t> agreed;
  for (const int64_t head_dim : fast.head_dims) {
    std::optional<std::string> objection = Objection(fast, head_dim);
    if (objection.has_value()) {
      objections.push_back(*std::move(objection));
    } else {
      agreed.push_back(head_dim);
    }
  }
  if (used != nullptr && !agreed.empty()) {
    used->push_back(absl::StrCat("attention by ", fast.name, " of heads of ", absl::StrJoin(agreed, ", ")));
  }
  TrustFastAttention(std::move(agreed));
  return objections;
}

void LeaveOutFastAttention() { TrustFastAttention({}); }

}  // namespace lorad::cuda
