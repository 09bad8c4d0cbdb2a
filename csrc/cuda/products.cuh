// The two matrix products of a tile, as one warp computes them: scores (16 x 32) = X Y^T, accumulated over chunks of
// the inner dimension, and output (16 x columns) += weights Z.
//
// The fragments are those of mma m16n8: of each 16 x 8 part, the lane with group g and position t in it (PTX: groupID
// and threadID_in_group) holds (row g, columns 2t, 2t+1) and (row g + 8, columns 2t, 2t+1).
//
// bf16 is multiplied by the tensor cores directly, fp32 as TF32. With `exact`, each fp32 number is split into a big and
// a small part of 11 bits each, and three products are added (big big + big small + small big), which has an error of
// about 2^-21; without it there is one product, with an error of about 2^-11. double, which is for the gradient checks,
// does not use the tensor cores.
#pragma once

#include "primitives.cuh"

namespace foster::cuda {

struct Lane {
  int warp, g, t;  // the warp in the block, the lane's group in the warp, its position in the group
  __device__ Lane() : warp(threadIdx.x / 32), g(threadIdx.x % 32 / 4), t(threadIdx.x % 4) {}
};

// An fp32 number as the sum of two TF32 numbers.
struct SplitTf32 {
  uint32_t big, small;
  __device__ SplitTf32(float x, bool exact) : big(to_tf32(x)), small(exact ? to_tf32(x - float_from_bits(big)) : 0u) {}
};

// c += a b for a (16, 8) and b (8, 8) in fp32; b0 and b1 are rows t and t + 4 of b.
__device__ inline void mma_fp32(float (&c)[4], const uint32_t (&a_big)[4], const uint32_t (&a_small)[4], SplitTf32 b0,
                                SplitTf32 b1, bool exact) {
  if (exact) {
    mma_tf32(c, a_small, b0.big, b1.big);
    mma_tf32(c, a_big, b0.small, b1.small);
  }
  mma_tf32(c, a_big, b0.big, b1.big);
}

// Loads the A fragment of mma_fp32: rows g and g + 8, columns t and t + 4 of x.
__device__ inline void load_a_split(uint32_t (&big)[4], uint32_t (&small)[4], const float* x, int stride, Lane lane,
                                    bool exact) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const SplitTf32 s(x[(lane.g + i % 2 * 8) * stride + lane.t + i / 2 * 4], exact);
    big[i] = s.big;
    small[i] = s.small;
  }
}

// scores (16, 32) += x (16, k_chunk) y (32, k_chunk)^T.
__device__ inline void accumulate_scores(float (&scores)[4][4], const bf16* x, const bf16* y, bool) {
  using L = Layout<bf16>;
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int k = 0; k < L::k_chunk; k += 16) {
    uint32_t a[4];
    ldmatrix(a, x + (lane % 16) * L::stride + k + lane / 16 * 8);
#pragma unroll
    for (int j = 0; j < 4; j += 2) {
      uint32_t b[4];
      ldmatrix(b, y + (8 * j + lane % 8 + lane / 16 * 8) * L::stride + k + lane / 8 % 2 * 8);
      mma_bf16(scores[j], a, b[0], b[1]);
      mma_bf16(scores[j + 1], a, b[2], b[3]);
    }
  }
}
__device__ inline void accumulate_scores(float (&scores)[4][4], const float* x, const float* y, bool exact) {
  using L = Layout<float>;
  const Lane lane;
#pragma unroll
  for (int k = 0; k < L::k_chunk; k += 8) {
    uint32_t big[4], small[4];
    load_a_split(big, small, x + k, L::stride, lane, exact);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float* b = y + (8 * j + lane.g) * L::stride + k + lane.t;
      mma_fp32(scores[j], big, small, SplitTf32(b[0], exact), SplitTf32(b[4], exact), exact);
    }
  }
}
__device__ inline void accumulate_scores(double (&scores)[4][4], const double* x, const double* y, bool) {
  using L = Layout<double>;
  const Lane lane;
#pragma unroll 2
  for (int k = 0; k < L::k_chunk; ++k)
#pragma unroll
    for (int j = 0; j < 4; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e)
        scores[j][e] += x[(lane.g + e / 2 * 8) * L::stride + k] * y[(8 * j + 2 * lane.t + e % 2) * L::stride + k];
}

// out (16, 8 N) += w (16, slice) z (slice, 8 N), with `stride` elements between the rows of z.
template <int N>
__device__ inline void accumulate_output(float (&out)[N][4], const bf16* w, const bf16* z, int stride, bool) {
  using L = Layout<bf16>;
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int k = 0; k < L::slice; k += 16) {
    uint32_t a[4];
    ldmatrix(a, w + (lane % 16) * L::w_stride + k + lane / 16 * 8);
#pragma unroll
    for (int j = 0; j < N; j += 2) {
      uint32_t b[4];
      ldmatrix_transposed(b, z + (k + lane % 16) * stride + 8 * j + lane / 16 * 8);
      mma_bf16(out[j], a, b[0], b[1]);
      mma_bf16(out[j + 1], a, b[2], b[3]);
    }
  }
}
template <int N>
__device__ inline void accumulate_output(float (&out)[N][4], const float* w, const float* z, int stride, bool exact) {
  using L = Layout<float>;
  const Lane lane;
#pragma unroll
  for (int k = 0; k < L::slice; k += 8) {
    uint32_t big[4], small[4];
    load_a_split(big, small, w + k, L::w_stride, lane, exact);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const float* b = z + (k + lane.t) * stride + 8 * j + lane.g;
      mma_fp32(out[j], big, small, SplitTf32(b[0], exact), SplitTf32(b[4 * stride], exact), exact);
    }
  }
}
template <int N>
__device__ inline void accumulate_output(double (&out)[N][4], const double* w, const double* z, int stride, bool) {
  using L = Layout<double>;
  const Lane lane;
#pragma unroll 1
  for (int k = 0; k < L::slice; ++k)
#pragma unroll
    for (int j = 0; j < N; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e)
        out[j][e] += w[(lane.g + e / 2 * 8) * L::w_stride + k] * z[k * stride + 8 * j + 2 * lane.t + e % 2];
}

}  // namespace foster::cuda
