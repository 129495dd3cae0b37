#pragma once

// What an emulated device has for CUTLASS: loops that read our problems as its kernel does, which no emulator runs.
namespace lorad::emulator {

enum class GroupedLoops { kRight, kWrong, kFails };
// From now on; kRight at start.
void SetGroupedLoops(GroupedLoops how);
// How often they ran.
int GroupedLoopsRuns();

}  // namespace lorad::emulator
