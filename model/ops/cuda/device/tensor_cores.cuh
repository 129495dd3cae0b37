#pragma once

// Instructions on bf16, sm_80 on. A warp's product on tensor cores: c += a b, with a [16, 16] and b [16, 8] in bf16, c
// [16, 8] in f32. What each lane holds is the PTX ISA's layout of mma.m16n8k16; model/ops/cuda/operand_tiles.cuh reads
// it from shared memory. On the include path of the block emulator (tests/cuda_emulator) stands one that multiplies in
// a loop.
namespace lorad::cuda {

// By all lanes of a warp together.
__device__ inline void MmaBf16(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Two bf16 at once, rounded once: a b + c. Denormal numbers are kept.
__device__ inline unsigned MultiplyAddPairs(unsigned a, unsigned b, unsigned c) {
  unsigned d;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;\n" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}

}  // namespace lorad::cuda
