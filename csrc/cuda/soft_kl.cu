// KL(softmax(Q V^T) || softmax(H E^T)) of each row in nats, and its gradients.
//
// With scores a = Q V^T, b = H E^T, p = softmax(a), q = softmax(b) and centre = sum_k p_k (a_k - b_k):
// KL = centre - (lse_a - lse_b), dKL/da = p (a - b - centre), dKL/db = q - p. So dQ = g dKL/da V, dH = g dKL/db E,
// dE = (g dKL/db)^T H. The backward makes a and b again.
#include "op.cuh"

namespace foster::cuda {
namespace {

// Of some of a row's items: the largest scores, sums of exponentials relative to them, and sum e^(a - most_a) (a - b).
template <class A>
struct Sums {
  A most_a = -INFINITY, most_b = -INFINITY, sum_a = 0, sum_b = 0, apart = 0;

  __device__ void add(const Sums& o) {
    const A now_a = larger(most_a, o.most_a), now_b = larger(most_b, o.most_b);
    const A mine_a = shrink(most_a, now_a), other_a = shrink(o.most_a, now_a);
    sum_a = sum_a * mine_a + o.sum_a * other_a;
    apart = apart * mine_a + o.apart * other_a;
    sum_b = sum_b * shrink(most_b, now_b) + o.sum_b * shrink(o.most_b, now_b);
    most_a = now_a;
    most_b = now_b;
  }
  __device__ Sums of_lane(int mask) const {
    Sums o;
    o.most_a = lane_xor(most_a, mask);
    o.most_b = lane_xor(most_b, mask);
    o.sum_a = lane_xor(sum_a, mask);
    o.sum_b = lane_xor(sum_b, mask);
    o.apart = lane_xor(apart, mask);
    return o;
  }
};

// Each thread keeps the sums of its own columns; they meet at the end.
template <class S>
struct Kl : Plain<S> {
  using A = typename Layout<S>::Sum;
  struct Args {
    A *loss, *centre, *lse_Q, *lse_H;
  };
  struct Shared {
    Sums<A> side[2][kRows];
  };
  static constexpr int kProducts = 2, kStats = 5;
  const Args& args;
  Shared& own;
  const Place& at;
  const int64_t row0, rows, cols;
  Sums<A> sums[2];

  __device__ Kl(const Args& args, Shared& own, const Place& at, int64_t row0, int64_t rows, int64_t cols, int64_t)
      : args(args), own(own), at(at), row0(row0), rows(rows), cols(cols) {}

  __device__ void see(A (&a)[4][4], A (&b)[4][4], int64_t tile) {
    const int64_t left = cols - tile * kTile;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      Sums<A> found;
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int j = i / 2, e = 2 * h + i % 2;
        if (at.column(j, e) < left) {
          found.most_a = larger(found.most_a, a[j][e]);
          found.most_b = larger(found.most_b, b[j][e]);
        }
      }
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int j = i / 2, e = 2 * h + i % 2;
        if (at.column(j, e) < left) {
          const A x = exponential(a[j][e] - found.most_a);
          found.sum_a += x;
          found.apart += x * (a[j][e] - b[j][e]);
          found.sum_b += exponential(b[j][e] - found.most_b);
        }
      }
      sums[h].add(found);
    }
  }
  __device__ void join() {
    for (int h = 0; h < 2; ++h) {
      sums[h].add(sums[h].of_lane(1));
      sums[h].add(sums[h].of_lane(2));
      if (at.lane_t == 0) own.side[at.side][at.row[h]] = sums[h];
    }
    __syncthreads();
    for (int h = 0; h < 2; ++h) {
      sums[h] = own.side[0][at.row[h]];
      sums[h].add(own.side[1][at.row[h]]);
    }
  }
  __device__ void save(A* stats) {
    if (!at.writes()) return;
    for (int h = 0; h < 2; ++h) {
      A* to = stats + at.row[h] * kStats;
      to[0] = sums[h].most_a, to[1] = sums[h].most_b, to[2] = sums[h].sum_a, to[3] = sums[h].sum_b;
      to[4] = sums[h].apart;
    }
  }
  __device__ void gather(const A* stats, int splits) {
    for (int h = 0; h < 2; ++h) {
      sums[h] = Sums<A>();
      for (int i = 0; i < splits; ++i) {
        const A* from = stats + (i * kRows + at.row[h]) * kStats;
        Sums<A> o;
        o.most_a = from[0], o.most_b = from[1], o.sum_a = from[2], o.sum_b = from[3], o.apart = from[4];
        sums[h].add(o);
      }
    }
  }
  __device__ void finish(int) {
    for (int h = 0; h < 2; ++h) {
      const int64_t row = row0 + at.row[h];
      if (!at.writes() || row >= rows) continue;
      const A lse_a = sums[h].most_a + log(sums[h].sum_a), lse_b = sums[h].most_b + log(sums[h].sum_b);
      // kept as it is: where the first distribution is one item, a - b - centre is then exactly 0
      const A centre = sums[h].apart / sums[h].sum_a;
      args.loss[row] = centre - (lse_a - lse_b);
      args.centre[row] = centre;
      args.lse_Q[row] = lse_a;
      args.lse_H[row] = lse_b;
    }
  }
};

template <class A>
struct Slopes {
  const A *grad, *centre, *lse_Q, *lse_H;
};

