// The hardware primitives of the kernels: types, warp shuffles, asynchronous copies to shared memory and the matrix
// products of a warp (mma), in PTX. With FOSTER_EMULATE, tests/ops/emulate defines the same functions for a CPU, so
// that the kernels can be tested without a GPU.
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

// The bits of a bfloat16; arithmetic is done in float.
struct bf16 {
  uint16_t bits;
};

// Rounds to the type T: to nearest, ties to even; NaN gives NaN.
template <class T>
__host__ __device__ inline T round_to(float x);
template <>
__host__ __device__ inline float round_to<float>(float x) {
  return x;
}
template <>
__host__ __device__ inline bf16 round_to<bf16>(float x) {
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
__host__ __device__ inline T round_to(double x) {
  return x;
}

// The type of accumulation, and the layout of shared memory. Strides are padded so that a load has no bank conflicts.
template <class S>
struct Layout {
  using Acc = float;
  static constexpr int vec = 16 / sizeof(S);       // elements of one asynchronous copy
  static constexpr int k_chunk = 128 / sizeof(S);  // columns of X and Y that are in shared memory at once
  static constexpr int stride = k_chunk + vec;     // of a row of X or Y
  static constexpr int slice = 64 / sizeof(S);     // rows of Z that are in shared memory at once: 32 bf16, 16 float
  static constexpr int z_pad = 8;
  static constexpr int w_stride = 64 + vec;  // of a row of weights
};
template <>
struct Layout<double> {
  using Acc = double;
  static constexpr int vec = 2, k_chunk = 16, stride = 18, slice = 8, z_pad = 2, w_stride = 66;
};

#if !defined(FOSTER_EMULATE)

__device__ inline uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

// Copies `bytes` (0 or 16) from global to shared memory and fills the rest of the 16 bytes with 0.
__device__ inline void cp_async(void* dst, const void* src, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared_address(dst)), "l"(src), "r"(bytes));
}
__device__ inline void cp_async_commit() { asm volatile("cp.async.commit_group;\n"); }
// Waits until at most kPending groups of copies are pending.
template <int kPending>
__device__ inline void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending) : "memory");
}

// Loads four 8 x 8 matrices of bf16; lane i gives the address of row i % 8 of matrix i / 8.
__device__ inline void ldmatrix(uint32_t (&out)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(shared_address(row))
               : "memory");
}
__device__ inline void ldmatrix_transposed(uint32_t (&out)[4], const void* row) {
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
// x rounded to TF32, as bits.
__device__ inline uint32_t to_tf32(float x) {
  uint32_t out;
  asm("cvt.rna.tf32.f32 %0, %1;\n" : "=r"(out) : "f"(x));
  return out;
}

template <class A>
__device__ inline A shuffle_xor(A x, int mask) {
  return __shfl_xor_sync(0xffffffffu, x, mask);
}
__device__ inline float float_from_bits(uint32_t x) { return __uint_as_float(x); }

#endif  // FOSTER_EMULATE

__device__ inline float exponential(float x) { return expf(x); }
__device__ inline double exponential(double x) { return exp(x); }
__device__ inline float maximum(float a, float b) { return fmaxf(a, b); }
__device__ inline double maximum(double a, double b) { return fmax(a, b); }

// Sum and maximum over the quad: the four lanes that hold one row of an mma result.
template <class A>
__device__ inline A quad_sum(A x) {
  x += shuffle_xor(x, 1);
  return x + shuffle_xor(x, 2);
}
template <class A>
__device__ inline A quad_max(A x) {
  x = maximum(x, shuffle_xor(x, 1));
  return maximum(x, shuffle_xor(x, 2));
}

// The factor exp(old_max - new_max) that rescales sums when the running maximum changes.
template <class A>
__device__ inline A rescale_factor(A old_max, A new_max) {
  return old_max == new_max ? A(1) : exponential(old_max - new_max);
}

}  // namespace foster::cuda
