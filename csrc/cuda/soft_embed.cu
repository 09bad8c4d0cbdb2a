// X = softmax(Q V^T) E, and its gradients.
//
// With scores a = Q V^T, p = softmax(a) and an upstream gradient g of X: dp = g E^T, da = p (dp - centre) where
// centre = sum_k p_k dp_k = sum g X, so dQ = da V; dE = p^T g. The backward makes p again from a and its log-normaliser.
#include "op.cuh"

namespace foster::cuda {
namespace {

// Online softmax: sums are kept relative to the largest score so far and shrink when a larger one comes.
template <class S>
struct Embed : Plain<S> {
  using A = typename Layout<S>::Sum;
  struct Args {
    A* lse;
  };
  struct Shared {
    A most[2][kRows], sum[2][kRows];
  };
  static constexpr int kProducts = 1, kStats = 2;
  const Args& args;
  Shared& own;
  const Place& at;
  const int64_t row0, rows, cols;
  A most[2], sum[2], factor[2];

  __device__ Embed(const Args& args, Shared& own, const Place& at, int64_t row0, int64_t rows, int64_t cols, int64_t)
      : args(args), own(own), at(at), row0(row0), rows(rows), cols(cols) {
    for (int h = 0; h < 2; ++h) {
      most[h] = -INFINITY;
      sum[h] = 0;
    }
  }

  __device__ void see(A (&a)[4][4], A (&)[4][4], int64_t tile) {
    const int64_t left = cols - tile * kTile;
    A now[2] = {-INFINITY, -INFINITY};
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      if (at.column(i / 4, i % 4) >= left) a[i / 4][i % 4] = -INFINITY;
      now[i % 4 / 2] = larger(now[i % 4 / 2], a[i / 4][i % 4]);
    }
    for (int h = 0; h < 2; ++h) {
      now[h] = row_largest(now[h]);
      if (at.lane_t == 0) own.most[at.side][at.row[h]] = now[h];
    }
    __syncthreads();
    for (int h = 0; h < 2; ++h) {
      now[h] = larger(most[h], larger(own.most[0][at.row[h]], own.most[1][at.row[h]]));
      factor[h] = shrink(most[h], now[h]);
      most[h] = now[h];
      sum[h] *= factor[h];
    }
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      A& x = a[i / 4][i % 4];
      x = exponential(x - most[i % 4 / 2]);
      sum[i % 4 / 2] += x;
    }
  }
  template <int N>
  __device__ void rescale(A (&out)[N][4]) {
    if (factor[0] == A(1) && factor[1] == A(1)) return;
#pragma unroll
    for (int i = 0; i < 4 * N; ++i) out[i / 4][i % 4] *= factor[i % 4 / 2];
  }
  __device__ void join() {
    for (int h = 0; h < 2; ++h) {
      sum[h] = row_sum(sum[h]);
      if (at.lane_t == 0) own.sum[at.side][at.row[h]] = sum[h];
    }
    __syncthreads();
    for (int h = 0; h < 2; ++h) sum[h] = own.sum[0][at.row[h]] + own.sum[1][at.row[h]];
  }
  __device__ void save(A* stats) {
    if (!at.writes()) return;
    for (int h = 0; h < 2; ++h) {
      stats[2 * at.row[h]] = most[h];
      stats[2 * at.row[h] + 1] = sum[h];
    }
  }
  __device__ void gather(const A* stats, int splits) {
    for (int h = 0; h < 2; ++h) {
      most[h] = -INFINITY;
      sum[h] = 0;
      for (int i = 0; i < splits; ++i) most[h] = larger(most[h], stats[(i * kRows + at.row[h]) * 2]);
      for (int i = 0; i < splits; ++i) sum[h] += share(stats, i, h) * stats[(i * kRows + at.row[h]) * 2 + 1];
    }
  }
  __device__ A share(const A* stats, int split, int h) {
    return shrink(stats[(split * kRows + at.row[h]) * 2], most[h]);
  }
  __device__ void finish(int chunk) {
    for (int h = 0; h < 2; ++h)
      if (chunk == 0 && at.writes() && row0 + at.row[h] < rows) args.lse[row0 + at.row[h]] = most[h] + log(sum[h]);
  }
  __device__ A last(A x, int h) { return x / sum[h]; }
};

