#pragma once

#include <cstddef>

// Who of a launch touched which bytes of the device's memory: two threads race when at least one of them writes and
// nothing orders them, which is a barrier of the block, or of the warp if it is theirs; threads of two blocks are never
// ordered. AddressSanitizer's calls before each access of a kernel's (--param
// asan-instrumentation-with-call-threshold=0) come here first. Fibres' stacks and what the program itself holds (shared
// memory, which has its own history) are left out.
namespace lorad::emulator {

// An access that is atomic races with others that are not.
void AtomicAccess(const void* at, size_t bytes);

// A new launch: all before it is ordered.
void StartLaunch();

}  // namespace lorad::emulator
