// How many items score above, and equal to, each row's target.
//
// The score of a row's target comes from a first tile whose columns are the targets of the rows; it is on the diagonal.
// The same instructions in the same order compute it and every other score, so equal items have equal scores.
#include "op.cuh"

namespace foster::cuda {
namespace {

template <class S>
struct Rank : OpBase<S> {
  using A = typename Layout<S>::Acc;
  struct Args {
    const int64_t *target, *seen, *offsets;
    int64_t *greater, *equal;
  };
  struct SharedStorage {
    A target_score[kBlockM];
    unsigned long long excluded[2][kBlockM];  // a bit for each column of the tile
  };
  static constexpr int kProducts = 1;
  static constexpr bool kTargetTile = true;
  const Args& args;
  SharedStorage& shared;
  const Position& pos;
  const int64_t row0, rows, cols, first;
  int64_t next, end;  // in thread i < 64: the seen items of row i that later tiles may hold
  A target_score[2];
  int greater[2] = {0, 0}, equal[2] = {0, 0};

  __device__ Rank(const Args& args, SharedStorage& shared, const Position& pos, int64_t row0, int64_t rows,
                  int64_t cols, int64_t first)
      : args(args), shared(shared), pos(pos), row0(row0), rows(rows), cols(cols), first(first), next(0), end(0) {
    const int64_t row = row0 + threadIdx.x;
    if (threadIdx.x >= kBlockM || row >= rows || args.seen == nullptr) return;
    next = args.offsets[row];
    end = args.offsets[row + 1];
    for (int64_t high = end; next < high;) {  // binary search for the first seen item in these tiles
      const int64_t middle = (next + high) / 2;
      if (args.seen[middle] < first * kBlockN)
        next = middle + 1;
      else
        high = middle;
    }
  }

  // The masks are double-buffered, because a slow warp may still read the one of the previous tile.
  __device__ void begin_tile(int64_t tile) {
    const int64_t row = row0 + threadIdx.x;
    if (threadIdx.x >= kBlockM || tile < first) return;
    unsigned long long mask = 0;
    if (row < rows) {
      const int64_t column = args.target[row] - tile * kBlockN;
      if (column >= 0 && column < kBlockN) mask = 1ull << column;
      for (; next < end && args.seen[next] < (tile + 1) * kBlockN; ++next)
        mask |= 1ull << (args.seen[next] - tile * kBlockN);
    }
    shared.excluded[tile & 1][threadIdx.x] = mask;
  }
  __device__ void process_tile(A (&a)[4][4], A (&)[4][4], int64_t tile) {
    if (tile < first) {
#pragma unroll
      for (int i = 0; i < 16; ++i)
        if (pos.column(i / 4, i % 4) == pos.row[i % 4 / 2]) shared.target_score[pos.row[i % 4 / 2]] = a[i / 4][i % 4];
      __syncthreads();
      for (int h = 0; h < 2; ++h) target_score[h] = shared.target_score[pos.row[h]];
      return;
    }
    const int64_t valid_cols = cols - tile * kBlockN;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const unsigned long long mask = shared.excluded[tile & 1][pos.row[h]];
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int j = i / 2, e = 2 * h + i % 2, col = pos.column(j, e);
        const bool counts = col < valid_cols && (mask >> col & 1) == 0;
        greater[h] += counts && a[j][e] > target_score[h];
        equal[h] += counts && a[j][e] == target_score[h];
      }
    }
  }
  __device__ void store_rows(int) {
    for (int h = 0; h < 2; ++h) {
      const int64_t row = row0 + pos.row[h];
      const int n_greater = quad_sum(greater[h]), n_equal = quad_sum(equal[h]);
      if (pos.quad_lane != 0 || row >= rows) continue;
      atomicAdd(reinterpret_cast<unsigned long long*>(args.greater + row), static_cast<unsigned long long>(n_greater));
      atomicAdd(reinterpret_cast<unsigned long long*>(args.equal + row), static_cast<unsigned long long>(n_equal));
    }
  }
};

}  // namespace

cudaError_t rank_counts(Type type, Sizes n, const void* H, const void* E, const int64_t* target, const int64_t* seen,
                        const int64_t* offsets, int64_t* greater, int64_t* equal, Context c) {
  return dispatch_type(type, [&](auto zero) {
    using S = decltype(zero);
    Params<S> params{};
    params.X[0] = static_cast<const S*>(H);
    params.Y[0] = static_cast<const S*>(E);
    params.width[0] = n.width_v;
    params.rows = n.r;
    params.cols = n.s;
    // Every split adds its counts to the outputs, so there are no statistics to combine.
    return launch<S, Rank<S>, 0>(params, {target, seen, offsets, greater, equal}, plan(type, n.r, n.s, 0, 0, c.device),
                                 c);
  });
}

}  // namespace foster::cuda