// Weights p (dp - centre); rows are those of Q and g, columns the items.
template <class S>
struct EmbedQ : Plain<S> {
  using A = typename Layout<S>::Sum;
  struct Args {
    const A *lse, *centre;
  };
  static constexpr int kProducts = 2;
  const Place& at;
  const int64_t cols;
  A lse[2], centre[2];

  __device__ EmbedQ(const Args& args, Nothing&, const Place& at, int64_t row0, int64_t rows, int64_t cols, int64_t)
      : at(at), cols(cols) {
    for (int h = 0; h < 2; ++h) {
      const int64_t row = row0 + at.row[h];
      lse[h] = row < rows ? args.lse[row] : A(0);
      centre[h] = row < rows ? args.centre[row] : A(0);
    }
  }
  __device__ void see(A (&a)[4][4], A (&b)[4][4], int64_t tile) {
    const int64_t left = cols - tile * kTile;
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const int h = i % 4 / 2;
      A& x = a[i / 4][i % 4];
      x = at.column(i / 4, i % 4) < left ? exponential(x - lse[h]) * (b[i / 4][i % 4] - centre[h]) : A(0);
    }
  }
};

// Weights p^T; rows are the items, columns the rows of Q.
template <class S>
struct EmbedE : Plain<S> {
  using A = typename Layout<S>::Sum;
  struct Args {
    const A* lse;
  };
  static constexpr int kProducts = 1;
  const Args& args;
  const Place& at;
  const int64_t cols;

  __device__ EmbedE(const Args& args, Nothing&, const Place& at, int64_t, int64_t, int64_t cols, int64_t)
      : args(args), at(at), cols(cols) {}
  __device__ void see(A (&a)[4][4], A (&)[4][4], int64_t tile) {
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const int64_t col = tile * kTile + at.column(i / 4, i % 4);
      A& x = a[i / 4][i % 4];
      x = col < cols ? exponential(x - args.lse[col]) : A(0);
    }
  }
};

}  // namespace

Plan plan_soft_embed(Type type, Sizes n, Device device) { return plan(type, n.r, n.s, n.other, 2, device); }

Plan plan_soft_embed_backward(Type type, Sizes n, int part, Device device) {
  return part == 0 ? plan(type, n.r, n.s, n.width, 0, device) : plan(type, n.s, n.r, n.other, 0, device);
}

cudaError_t soft_embed(Type type, Sizes n, const void* Q, const void* V, const void* E, void* X, void* lse,
                       Context c) {
  return with_type(type, [&](auto zero) {
    using S = decltype(zero);
    Stream<S> s{};
    s.X[0] = static_cast<const S*>(Q);
    s.Y[0] = static_cast<const S*>(V);
    s.width[0] = n.width;
    s.Z = static_cast<const S*>(E);
    s.z_width = n.other;
    s.out = static_cast<S*>(X);
    s.rows = n.r;
    s.cols = n.s;
    return launch_weighted<S, Embed<S>>(s, {static_cast<typename Layout<S>::Sum*>(lse)},
                                        plan_soft_embed(type, n, c.device), c);
  });
}

cudaError_t soft_embed_backward(Type type, Sizes n, int part, const void* grad, const void* Q, const void* V,
                                const void* E, const void* centre, const void* lse, void* out, Context c) {
  return with_type(type, [&](auto zero) {
    using S = decltype(zero);
    using A = typename Layout<S>::Sum;
    const auto p = plan_soft_embed_backward(type, n, part, c.device);
    const auto *g = static_cast<const S*>(grad), *q = static_cast<const S*>(Q), *v = static_cast<const S*>(V);
    const auto *l = static_cast<const A*>(lse), *middle = static_cast<const A*>(centre);
    Stream<S> s{};
    s.out = static_cast<S*>(out);
    s.width[0] = n.width;
    s.width[1] = n.other;
    if (part == 0) {
      s.X[0] = q, s.X[1] = g, s.Y[0] = v, s.Y[1] = static_cast<const S*>(E);
      s.Z = v, s.z_width = n.width, s.rows = n.r, s.cols = n.s;
      return launch_weighted<S, EmbedQ<S>>(s, {l, middle}, p, c);
    }
    s.X[0] = v, s.Y[0] = q, s.Z = g, s.z_width = n.other, s.rows = n.s, s.cols = n.r;
    return launch_weighted<S, EmbedE<S>>(s, {l}, p, c);
  });
}

}  // namespace foster::cuda
