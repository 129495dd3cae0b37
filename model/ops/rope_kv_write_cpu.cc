#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "model/base/status_macros.h"
#include "model/ops/check_args.h"
#include "model/ops/cpu/key_panels.h"
#include "model/ops/cpu/parallel.h"
#include "model/ops/cpu/row_kernels.h"
#include "model/ops/cpu_ops.h"

namespace lorad::cpu {
namespace {

absl::Status CheckRows(const RopeKvWriteArgs& args, const int32_t* positions, const int32_t* slots) {
  const ArgCheck check("RopeKvWrite");
  for (int64_t r = 0; r < args.qkv.size(0); ++r) {
    if (positions[r] < 0 || positions[r] >= args.cos.size(0)) {
      return check.Error("positions", absl::StrCat(positions[r], " in row ", r),
                         absl::StrCat("0 to ", args.cos.size(0) - 1));
    }
    if (slots[r] < 0) return check.Error("kv_slots", absl::StrCat(slots[r], " in row ", r), "0 or more");
  }
  return absl::OkStatus();
}

// Puts a token's key among those of its block.
void WriteKey(const std::byte* key, const KvLayout& layout, int64_t token, std::byte* keys) {
  if (!KeysInPanels(layout)) {
    const int64_t bytes = layout.head_dim * SizeBytes(layout.dtype);
    std::memcpy(keys + token * bytes, key, static_cast<size_t>(bytes));
    return;
  }
  for (int64_t w = 0; w < KeyWords(layout); ++w) {
    std::memcpy(keys + (w * kKvBlockTokens + token) * kKeyWordBytes, key + w * kKeyWordBytes, kKeyWordBytes);
  }
}

// T of the rows and the cache, W of the norms' weights.
template <typename T, typename W>
void Run(const RopeKvWriteArgs& args, const int32_t* positions, const int32_t* slots) {
  const int64_t rows = args.qkv.size(0), head_dim = args.head_dim, half = args.cos.size(1);
  const int64_t stride = args.qkv.stride(0);
  T* qkv = static_cast<T*>(args.qkv.mutable_data_ptr());
  const T* cos = static_cast<const T*>(args.cos.const_data_ptr());
  const T* sin = static_cast<const T*>(args.sin.const_data_ptr());
  const W* q_norm = args.q_norm.defined() ? static_cast<const W*>(args.q_norm.const_data_ptr()) : nullptr;
  const W* k_norm = args.k_norm.defined() ? static_cast<const W*>(args.k_norm.const_data_ptr()) : nullptr;
  const float eps = static_cast<float>(args.norm_eps);
  const KvLayout& layout = args.kv.layout;
  const int64_t head_bytes = head_dim * static_cast<int64_t>(sizeof(T));

  ParallelFor(rows, std::max<int64_t>(1, (1 << 14) / args.qkv.size(1)), [&](int64_t begin, int64_t end) {
    T* const key = reinterpret_cast<T*>(ThreadScratch(Scratch::kRows, KeyWords(layout)));
    for (int64_t r = begin; r < end; ++r) {
      T* head = qkv + r * stride;
      const T* c = cos + positions[r] * half;
      const T* s = sin + positions[r] * half;
      for (int64_t h = 0; h < args.num_heads; ++h, head += head_dim) {
        if (q_norm != nullptr) RmsNormRow(head, q_norm, head_dim, eps, head);
        RotateRow(head, c, s, half, head_dim, head);
      }
      std::byte* block = args.kv.arena + slots[r] / kKvBlockTokens * args.kv.page_bytes;
      const int64_t token = slots[r] % kKvBlockTokens;
      for (int64_t h = 0; h < args.num_kv_heads; ++h, head += head_dim) {
        const T* from = head;
        if (k_norm != nullptr) {
          RmsNormRow(head, k_norm, head_dim, eps, key);
          from = key;
        }
        RotateRow(from, c, s, half, head_dim, key);
        WriteKey(reinterpret_cast<const std::byte*>(key), layout, token,
                 block + layout.head_offset_bytes(args.layer, false, h));
      }
      for (int64_t h = 0; h < args.num_kv_heads; ++h, head += head_dim) {
        std::memcpy(block + layout.head_offset_bytes(args.layer, true, h) + token * head_bytes, head,
                    static_cast<size_t>(head_bytes));
      }
    }
  });
}

}  // namespace

absl::Status RopeKvWrite(const RopeKvWriteArgs& args) {
  if (args.qkv.size(0) == 0) return absl::OkStatus();
  const int32_t* positions = args.positions.const_data_ptr<int32_t>();
  const int32_t* slots = args.kv_slots.const_data_ptr<int32_t>();
  RETURN_IF_ERROR(CheckRows(args, positions, slots));
  if (args.qkv.scalar_type() == at::kFloat) {
    Run<float, float>(args, positions, slots);
  } else if (args.q_norm.defined() && args.q_norm.scalar_type() == at::kFloat) {
    Run<uint16_t, float>(args, positions, slots);
  } else {
    Run<uint16_t, uint16_t>(args, positions, slots);
  }
  return absl::OkStatus();
}

}  // namespace lorad::cpu
