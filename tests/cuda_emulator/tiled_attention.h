#pragma once

#include <cstdint>

// What an emulated device has for FlashInfer: loops that read our plan as its kernels do, which no emulator runs.
namespace lorad::emulator {

enum class TiledAttention { kRight, kWrong, kFails };
// From now on, for heads so large (0: all; the others are right); kRight at start.
void SetTiledAttention(TiledAttention how, int64_t head_dim = 0);
// How often it ran.
int TiledAttentionRuns();
// Into how many chunks the plan of the last run cut a context at most.
int TiledAttentionChunks();

}  // namespace lorad::emulator
