// What the kernels need of a device: bf16 as bits, 16-byte loads and stores, shuffles, exponentials. With
// FOSTER_EMULATE, tests/ops/emulate gives a CPU's version, so that the kernels can be tested without a GPU.
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

template <class T>
struct AccumulateOf {
  using type = T;
};
template <>
struct AccumulateOf<bf16> {
  using type = float;
};
template <class T>
using Accumulate = typename AccumulateOf<T>::type;

template <class A>
__device__ inline A from_bits(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}
template <class A>
__device__ inline A infinity() {
  return from_bits<A>(0x7f800000u);
}
template <class A>
__device__ inline A not_a_number() {
  return from_bits<A>(0x7fc00000u);
}

__device__ inline float to_accumulate(float x) { return x; }
__device__ inline double to_accumulate(double x) { return x; }
__device__ inline float to_accumulate(bf16 x) { return from_bits<float>(uint32_t(x.bits) << 16); }

// Rounds to the type T: to nearest, ties to even; NaN gives NaN.
template <class T>
__device__ inline T from_accumulate(Accumulate<T> x) {
  if constexpr (sizeof(T) == 2) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (x != x) return {uint16_t(0x7fc0)};
    return {uint16_t((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
  } else {
    return x;
  }
}

// Reads `count` values at `from`, which is aligned to 16 bytes; the rest of `to` is 0. And writes them.
template <class T, class A, int kPack>
__device__ inline void load(const T* from, A (&to)[kPack], int count) {
  static_assert(kPack * sizeof(T) == 16);
  if (count == kPack) {
    const uint4 bytes = *reinterpret_cast<const uint4*>(from);
    T values[kPack];
    memcpy(values, &bytes, 16);
#pragma unroll
    for (int j = 0; j < kPack; ++j) to[j] = to_accumulate(values[j]);
  } else {
#pragma unroll
    for (int j = 0; j < kPack; ++j) to[j] = j < count ? to_accumulate(from[j]) : A(0);
  }
}
template <class T, class A, int kPack>
__device__ inline void store(T* to, const A (&from)[kPack], int count) {
  if (count == kPack) {
    T values[kPack];
#pragma unroll
    for (int j = 0; j < kPack; ++j) values[j] = from_accumulate<T>(from[j]);
    uint4 bytes;
    memcpy(&bytes, values, 16);
    *reinterpret_cast<uint4*>(to) = bytes;
  } else {
#pragma unroll
    for (int j = 0; j < kPack; ++j)
      if (j < count) to[j] = from_accumulate<T>(from[j]);
  }
}

__device__ inline float exponential(float x) { return expf(x); }
__device__ inline double exponential(double x) { return exp(x); }
__device__ inline float logarithm(float x) { return logf(x); }
__device__ inline double logarithm(double x) { return log(x); }
__device__ inline float maximum(float a, float b) { return fmaxf(a, b); }
__device__ inline double maximum(double a, double b) { return fmax(a, b); }

#if !defined(FOSTER_EMULATE)
// The value of lane ^ mask, of any type of whole 32-bit words.
template <class Part>
__device__ inline Part shuffle_xor(Part x, int mask) {
  constexpr int kWords = sizeof(Part) / 4;
  uint32_t words[kWords];
  memcpy(words, &x, sizeof x);
#pragma unroll
  for (int i = 0; i < kWords; ++i) words[i] = __shfl_xor_sync(0xffffffffu, words[i], mask);
  memcpy(&x, words, sizeof x);
  return x;
}
#endif

}  // namespace foster::cuda
