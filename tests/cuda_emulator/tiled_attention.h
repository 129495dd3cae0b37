#pragma once

// What an emulated device has for FlashInfer: loops that read our plan as its kernels do, which no emulator runs.
namespace lorad::emulator {

enum class TiledAttention { kRight, kWrong, kFails };
// From now on; kRight at start.
void SetTiledAttention(TiledAttention how);
// How often it ran.
int TiledAttentionRuns();
// Into how many chunks the plan of the last run cut a context at most.
int TiledAttentionChunks();

}  // namespace lorad::emulator
