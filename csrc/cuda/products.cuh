// The two products of a tile, by one warp: scores (16 x 32) from chunks of rows, and weights times Z (16 x columns).
//
// A warp's results lie as PTX defines for mma m16n8: lane 4 g + t holds, of each 16 x 8 part, (row g, columns 2t, 2t+1)
// and (row g + 8, columns 2t, 2t+1).
//
// bf16 goes to the tensor cores as it is. fp32 goes there as TF32: with `exact` each number is split into a large and a
// small part of 11 bits each and three products are added (large large + large small + small large), which leaves an
// error of about 2^-21; without it one product, error about 2^-11. double has no tensor cores here: it serves the
// gradient checks.
#pragma once

#include "primitives.cuh"

namespace foster::cuda {

struct Lane {
  int warp, g, t;
  __device__ Lane() : warp(threadIdx.x / 32), g(threadIdx.x % 32 / 4), t(threadIdx.x % 4) {}
};

// A number as the sum of two of TF32.
struct Split {
  uint32_t large, small;
  __device__ Split(float x, bool exact) : large(to_tf32(x)), small(exact ? to_tf32(x - bits_float(large)) : 0u) {}
};

// c += a b for a (16, 8) and b (8, 8) in fp32, k running over t and t + 4.
__device__ inline void mma_fp32(float (&c)[4], const uint32_t (&large)[4], const uint32_t (&small)[4], Split b0, Split b1,
                                bool exact) {
  if (exact) {
    mma_tf32(c, small, b0.large, b1.large);
    mma_tf32(c, large, b0.small, b1.small);
  }
  mma_tf32(c, large, b0.large, b1.large);
}

// The A operand of mma_fp32: rows g and g + 8, columns t and t + 4 of x.
__device__ inline void split_rows(uint32_t (&large)[4], uint32_t (&small)[4], const float* x, int stride, Lane at,
                                  bool exact) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const Split s(x[(at.g + i % 2 * 8) * stride + at.t + i / 2 * 4], exact);
    large[i] = s.large;
    small[i] = s.small;
  }
}

// scores (16, 32) += x (16, chunk) y (32, chunk)^T.
__device__ inline void add_scores(float (&scores)[4][4], const bf16* x, const bf16* y, bool) {
  using L = Layout<bf16>;
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int k = 0; k < L::chunk; k += 16) {
    uint32_t a[4];
    load_matrices(a, x + (lane % 16) * L::stride + k + lane / 16 * 8);
#pragma unroll
    for (int j = 0; j < 4; j += 2) {
      uint32_t b[4];
      load_matrices(b, y + (8 * j + lane % 8 + lane / 16 * 8) * L::stride + k + lane / 8 % 2 * 8);
      mma_bf16(scores[j], a, b[0], b[1]);
      mma_bf16(scores[j + 1], a, b[2], b[3]);
    }
  }
}
__device__ inline void add_scores(float (&scores)[4][4], const float* x, const float* y, bool exact) {
  using L = Layout<float>;
  const Lane at;
#pragma unroll
  for (int k = 0; k < L::chunk; k += 8) {
    uint32_t large[4], small[4];
    split_rows(large, small, x + k, L::stride, at, exact);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float* b = y + (8 * j + at.g) * L::stride + k + at.t;
      mma_fp32(scores[j], large, small, Split(b[0], exact), Split(b[4], exact), exact);
    }
  }
}
__device__ inline void add_scores(double (&scores)[4][4], const double* x, const double* y, bool) {
  using L = Layout<double>;
  const Lane at;
#pragma unroll 2
  for (int k = 0; k < L::chunk; ++k)
#pragma unroll
    for (int j = 0; j < 4; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e)
        scores[j][e] += x[(at.g + e / 2 * 8) * L::stride + k] * y[(8 * j + 2 * at.t + e % 2) * L::stride + k];
}

// out (16, 8 N) += w (16, slice) z (slice, 8 N); rows of z are `stride` apart.
template <int N>
__device__ inline void add_weighted(float (&out)[N][4], const bf16* w, const bf16* z, int stride, bool) {
  using L = Layout<bf16>;
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int k = 0; k < L::slice; k += 16) {
    uint32_t a[4];
    load_matrices(a, w + (lane % 16) * L::w_stride + k + lane / 16 * 8);
#pragma unroll
    for (int j = 0; j < N; j += 2) {
      uint32_t b[4];
      load_matrices_transposed(b, z + (k + lane % 16) * stride + 8 * j + lane / 16 * 8);
      mma_bf16(out[j], a, b[0], b[1]);
      mma_bf16(out[j + 1], a, b[2], b[3]);
    }
  }
}
template <int N>
__device__ inline void add_weighted(float (&out)[N][4], const float* w, const float* z, int stride, bool exact) {
  using L = Layout<float>;
  const Lane at;
#pragma unroll
  for (int k = 0; k < L::slice; k += 8) {
    uint32_t large[4], small[4];
    split_rows(large, small, w + k, L::w_stride, at, exact);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const float* b = z + (k + at.t) * stride + 8 * j + at.g;
      mma_fp32(out[j], large, small, Split(b[0], exact), Split(b[4 * stride], exact), exact);
    }
  }
}
template <int N>
__device__ inline void add_weighted(double (&out)[N][4], const double* w, const double* z, int stride, bool) {
  using L = Layout<double>;
  const Lane at;
#pragma unroll 1
  for (int k = 0; k < L::slice; ++k)
#pragma unroll
    for (int j = 0; j < N; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e)
        out[j][e] += w[(at.g + e / 2 * 8) * L::w_stride + k] * z[k * stride + 8 * j + 2 * at.t + e % 2];
}

}  // namespace foster::cuda
