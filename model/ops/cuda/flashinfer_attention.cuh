#pragma once

#include <exception>

#include <flashinfer/attention/default_prefill_params.cuh>
#include <flashinfer/attention/mask.cuh>
#include <flashinfer/attention/prefill.cuh>
#include <flashinfer/attention/variants.cuh>
#include <flashinfer/page.cuh>

#include "model/kv/kv_layout.h"
#include "model/ops/cuda/flashinfer_attention.h"

// One head size of FlashInfer's paged attention (its FA2 form for sm_80 and later), told its work by our plan. Decode
// and prefill are the same kernel by tiles of other sizes.
namespace lorad::cuda {

template <int kHeadDim, int kTileRows, bool kCapped>
cudaError_t RunFlashInferTiles(const AttentionRows<__nv_bfloat16>& rows, const AttentionTiles& tiles,
                               cudaStream_t stream) {
  using Params = flashinfer::BatchPrefillPagedParams<__nv_bfloat16, __nv_bfloat16, __nv_bfloat16, int32_t>;
  using Variant = flashinfer::DefaultAttention</*use_custom_mask=*/false, /*use_sliding_window=*/true, kCapped,
                                               /*use_alibi=*/false>;
  const KvLayer& kv = rows.kv;
  auto* const arena = reinterpret_cast<__nv_bfloat16*>(kv.arena);
  constexpr int64_t kBytes = sizeof(__nv_bfloat16);
  const int64_t strides[] = {kv.page_bytes / kBytes, kv.head_bytes / kBytes, kv.head_dim};  // page, head, token
  Params params;
  params.q = const_cast<__nv_bfloat16*>(rows.q.data);
  params.paged_kv = flashinfer::paged_kv_t<__nv_bfloat16, int32_t>(
      static_cast<uint32_t>(kv.kv_heads), static_cast<uint32_t>(kKvBlockTokens), kHeadDim,
      static_cast<uint32_t>(rows.sequences), flashinfer::QKVLayout::kHND, arena + kv.key_offset_bytes / kBytes,
      arena + kv.value_offset_bytes / kBytes, strides, const_cast<int32_t*>(rows.block_table), tiles.table_starts,
      tiles.last_tokens);
  params.q_indptr = const_cast<int32_t*>(rows.cu_rows);
  params.o = rows.y.data;
  params.group_size = flashinfer::uint_fastdiv(static_cast<uint32_t>(rows.heads / kv.kv_heads));
  params.num_qo_heads = static_cast<uint32_t>(rows.heads);
  params.q_stride_n = static_cast<int32_t>(rows.q.stride);
  params.q_stride_h = kHeadDim;
  params.window_left = rows.window_tokens > 0 ? static_cast<int32_t>(rows.window_tokens - 1) : -1;
  params.logits_soft_cap = rows.softcap;
  params.sm_scale = rows.scale;
  params.rope_rcp_scale = params.rope_rcp_theta = 1.0f;
  params.request_indices = tiles.sequences;
  params.qo_tile_indices = tiles.tiles;
  params.kv_tile_indices = tiles.chunks;
  params.merge_indptr = tiles.row_parts;
  params.o_indptr = tiles.first_parts;
  params.block_valid_mask = tiles.valid;
  params.kv_chunk_size_ptr = tiles.chunk_tokens_there;
  params.max_total_num_rows = static_cast<uint32_t>(rows.rows);
  params.total_num_rows = tiles.rows_there;
  params.padded_batch_size = static_cast<uint32_t>(tiles.items);
  const bool parted = tiles.most_chunks > 1;
  try {
    return flashinfer::BatchPrefillWithPagedKVCacheDispatched<
        /*SAME_KV_STRIDES=*/true, kTileRows, kHeadDim, kHeadDim, flashinfer::PosEncodingMode::kNone,
        /*USE_FP16_QK_REDUCTION=*/false, flashinfer::MaskMode::kCausal, Variant>(
        params, parted ? static_cast<__nv_bfloat16*>(tiles.parts) : nullptr, parted ? tiles.part_weights : nullptr,
        /*enable_pdl=*/false, stream);
  } catch (const std::exception&) {  // a size that the device has not enough shared memory for
    return cudaErrorNotSupported;
  }
}

}  // namespace lorad::cuda
