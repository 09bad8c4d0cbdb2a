// What the kernels need of the machine: types, warp shuffles, asynchronous copies into shared memory, matrix products
// of a warp. Plain PTX, no torch header. Under FOSTER_EMULATE the same names run on a CPU (tests/ops/emulate), so that
// the kernels can be tested where there is no GPU.
#pragma once

#include <cstdint>

#if defined(FOSTER_EMULATE)
#include "emulate.h"
#else
#include <cuda_runtime.h>
#define FOSTER_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#define FOSTER_LAUNCH(kernel, grid, block, shared, stream, ...) kernel<<<grid, block, shared, stream>>>(__VA_ARGS__)
#endif

namespace foster::cuda {

// bfloat16 as its bits; arithmetic is done in float.
struct bf16 {
  uint16_t bits;
};

// To the type T, to the nearest, ties to even; NaN stays NaN.
template <class T>
__host__ __device__ inline T narrow(float x);
template <>
__host__ __device__ inline float narrow<float>(float x) {
  return x;
}
template <>
__host__ __device__ inline bf16 narrow<bf16>(float x) {
  uint32_t bits;
#if defined(__CUDA_ARCH__)
  bits = __float_as_uint(x);
#else
  __builtin_memcpy(&bits, &x, sizeof bits);
#endif
  if (x != x) return {static_cast<uint16_t>(0x7fc0)};
  return {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}
template <class T>
__host__ __device__ inline T narrow(double x) {
  return x;
}

// The type sums are kept in, and how shared memory is laid out: strides are padded so that no two lanes of a load meet
// in one bank.
template <class S>
struct Layout {
  using Sum = float;
  static constexpr int unit = 16 / sizeof(S);     // elements of one asynchronous copy
  static constexpr int chunk = 128 / sizeof(S);   // of a row of X or Y that is in shared memory at once
  static constexpr int stride = chunk + unit;     // of such a row
  static constexpr int slice = 64 / sizeof(S);    // items of Z in shared memory at once: 32 bf16, 16 float
  static constexpr int z_pad = 8;
  static constexpr int w_stride = 64 + unit;
};
template <>
struct Layout<double> {
  using Sum = double;
  static constexpr int unit = 2, chunk = 16, stride = 18, slice = 8, z_pad = 2, w_stride = 66;
};

#if !defined(FOSTER_EMULATE)

__device__ inline uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

// Copies `bytes` (0 or 16) from global to shared memory, the rest of 16 becomes 0.
__device__ inline void copy_async(void* to, const void* from, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared_address(to)), "l"(from), "r"(bytes));
}
__device__ inline void copies_commit() { asm volatile("cp.async.commit_group;\n"); }
template <int kLeft>
__device__ inline void copies_wait() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kLeft) : "memory");
}

// Four 8 x 8 matrices of bf16; lane i gives the address of row i % 8 of matrix i / 8.
__device__ inline void load_matrices(uint32_t (&out)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(shared_address(row))
               : "memory");
}
__device__ inline void load_matrices_transposed(uint32_t (&out)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(shared_address(row))
               : "memory");
}

// c (16, 8) += a (16, 16) b (16, 8) in bf16, and c (16, 8) += a (16, 8) b (8, 8) in TF32.
__device__ inline void mma_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ inline void mma_tf32(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// The bits of x rounded to TF32.
__device__ inline uint32_t to_tf32(float x) {
  uint32_t out;
  asm("cvt.rna.tf32.f32 %0, %1;\n" : "=r"(out) : "f"(x));
  return out;
}

template <class A>
__device__ inline A lane_xor(A x, int mask) {
  return __shfl_xor_sync(0xffffffffu, x, mask);
}
__device__ inline float bits_float(uint32_t x) { return __uint_as_float(x); }

#endif  // FOSTER_EMULATE

__device__ inline float exponential(float x) { return expf(x); }
__device__ inline double exponential(double x) { return exp(x); }
__device__ inline float larger(float a, float b) { return fmaxf(a, b); }
__device__ inline double larger(double a, double b) { return fmax(a, b); }

// Sum over the four lanes that share a row of a product.
template <class A>
__device__ inline A row_sum(A x) {
  x += lane_xor(x, 1);
  return x + lane_xor(x, 2);
}
template <class A>
__device__ inline A row_largest(A x) {
  x = larger(x, lane_xor(x, 1));
  return larger(x, lane_xor(x, 2));
}

// By how much sums shrink when the largest score goes from `before` to `now`.
template <class A>
__device__ inline A shrink(A before, A now) {
  return before == now ? A(1) : exponential(before - now);
}

}  // namespace foster::cuda
