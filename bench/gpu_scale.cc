#include "bench/gpu_scale.h"

namespace lorad::bench {

Scale Large() {
  return {
      .copied_bytes = int64_t{2} << 30,
      .matrix_side = 8192,
      .compared = {{64, 0}, {64, 8}, {64, 16}, {64, 64}, {300, 16}, {512, 64}},
      .compared_tokens = 16,
      .decode_batches = {1, 32, 128},
      .sampled_batch = 32,
      .decode = {"", 128, 128},
      .prefill_streams = 8,
      .prefill = {"", 2048, 1},
      .prefill_ranks = {16, 64},
      .kept_streams = 64,
      .kept_requests = 128,
      .rounds = 3,
      .kept = {"", 64, 64},
      .series = {{"r8", {8}, {1, 8, 100, 400}}, {"r16", {16}, {1}}, {"r8-64", {8, 16, 32, 64}, {1, 8, 100, 200, 400}}},
      .cold_streams = 16,
      .cold_loads = 16,
      .beside_cold = {"", 64, 512},
      .slots = 16,
      .slot_streams = 8,
      .slot_requests = 96,
      .slot = {"", 64, 32}};
}

Scale Small() {
  return {.copied_bytes = int64_t{64} << 10,
          .matrix_side = 32,
          .compared = {{24, 0}, {24, 8}, {40, 64}},
          .compared_tokens = 10,
          .decode_batches = {1, 3},
          .sampled_batch = 3,
          .decode = {"", 4, 4},
          .prefill_streams = 2,
          .prefill = {"", 24, 1},
          .prefill_ranks = {16},
          .kept_streams = 2,
          .kept_requests = 3,
          .rounds = 1,
          .kept = {"", 3, 2},
          .series = {{"r8", {8}, {1, 3}}, {"r8-64", {8, 64}, {2}}},
          .cold_streams = 2,
          .cold_loads = 2,
          .beside_cold = {"", 3, 12},
          .slots = 2,
          .slot_streams = 1,
          .slot_requests = 6,
          .slot = {"", 3, 2}};
}

}  // namespace lorad::bench
