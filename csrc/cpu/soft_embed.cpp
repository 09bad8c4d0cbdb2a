// X = softmax(Q V^T) E by an online softmax in one pass over the items, and its backward, which recomputes the scores.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>

#include "../checks.h"
#include "../ops.h"
#include "rows.h"
#include "tiles.h"

namespace foster::cpu {

namespace {

// A small problem, all items in one tile: P (r, s) = softmax(Q V^T) is stored in `saved`.
std::tuple<Tensor, Tensor, Tensor> forward_saving(const Tensor& Q, const Tensor& V, const Tensor& E, Tensor saved) {
  const int64_t r = Q.size(0), s = V.size(0);
  Tensor P = saved[0], X = at::empty({r, E.size(1)}, saved.options()), lse = at::empty({r}, saved.options());
  AT_DISPATCH_FLOATING_TYPES(accumulate_type(Q), "soft_embed", [&] {
    scalar_t *p = P.data_ptr<scalar_t>(), *l = lse.data_ptr<scalar_t>();
    accumulate_matmul_nt(P, row_slice(Q, 0, r), row_slice(V, 0, s), true);
    at::parallel_for(0, r, std::max<int64_t>(1, kGrainSize / s), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const scalar_t max = row_max(p + i * s, s), sum = row_exp(p + i * s, s, max);
        row_scale(p + i * s, s, 1 / sum);
        l[i] = max + std::log(sum);
      }
    });
    accumulate_matmul_nt(X, P, row_slice(E, 0, s).t(), true);
  });
  return {X.to(E.scalar_type()), lse, saved};
}

// The backward from the saved P: dQ and dE, where they are not empty.
void backward_saved(const Tensor& grad, const Tensor& V, const Tensor& E, const Tensor& P, const Tensor& delta,
                    Tensor dQ, Tensor dE, bool need_Q, bool need_E) {
  const int64_t r = P.size(0), s = P.size(1);
  const Tensor E_all = row_slice(E, 0, s);
  if (need_Q) {
    Tensor dP = matmul_nt(grad, E_all).contiguous();
    AT_DISPATCH_FLOATING_TYPES(P.scalar_type(), "soft_embed_backward", [&] {
      const scalar_t *p = P.const_data_ptr<scalar_t>(), *row_delta = delta.const_data_ptr<scalar_t>();
      scalar_t* dp = dP.data_ptr<scalar_t>();
      at::parallel_for(0, r, std::max<int64_t>(1, kGrainSize / s), [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) row_softmax_backward(dp + i * s, p + i * s, s, row_delta[i]);
      });
    });
    accumulate_matmul_nt(dQ, dP, row_slice(V, 0, s).t(), true);
  }
  if (need_E) accumulate_matmul_nt(dE, P.t(), grad.t(), true);
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor> soft_embed(const Tensor& Q, const Tensor& V, const Tensor& E, bool save_scores) {
  check_soft_embed(Q, V, E);
  const int64_t r = Q.size(0), s = V.size(0), width = E.size(1);
  const auto options = Q.options().dtype(accumulate_type(Q));
  Tensor X = at::empty({r, width}, options);
  Tensor saved = empty_saved(save_scores, 1, r, s, options);
  if (saved.numel() > 0) return forward_saving(Q, V, E, saved);
  // of each row so far: the maximum, and the sum of exponentials relative to it
  Tensor max = at::full({r}, -std::numeric_limits<double>::infinity(), options), sum = at::zeros({r}, options);
  AT_DISPATCH_FLOATING_TYPES(accumulate_type(Q), "soft_embed", [&] {
    for_each_tile(r, kTileRows, [&](int64_t ra, int64_t rb) {
      const Tensor Q_tile = row_slice(Q, ra, rb);
      Tensor X_tile = X.slice(0, ra, rb);
      scalar_t *x = X_tile.data_ptr<scalar_t>(), *m = max.data_ptr<scalar_t>() + ra,
               *den = sum.data_ptr<scalar_t>() + ra;
      for_each_tile(s, kTileItems, [&](int64_t sa, int64_t sb) {
        const int64_t n = sb - sa;
        Tensor scores = matmul_nt(Q_tile, row_slice(V, sa, sb)).contiguous();
        scalar_t* a = scores.data_ptr<scalar_t>();
        at::parallel_for(0, rb - ra, std::max<int64_t>(1, kGrainSize / n), [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) {
            const scalar_t old_max = m[i], new_max = std::max(old_max, row_max(a + i * n, n));
            const scalar_t rescale = old_max == new_max ? scalar_t(1) : std::exp(old_max - new_max);
            den[i] = den[i] * rescale + row_exp(a + i * n, n, new_max);
            if (sa > 0 && rescale != scalar_t(1))
              for (int64_t j = 0; j < width; ++j) x[i * width + j] *= rescale;
            m[i] = new_max;
          }
        });
        accumulate_matmul_nt(X_tile, scores, row_slice(E, sa, sb).t(), sa == 0);
      });
    });
  });
  X.div_(sum.unsqueeze(1));
  return {X.to(E.scalar_type()), max + sum.log(), saved};
}

