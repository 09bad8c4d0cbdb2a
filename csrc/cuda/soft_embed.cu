// X = softmax(Q V^T) E, and its gradients.
//
// Let a = Q V^T be the scores, p = softmax(a), and g the gradient to X. Then dp = g E^T and da = p (dp - delta) with
// delta = sum_k p_k dp_k = sum g X, hence dQ = da V and dE = p^T g. The backward recomputes p from a and its lse.
#include "op.cuh"

namespace foster::cuda {
namespace {

// Online softmax: sums are relative to the running maximum, and are rescaled when it changes.
template <class S>
struct EmbedForward : OpBase<S> {
  using A = typename Layout<S>::Acc;
  struct Args {
    A* lse;
  };
  struct SharedStorage {
    A row_max[2][kBlockM], row_sum[2][kBlockM];
  };
  static constexpr int kProducts = 1, kStats = 2;
  const Args& args;
  SharedStorage& shared;
  const Position& pos;
  const int64_t row0, rows, cols;
  A row_max[2], row_sum[2], rescale[2];

  __device__ EmbedForward(const Args& args, SharedStorage& shared, const Position& pos, int64_t row0, int64_t rows,
                          int64_t cols, int64_t)
      : args(args), shared(shared), pos(pos), row0(row0), rows(rows), cols(cols) {
    for (int h = 0; h < 2; ++h) {
      row_max[h] = -INFINITY;
      row_sum[h] = 0;
    }
  }

  __device__ void process_tile(A (&a)[4][4], A (&)[4][4], int64_t tile) {
    const int64_t valid_cols = cols - tile * kBlockN;
    A new_max[2] = {-INFINITY, -INFINITY};
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      if (pos.column(i / 4, i % 4) >= valid_cols) a[i / 4][i % 4] = -INFINITY;
      new_max[i % 4 / 2] = maximum(new_max[i % 4 / 2], a[i / 4][i % 4]);
    }
    for (int h = 0; h < 2; ++h) {
      new_max[h] = quad_max(new_max[h]);
      if (pos.quad_lane == 0) shared.row_max[pos.half][pos.row[h]] = new_max[h];
    }
    __syncthreads();
    for (int h = 0; h < 2; ++h) {
      new_max[h] = maximum(row_max[h], maximum(shared.row_max[0][pos.row[h]], shared.row_max[1][pos.row[h]]));
      rescale[h] = rescale_factor(row_max[h], new_max[h]);
      row_max[h] = new_max[h];
      row_sum[h] *= rescale[h];
    }
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      A& x = a[i / 4][i % 4];
      x = exponential(x - row_max[i % 4 / 2]);
      row_sum[i % 4 / 2] += x;
    }
  }
  template <int N>
  __device__ void rescale_output(A (&out)[N][4]) {
    if (rescale[0] == A(1) && rescale[1] == A(1)) return;
#pragma unroll
    for (int i = 0; i < 4 * N; ++i) out[i / 4][i % 4] *= rescale[i % 4 / 2];
  }
  __device__ void reduce() {
    for (int h = 0; h < 2; ++h) {
      row_sum[h] = quad_sum(row_sum[h]);
      if (pos.quad_lane == 0) shared.row_sum[pos.half][pos.row[h]] = row_sum[h];
    }
    __syncthreads();
    for (int h = 0; h < 2; ++h) row_sum[h] = shared.row_sum[0][pos.row[h]] + shared.row_sum[1][pos.row[h]];
  }
  __device__ void store_stats(A* stats) {
    if (!pos.is_writer()) return;
    for (int h = 0; h < 2; ++h) {
      stats[2 * pos.row[h]] = row_max[h];
      stats[2 * pos.row[h] + 1] = row_sum[h];
    }
  }
  __device__ void combine_stats(const A* stats, int splits) {
    for (int h = 0; h < 2; ++h) {
      row_max[h] = -INFINITY;
      row_sum[h] = 0;
      for (int i = 0; i < splits; ++i) row_max[h] = maximum(row_max[h], stats[(i * kBlockM + pos.row[h]) * 2]);
      for (int i = 0; i < splits; ++i)
        row_sum[h] += split_factor(stats, i, h) * stats[(i * kBlockM + pos.row[h]) * 2 + 1];
    }
  }
  __device__ A split_factor(const A* stats, int split, int h) {
    return rescale_factor(stats[(split * kBlockM + pos.row[h]) * 2], row_max[h]);
  }
  __device__ void store_rows(int chunk) {
    for (int h = 0; h < 2; ++h)
      if (chunk == 0 && pos.is_writer() && row0 + pos.row[h] < rows)
        args.lse[row0 + pos.row[h]] = row_max[h] + log(row_sum[h]);
  }
  __device__ A normalize(A x, int h) { return x / row_sum[h]; }
};

