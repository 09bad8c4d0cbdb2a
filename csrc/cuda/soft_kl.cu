// KL(softmax(Q V^T) || softmax(H E^T)) of each row in nats, and its gradients.
//
// Let a = Q V^T and b = H E^T be the scores, p = softmax(a), q = softmax(b), and mean_diff = sum_k p_k (a_k - b_k).
// Then KL = mean_diff - (lse_a - lse_b), dKL/da = p (a - b - mean_diff) and dKL/db = q - p. With g the gradient to KL,
// dQ = g dKL/da V, dH = g dKL/db E and dE = (g dKL/db)^T H. The backward recomputes a and b.
#include "op.cuh"

namespace foster::cuda {
namespace {

// Over some of a row's items: the maxima of a and b, the sums of exponentials relative to them, and
// weighted_diff = sum exp(a - max_a) (a - b).
template <class A>
struct RowStats {
  A max_a = -INFINITY, max_b = -INFINITY, sum_a = 0, sum_b = 0, weighted_diff = 0;

  __device__ void merge(const RowStats& o) {
    const A new_max_a = maximum(max_a, o.max_a), new_max_b = maximum(max_b, o.max_b);
    const A rescale = rescale_factor(max_a, new_max_a), o_rescale = rescale_factor(o.max_a, new_max_a);
    sum_a = sum_a * rescale + o.sum_a * o_rescale;
    weighted_diff = weighted_diff * rescale + o.weighted_diff * o_rescale;
    sum_b = sum_b * rescale_factor(max_b, new_max_b) + o.sum_b * rescale_factor(o.max_b, new_max_b);
    max_a = new_max_a;
    max_b = new_max_b;
  }
  __device__ RowStats of_lane_xor(int mask) const {
    RowStats o;
    o.max_a = shuffle_xor(max_a, mask);
    o.max_b = shuffle_xor(max_b, mask);
    o.sum_a = shuffle_xor(sum_a, mask);
    o.sum_b = shuffle_xor(sum_b, mask);
    o.weighted_diff = shuffle_xor(weighted_diff, mask);
    return o;
  }
};

// Each thread accumulates the statistics of its own columns; `reduce` merges them.
template <class S>
struct KlForward : OpBase<S> {
  using A = typename Layout<S>::Acc;
  struct Args {
    A *loss, *mean_diff, *lse_Q, *lse_H;
  };
  struct SharedStorage {
    RowStats<A> halves[2][kBlockM];
  };
  static constexpr int kProducts = 2, kStats = 5;
  const Args& args;
  SharedStorage& shared;
  const Position& pos;
  const int64_t row0, rows, cols;
  RowStats<A> acc[2];

  __device__ KlForward(const Args& args, SharedStorage& shared, const Position& pos, int64_t row0, int64_t rows,
                       int64_t cols, int64_t)
      : args(args), shared(shared), pos(pos), row0(row0), rows(rows), cols(cols) {}