std::tuple<Tensor, Tensor> soft_embed_backward(const Tensor& grad, const Tensor& Q, const Tensor& V, const Tensor& E,
                                               const Tensor& X, const Tensor& lse, const Tensor& saved, bool need_Q,
                                               bool need_E) {
  const int64_t r = Q.size(0), s = V.size(0);
  const auto options = Q.options().dtype(accumulate_type(Q));
  const Tensor g = grad.to(accumulate_type(Q)).contiguous();
  const Tensor delta = need_Q ? (g * X.to(accumulate_type(Q))).sum(1) : lse;
  Tensor dQ = need_Q ? at::empty(Q.sizes(), options) : at::empty({0}, options);
  Tensor dE = !need_E ? at::empty({0}, options) : r > 0 ? at::empty(E.sizes(), options) : at::zeros(E.sizes(), options);
  if (saved.numel() > 0) {
    backward_saved(g, V, E, saved[0], delta, dQ, dE, need_Q, need_E);
    return {dQ.to(Q.scalar_type()), dE.to(E.scalar_type())};
  }
  AT_DISPATCH_FLOATING_TYPES(accumulate_type(Q), "soft_embed_backward", [&] {
    const scalar_t *l = lse.data_ptr<scalar_t>(), *row_delta = delta.data_ptr<scalar_t>();
    for_each_tile(r, kTileRows, [&](int64_t ra, int64_t rb) {
      const Tensor Q_tile = row_slice(Q, ra, rb), g_tile = g.slice(0, ra, rb);
      for_each_tile(s, kTileItems, [&](int64_t sa, int64_t sb) {
        const int64_t n = sb - sa;
        const Tensor V_tile = row_slice(V, sa, sb);
        Tensor P = matmul_nt(Q_tile, V_tile).contiguous();
        Tensor dP = need_Q ? matmul_nt(g_tile, row_slice(E, sa, sb)).contiguous() : Tensor();
        scalar_t *p = P.data_ptr<scalar_t>(), *dp = need_Q ? dP.data_ptr<scalar_t>() : nullptr;
        at::parallel_for(0, rb - ra, std::max<int64_t>(1, kGrainSize / n), [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) {
            if (need_Q)
              row_recompute_softmax_backward(p + i * n, dp + i * n, n, l[ra + i], row_delta[ra + i]);
            else
              row_exp(p + i * n, n, l[ra + i]);
          }
        });
        if (need_Q) accumulate_matmul_nt(dQ.slice(0, ra, rb), dP, V_tile.t(), sa == 0);
        if (need_E) accumulate_matmul_nt(dE.slice(0, sa, sb), P.t(), g_tile.t(), ra == 0);
      });
    });
  });
  return {dQ.to(Q.scalar_type()), dE.to(E.scalar_type())};
}

}  // namespace foster::cpu