// Weights g dKL/da (kToQ) or g dKL/db; rows are those of Q and H, columns the items.
template <class S, bool kToQ>
struct KlRows : Plain<S> {
  using A = typename Layout<S>::Sum;
  using Args = Slopes<A>;
  static constexpr int kProducts = 2;
  const Place& at;
  const int64_t cols;
  A grad[2], centre[2], lse_a[2], lse_b[2];

  __device__ KlRows(const Args& args, Nothing&, const Place& at, int64_t row0, int64_t rows, int64_t cols, int64_t)
      : at(at), cols(cols) {
    for (int h = 0; h < 2; ++h) {
      const int64_t row = row0 + at.row[h];
      const bool there = row < rows;
      grad[h] = there ? args.grad[row] : A(0);
      centre[h] = there ? args.centre[row] : A(0);
      lse_a[h] = there ? args.lse_Q[row] : A(0);
      lse_b[h] = there ? args.lse_H[row] : A(0);
    }
  }
  __device__ void see(A (&a)[4][4], A (&b)[4][4], int64_t tile) {
    const int64_t left = cols - tile * kTile;
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const int h = i % 4 / 2;
      A &x = a[i / 4][i % 4], y = b[i / 4][i % 4];
      const A p = exponential(x - lse_a[h]);
      const A slope = kToQ ? p * (x - y - centre[h]) : exponential(y - lse_b[h]) - p;
      x = at.column(i / 4, i % 4) < left ? grad[h] * slope : A(0);
    }
  }
};

// Weights (g dKL/db)^T; rows are the items, columns the rows of Q and H.
template <class S>
struct KlE : Plain<S> {
  using A = typename Layout<S>::Sum;
  using Args = Slopes<A>;
  static constexpr int kProducts = 2;
  const Args& args;
  const Place& at;
  const int64_t cols;

  __device__ KlE(const Args& args, Nothing&, const Place& at, int64_t, int64_t, int64_t cols, int64_t)
      : args(args), at(at), cols(cols) {}
  __device__ void see(A (&a)[4][4], A (&b)[4][4], int64_t tile) {
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const int64_t col = tile * kTile + at.column(i / 4, i % 4);
      A &x = a[i / 4][i % 4], y = b[i / 4][i % 4];
      x = col < cols ? args.grad[col] * (exponential(y - args.lse_H[col]) - exponential(x - args.lse_Q[col])) : A(0);
    }
  }
};

template <class S>
Stream<S> scores_of(const void* x0, const void* y0, int width0, const void* x1, const void* y1, int width1,
                    int64_t rows, int64_t cols) {
  Stream<S> s{};
  s.X[0] = static_cast<const S*>(x0), s.Y[0] = static_cast<const S*>(y0), s.width[0] = width0;
  s.X[1] = static_cast<const S*>(x1), s.Y[1] = static_cast<const S*>(y1), s.width[1] = width1;
  s.rows = rows, s.cols = cols;
  return s;
}

}  // namespace

Plan plan_soft_kl(Type type, Sizes n, Device device) { return plan(type, n.r, n.s, 0, 5, device); }

Plan plan_soft_kl_backward(Type type, Sizes n, int part, Device device) {
  return part == 2 ? plan(type, n.s, n.r, n.other, 0, device)
                   : plan(type, n.r, n.s, part == 0 ? n.width : n.other, 0, device);
}

cudaError_t soft_kl(Type type, Sizes n, const void* Q, const void* V, const void* H, const void* E, void* loss,
                    void* centre, void* lse_Q, void* lse_H, Context c) {
  return with_type(type, [&](auto zero) {
    using S = decltype(zero);
    using A = typename Layout<S>::Sum;
    const auto s = scores_of<S>(Q, V, n.width, H, E, n.other, n.r, n.s);
    const typename Kl<S>::Args args{static_cast<A*>(loss), static_cast<A*>(centre), static_cast<A*>(lse_Q),
                                    static_cast<A*>(lse_H)};
    return launch<S, Kl<S>, 0>(s, args, plan_soft_kl(type, n, c.device), c);
  });
}

cudaError_t soft_kl_backward(Type type, Sizes n, int part, const void* grad, const void* Q, const void* V,
                             const void* H, const void* E, const void* centre, const void* lse_Q, const void* lse_H,
                             void* out, Context c) {
  return with_type(type, [&](auto zero) {
    using S = decltype(zero);
    using A = typename Layout<S>::Sum;
    const auto p = plan_soft_kl_backward(type, n, part, c.device);
    const Slopes<A> args{static_cast<const A*>(grad), static_cast<const A*>(centre), static_cast<const A*>(lse_Q),
                         static_cast<const A*>(lse_H)};
    auto s = part == 2 ? scores_of<S>(V, Q, n.width, E, H, n.other, n.s, n.r)
                       : scores_of<S>(Q, V, n.width, H, E, n.other, n.r, n.s);
    s.Z = static_cast<const S*>(part == 0 ? V : part == 1 ? E : H);
    s.z_width = part == 0 ? n.width : n.other;
    s.out = static_cast<S*>(out);
    if (part == 0) return launch_weighted<S, KlRows<S, true>>(s, args, p, c);
    if (part == 1) return launch_weighted<S, KlRows<S, false>>(s, args, p, c);
    return launch_weighted<S, KlE<S>>(s, args, p, c);
  });
}

}  // namespace foster::cuda