  __device__ void process_tile(A (&a)[4][4], A (&b)[4][4], int64_t tile) {
    const int64_t valid_cols = cols - tile * kBlockN;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      RowStats<A> tile_stats;
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int j = i / 2, e = 2 * h + i % 2;
        if (pos.column(j, e) < valid_cols) {
          tile_stats.max_a = maximum(tile_stats.max_a, a[j][e]);
          tile_stats.max_b = maximum(tile_stats.max_b, b[j][e]);
        }
      }
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int j = i / 2, e = 2 * h + i % 2;
        if (pos.column(j, e) < valid_cols) {
          const A x = exponential(a[j][e] - tile_stats.max_a);
          tile_stats.sum_a += x;
          tile_stats.weighted_diff += x * (a[j][e] - b[j][e]);
          tile_stats.sum_b += exponential(b[j][e] - tile_stats.max_b);
        }
      }
      acc[h].merge(tile_stats);
    }
  }
  __device__ void reduce() {
    for (int h = 0; h < 2; ++h) {
      acc[h].merge(acc[h].of_lane_xor(1));
      acc[h].merge(acc[h].of_lane_xor(2));
      if (pos.quad_lane == 0) shared.halves[pos.half][pos.row[h]] = acc[h];
    }
    __syncthreads();
    for (int h = 0; h < 2; ++h) {
      acc[h] = shared.halves[0][pos.row[h]];
      acc[h].merge(shared.halves[1][pos.row[h]]);
    }
  }
  __device__ void store_stats(A* stats) {
    if (!pos.is_writer()) return;
    for (int h = 0; h < 2; ++h) {
      A* dst = stats + pos.row[h] * kStats;
      dst[0] = acc[h].max_a, dst[1] = acc[h].max_b, dst[2] = acc[h].sum_a, dst[3] = acc[h].sum_b;
      dst[4] = acc[h].weighted_diff;
    }
  }
  __device__ void combine_stats(const A* stats, int splits) {
    for (int h = 0; h < 2; ++h) {
      acc[h] = RowStats<A>();
      for (int i = 0; i < splits; ++i) {
        const A* src = stats + (i * kBlockM + pos.row[h]) * kStats;
        RowStats<A> o;
        o.max_a = src[0], o.max_b = src[1], o.sum_a = src[2], o.sum_b = src[3], o.weighted_diff = src[4];
        acc[h].merge(o);
      }
    }
  }
  __device__ void store_rows(int) {
    for (int h = 0; h < 2; ++h) {
      const int64_t row = row0 + pos.row[h];
      if (!pos.is_writer() || row >= rows) continue;
      const A lse_a = acc[h].max_a + log(acc[h].sum_a), lse_b = acc[h].max_b + log(acc[h].sum_b);
      // The backward takes mean_diff, not the loss, so that a - b - mean_diff is exactly 0 if p is one-hot.
      const A mean_diff = acc[h].weighted_diff / acc[h].sum_a;
      args.loss[row] = mean_diff - (lse_a - lse_b);
      args.mean_diff[row] = mean_diff;
      args.lse_Q[row] = lse_a;
      args.lse_H[row] = lse_b;
    }
  }
};

template <class A>
struct BackwardArgs {
  const A *grad, *mean_diff, *lse_Q, *lse_H;
};

// dQ (kWrtQ) or dH. The weights are g dKL/da or g dKL/db, the rows those of Q and H, the columns the items.
template <class S, bool kWrtQ>
struct KlBackwardRows : OpBase<S> {
  using A = typename Layout<S>::Acc;
  using Args = BackwardArgs<A>;
  static constexpr int kProducts = 2;
  const Position& pos;
  const int64_t cols;
  A grad[2], mean_diff[2], lse_a[2], lse_b[2];

  __device__ KlBackwardRows(const Args& args, Empty&, const Position& pos, int64_t row0, int64_t rows, int64_t cols,
                            int64_t)
      : pos(pos), cols(cols) {
    for (int h = 0; h < 2; ++h) {
      const int64_t row = row0 + pos.row[h];
      const bool valid = row < rows;
      grad[h] = valid ? args.grad[row] : A(0);
      mean_diff[h] = valid ? args.mean_diff[row] : A(0);
      lse_a[h] = valid ? args.lse_Q[row] : A(0);
      lse_b[h] = valid ? args.lse_H[row] : A(0);
    }
  }
  __device__ void process_tile(A (&a)[4][4], A (&b)[4][4], int64_t tile) {
    const int64_t valid_cols = cols - tile * kBlockN;
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const int h = i % 4 / 2;
      A &x = a[i / 4][i % 4], y = b[i / 4][i % 4];
      const A p = exponential(x - lse_a[h]);
      const A ds = kWrtQ ? p * (x - y - mean_diff[h]) : exponential(y - lse_b[h]) - p;
      x = pos.column(i / 4, i % 4) < valid_cols ? grad[h] * ds : A(0);
    }
  }
};

