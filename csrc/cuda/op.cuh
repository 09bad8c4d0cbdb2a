// The functions that stream_kernel calls of an op, in their order, and what they do for an op that has no statistics or
// outputs per row. Besides them an op has process_tile(a, b, tile), which accumulates statistics of the scores and, if
// there is an output matrix, replaces the scores a by its weights.
#pragma once

#include "stream.cuh"

namespace foster::cuda {

struct Empty {};

template <class S>
struct OpBase {
  using A = typename Layout<S>::Acc;
  using SharedStorage = Empty;
  static constexpr int kStats = 0;
  static constexpr bool kTargetTile = false;
  // Called before the scores of a tile are computed.
  __device__ void begin_tile(int64_t) {}
  // Rescales the output accumulated so far to the new running maximum.
  template <int N>
  __device__ void rescale_output(A (&)[N][4]) {}
  // Reduces the statistics over the threads of a row, after the last tile.
  __device__ void reduce() {}
  // Writes the statistics of a split, reads and combines those of all splits, and gives a split's factor in the output.
  __device__ void store_stats(A*) {}
  __device__ void combine_stats(const A*, int) {}
  __device__ A split_factor(const A*, int, int) { return A(1); }
  // The epilogue: writes the outputs per row, and normalizes an element of the output matrix.
  __device__ void store_rows(int) {}
  __device__ A normalize(A x, int) { return x; }
};

}  // namespace foster::cuda
