// How many items score above, and equal to, each row's target; no scores kept.
//
// The target's own score comes from a first tile whose columns are the rows' targets: on its diagonal. It is made by the
// same instructions in the same order as every other score, so that equal items score equal.
#include "op.cuh"

namespace foster::cuda {
namespace {

template <class S>
struct Rank : Plain<S> {
  using A = typename Layout<S>::Sum;
  struct Args {
    const int64_t *target, *seen, *offsets;
    int64_t *greater, *equal;
  };
  struct Shared {
    A score[kRows];
    unsigned long long left_out[2][kRows];  // a bit for each column of the tile
  };
  static constexpr int kProducts = 1;
  static constexpr bool kOwn = true;
  const Args& args;
  Shared& own;
  const Place& at;
  const int64_t row0, rows, cols, first;
  int64_t next, end;  // of thread i < 64: what is left of the seen items of row i
  A score[2];
  int greater[2] = {0, 0}, equal[2] = {0, 0};

  __device__ Rank(const Args& args, Shared& own, const Place& at, int64_t row0, int64_t rows, int64_t cols,
                  int64_t first)
      : args(args), own(own), at(at), row0(row0), rows(rows), cols(cols), first(first), next(0), end(0) {
    const int64_t row = row0 + threadIdx.x;
    if (threadIdx.x >= kRows || row >= rows || args.seen == nullptr) return;
    next = args.offsets[row];
    end = args.offsets[row + 1];
    for (int64_t high = end; next < high;) {  // the first one of these tiles
      const int64_t middle = (next + high) / 2;
      if (args.seen[middle] < first * kTile)
        next = middle + 1;
      else
        high = middle;
    }
  }

  // Two masks in turn: a slow warp may still read that of the tile before.
  __device__ void enter(int64_t tile) {
    const int64_t row = row0 + threadIdx.x;
    if (threadIdx.x >= kRows || tile < first) return;
    unsigned long long mask = 0;
    if (row < rows) {
      const int64_t mine = args.target[row] - tile * kTile;
      if (mine >= 0 && mine < kTile) mask = 1ull << mine;
      for (; next < end && args.seen[next] < (tile + 1) * kTile; ++next)
        mask |= 1ull << (args.seen[next] - tile * kTile);
    }
    own.left_out[tile & 1][threadIdx.x] = mask;
  }
  __device__ void see(A (&a)[4][4], A (&)[4][4], int64_t tile) {
    if (tile < first) {
#pragma unroll
      for (int i = 0; i < 16; ++i)
        if (at.column(i / 4, i % 4) == at.row[i % 4 / 2]) own.score[at.row[i % 4 / 2]] = a[i / 4][i % 4];
      __syncthreads();
      for (int h = 0; h < 2; ++h) score[h] = own.score[at.row[h]];
      return;
    }
    const int64_t left = cols - tile * kTile;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const unsigned long long mask = own.left_out[tile & 1][at.row[h]];
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int j = i / 2, e = 2 * h + i % 2, col = at.column(j, e);
        const bool counts = col < left && (mask >> col & 1) == 0;
        greater[h] += counts && a[j][e] > score[h];
        equal[h] += counts && a[j][e] == score[h];
      }
    }
  }
  __device__ void finish(int) {
    for (int h = 0; h < 2; ++h) {
      const int64_t row = row0 + at.row[h];
      const int above = row_sum(greater[h]), same = row_sum(equal[h]);
      if (at.lane_t != 0 || row >= rows) continue;
      atomicAdd(reinterpret_cast<unsigned long long*>(args.greater + row), static_cast<unsigned long long>(above));
      atomicAdd(reinterpret_cast<unsigned long long*>(args.equal + row), static_cast<unsigned long long>(same));
    }
  }
};

}  // namespace

cudaError_t rank_counts(Type type, Sizes n, const void* H, const void* E, const int64_t* target, const int64_t* seen,
                        const int64_t* offsets, int64_t* greater, int64_t* equal, Context c) {
  return with_type(type, [&](auto zero) {
    using S = decltype(zero);
    Stream<S> s{};
    s.X[0] = static_cast<const S*>(H);
    s.Y[0] = static_cast<const S*>(E);
    s.width[0] = n.width;
    s.rows = n.r;
    s.cols = n.s;
    // counts are added where they belong, so that splits need nothing put together
    return launch<S, Rank<S>, 0>(s, {target, seen, offsets, greater, equal}, plan(type, n.r, n.s, 0, 0, c.device), c);
  });
}

}  // namespace foster::cuda