// dE. The weights are (g dKL/db)^T, the rows the items, the columns the rows of Q and H.
template <class S>
struct KlBackwardE : OpBase<S> {
  using A = typename Layout<S>::Acc;
  using Args = BackwardArgs<A>;
  static constexpr int kProducts = 2;
  const Args& args;
  const Position& pos;
  const int64_t cols;

  __device__ KlBackwardE(const Args& args, Empty&, const Position& pos, int64_t, int64_t, int64_t cols, int64_t)
      : args(args), pos(pos), cols(cols) {}
  __device__ void process_tile(A (&a)[4][4], A (&b)[4][4], int64_t tile) {
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const int64_t col = tile * kBlockN + pos.column(i / 4, i % 4);
      A &x = a[i / 4][i % 4], y = b[i / 4][i % 4];
      x = col < cols ? args.grad[col] * (exponential(y - args.lse_H[col]) - exponential(x - args.lse_Q[col])) : A(0);
    }
  }
};

template <class S>
Params<S> score_params(const void* x0, const void* y0, int width0, const void* x1, const void* y1, int width1,
                       int64_t rows, int64_t cols) {
  Params<S> params{};
  params.X[0] = static_cast<const S*>(x0), params.Y[0] = static_cast<const S*>(y0), params.width[0] = width0;
  params.X[1] = static_cast<const S*>(x1), params.Y[1] = static_cast<const S*>(y1), params.width[1] = width1;
  params.rows = rows, params.cols = cols;
  return params;
}

}  // namespace

Plan plan_soft_kl(Type type, Sizes n, Device device) { return plan(type, n.r, n.s, 0, 5, device); }

Plan plan_soft_kl_backward(Type type, Sizes n, int wrt, Device device) {
  return wrt == 2 ? plan(type, n.s, n.r, n.width_e, 0, device)
                  : plan(type, n.r, n.s, wrt == 0 ? n.width_v : n.width_e, 0, device);
}

cudaError_t soft_kl(Type type, Sizes n, const void* Q, const void* V, const void* H, const void* E, void* loss,
                    void* mean_diff, void* lse_Q, void* lse_H, Context c) {
  return dispatch_type(type, [&](auto zero) {
    using S = decltype(zero);
    using A = typename Layout<S>::Acc;
    const auto params = score_params<S>(Q, V, n.width_v, H, E, n.width_e, n.r, n.s);
    const typename KlForward<S>::Args args{static_cast<A*>(loss), static_cast<A*>(mean_diff), static_cast<A*>(lse_Q),
                                           static_cast<A*>(lse_H)};
    return launch<S, KlForward<S>, 0>(params, args, plan_soft_kl(type, n, c.device), c);
  });
}

cudaError_t soft_kl_backward(Type type, Sizes n, int wrt, const void* grad, const void* Q, const void* V, const void* H,
                             const void* E, const void* mean_diff, const void* lse_Q, const void* lse_H, void* out,
                             Context c) {
  return dispatch_type(type, [&](auto zero) {
    using S = decltype(zero);
    using A = typename Layout<S>::Acc;
    const auto p = plan_soft_kl_backward(type, n, wrt, c.device);
    const BackwardArgs<A> args{static_cast<const A*>(grad), static_cast<const A*>(mean_diff),
                               static_cast<const A*>(lse_Q), static_cast<const A*>(lse_H)};
    auto params = wrt == 2 ? score_params<S>(V, Q, n.width_v, E, H, n.width_e, n.s, n.r)
                           : score_params<S>(Q, V, n.width_v, H, E, n.width_e, n.r, n.s);
    params.Z = static_cast<const S*>(wrt == 0 ? V : wrt == 1 ? E : H);
    params.z_width = wrt == 0 ? n.width_v : n.width_e;
    params.out = static_cast<S*>(out);
    if (wrt == 0) return launch_with_output<S, KlBackwardRows<S, true>>(params, args, p, c);
    if (wrt == 1) return launch_with_output<S, KlBackwardRows<S, false>>(params, args, p, c);
    return launch_with_output<S, KlBackwardE<S>>(params, args, p, c);
  });
}

}  // namespace foster::cuda