// dQ. The weights are p (dp - delta), the rows those of Q and g, the columns the items.
template <class S>
struct EmbedBackwardQ : OpBase<S> {
  using A = typename Layout<S>::Acc;
  struct Args {
    const A *lse, *delta;
  };
  static constexpr int kProducts = 2;
  const Position& pos;
  const int64_t cols;
  A lse[2], delta[2];

  __device__ EmbedBackwardQ(const Args& args, Empty&, const Position& pos, int64_t row0, int64_t rows, int64_t cols,
                            int64_t)
      : pos(pos), cols(cols) {
    for (int h = 0; h < 2; ++h) {
      const int64_t row = row0 + pos.row[h];
      lse[h] = row < rows ? args.lse[row] : A(0);
      delta[h] = row < rows ? args.delta[row] : A(0);
    }
  }
  __device__ void process_tile(A (&a)[4][4], A (&b)[4][4], int64_t tile) {
    const int64_t valid_cols = cols - tile * kBlockN;
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const int h = i % 4 / 2;
      A& x = a[i / 4][i % 4];
      x = pos.column(i / 4, i % 4) < valid_cols ? exponential(x - lse[h]) * (b[i / 4][i % 4] - delta[h]) : A(0);
    }
  }
};

// dE. The weights are p^T, the rows the items, the columns the rows of Q.
template <class S>
struct EmbedBackwardE : OpBase<S> {
  using A = typename Layout<S>::Acc;
  struct Args {
    const A* lse;
  };
  static constexpr int kProducts = 1;
  const Args& args;
  const Position& pos;
  const int64_t cols;

  __device__ EmbedBackwardE(const Args& args, Empty&, const Position& pos, int64_t, int64_t, int64_t cols, int64_t)
      : args(args), pos(pos), cols(cols) {}
  __device__ void process_tile(A (&a)[4][4], A (&)[4][4], int64_t tile) {
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const int64_t col = tile * kBlockN + pos.column(i / 4, i % 4);
      A& x = a[i / 4][i % 4];
      x = col < cols ? exponential(x - args.lse[col]) : A(0);
    }
  }
};

}  // namespace

Plan plan_soft_embed(Type type, Sizes n, Device device) { return plan(type, n.r, n.s, n.width_e, 2, device); }

Plan plan_soft_embed_backward(Type type, Sizes n, int wrt, Device device) {
  return wrt == 0 ? plan(type, n.r, n.s, n.width_v, 0, device) : plan(type, n.s, n.r, n.width_e, 0, device);
}

cudaError_t soft_embed(Type type, Sizes n, const void* Q, const void* V, const void* E, void* X, void* lse, Context c) {
  return dispatch_type(type, [&](auto zero) {
    using S = decltype(zero);
    Params<S> params{};
    params.X[0] = static_cast<const S*>(Q);
    params.Y[0] = static_cast<const S*>(V);
    params.width[0] = n.width_v;
    params.Z = static_cast<const S*>(E);
    params.z_width = n.width_e;
    params.out = static_cast<S*>(X);
    params.rows = n.r;
    params.cols = n.s;
    return launch_with_output<S, EmbedForward<S>>(params, {static_cast<typename Layout<S>::Acc*>(lse)},
                                               plan_soft_embed(type, n, c.device), c);
  });
}

cudaError_t soft_embed_backward(Type type, Sizes n, int wrt, const void* grad, const void* Q, const void* V,
                                const void* E, const void* delta, const void* lse, void* out, Context c) {
  return dispatch_type(type, [&](auto zero) {
    using S = decltype(zero);
    using A = typename Layout<S>::Acc;
    const auto p = plan_soft_embed_backward(type, n, wrt, c.device);
    const auto *g = static_cast<const S*>(grad), *q = static_cast<const S*>(Q), *v = static_cast<const S*>(V);
    const auto *l = static_cast<const A*>(lse), *d = static_cast<const A*>(delta);
    Params<S> params{};
    params.out = static_cast<S*>(out);
    params.width[0] = n.width_v;
    params.width[1] = n.width_e;
    if (wrt == 0) {
      params.X[0] = q, params.X[1] = g, params.Y[0] = v, params.Y[1] = static_cast<const S*>(E);
      params.Z = v, params.z_width = n.width_v, params.rows = n.r, params.cols = n.s;
      return launch_with_output<S, EmbedBackwardQ<S>>(params, {l, d}, p, c);
    }
    params.X[0] = v, params.Y[0] = q, params.Z = g, params.z_width = n.width_e, params.rows = n.s, params.cols = n.r;
    return launch_with_output<S, EmbedBackwardE<S>>(params, {l}, p, c);
  });
}

}  // namespace foster::cuda
