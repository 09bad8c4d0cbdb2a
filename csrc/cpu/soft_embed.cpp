// X = softmax(Q V^T) E in one pass over the items, and its backward in one pass that makes the scores again.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>

#include "../checks.h"
#include "../ops.h"
#include "rows.h"
#include "tiles.h"

namespace foster::cpu {

namespace {

// A small problem, all items at once: P (r, s) = softmax(Q V^T) is left in `kept`.
std::tuple<Tensor, Tensor, Tensor> whole(const Tensor& Q, const Tensor& V, const Tensor& E, Tensor kept) {
  const int64_t r = Q.size(0), s = V.size(0);
  Tensor P = kept[0], X = at::empty({r, E.size(1)}, kept.options()), lse = at::empty({r}, kept.options());
  AT_DISPATCH_FLOATING_TYPES(sum_type(Q), "soft_embed", [&] {
    scalar_t *p = P.data_ptr<scalar_t>(), *l = lse.data_ptr<scalar_t>();
    add_product(P, part(Q, 0, r), part(V, 0, s), true);
    at::parallel_for(0, r, std::max<int64_t>(1, kGrain / s), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const scalar_t most = row_max(p + i * s, s), sum = row_exp(p + i * s, s, most);
        row_scale(p + i * s, s, 1 / sum);
        l[i] = most + std::log(sum);
      }
    });
    add_product(X, P, part(E, 0, s).t(), true);
  });
  return {X.to(E.scalar_type()), lse, kept};
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor> soft_embed(const Tensor& Q, const Tensor& V, const Tensor& E, bool keep) {
  check_soft_embed(Q, V, E);
  const int64_t r = Q.size(0), s = V.size(0), width = E.size(1);
  const auto options = Q.options().dtype(sum_type(Q));
  Tensor X = at::empty({r, width}, options);
  Tensor kept = room_to_keep(keep, 1, r, s, options);
  if (kept.numel() > 0) return whole(Q, V, E, kept);
  Tensor most = at::full({r}, -std::numeric_limits<double>::infinity(), options), sum = at::zeros({r}, options);
  AT_DISPATCH_FLOATING_TYPES(sum_type(Q), "soft_embed", [&] {
    blocks(r, kRows, [&](int64_t ra, int64_t rb) {
      const Tensor Q_part = part(Q, ra, rb);
      Tensor X_part = X.slice(0, ra, rb);
      scalar_t *x = X_part.data_ptr<scalar_t>(), *m = most.data_ptr<scalar_t>() + ra,
               *z = sum.data_ptr<scalar_t>() + ra;
      blocks(s, kItems, [&](int64_t sa, int64_t sb) {
        const int64_t n = sb - sa;
        Tensor scores = product(Q_part, part(V, sa, sb)).contiguous();
        scalar_t* a = scores.data_ptr<scalar_t>();
        at::parallel_for(0, rb - ra, std::max<int64_t>(1, kGrain / n), [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) {
            const scalar_t before = m[i], now = std::max(before, row_max(a + i * n, n));
            const scalar_t shrink = before == now ? scalar_t(1) : std::exp(before - now);
            z[i] = z[i] * shrink + row_exp(a + i * n, n, now);
            if (sa > 0 && shrink != scalar_t(1))
              for (int64_t j = 0; j < width; ++j) x[i * width + j] *= shrink;
            m[i] = now;
          }
        });
        add_product(X_part, scores, part(E, sa, sb).t(), sa == 0);
      });
    });
  });
  X.div_(sum.unsqueeze(1));
  return {X.to(E.scalar_type()), most + sum.log(), kept};
}

std::tuple<Tensor, Tensor> soft_embed_backward(const Tensor& grad, const Tensor& Q, const Tensor& V, const Tensor& E,
                                               const Tensor& X, const Tensor& lse, const Tensor& kept, bool need_Q,
                                               bool need_E) {
  const int64_t r = Q.size(0), s = V.size(0);
  const auto options = Q.options().dtype(sum_type(Q));
  const Tensor g = grad.to(sum_type(Q)).contiguous();
  const Tensor centre = need_Q ? (g * X.to(sum_type(Q))).sum(1) : lse;
  Tensor dQ = need_Q ? at::empty(Q.sizes(), options) : at::empty({0}, options);
  Tensor dE = need_E ? (r > 0 ? at::empty(E.sizes(), options) : at::zeros(E.sizes(), options)) : at::empty({0}, options);
  if (kept.numel() > 0) {
    const Tensor P = kept[0], E_all = part(E, 0, s);
    if (need_Q) {
      Tensor slope = product(g, E_all).contiguous();
      AT_DISPATCH_FLOATING_TYPES(sum_type(Q), "soft_embed_backward", [&] {
        const scalar_t *p = P.const_data_ptr<scalar_t>(), *c = centre.const_data_ptr<scalar_t>();
        scalar_t* d = slope.data_ptr<scalar_t>();
        at::parallel_for(0, r, std::max<int64_t>(1, kGrain / s), [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) row_weigh(d + i * s, p + i * s, s, c[i]);
        });
      });
      add_product(dQ, slope, part(V, 0, s).t(), true);
    }
    if (need_E) add_product(dE, P.t(), g.t(), true);
    return {dQ.to(Q.scalar_type()), dE.to(E.scalar_type())};
  }
  AT_DISPATCH_FLOATING_TYPES(sum_type(Q), "soft_embed_backward", [&] {
    const scalar_t *l = lse.data_ptr<scalar_t>(), *c = centre.data_ptr<scalar_t>();
    blocks(r, kRows, [&](int64_t ra, int64_t rb) {
      const Tensor Q_part = part(Q, ra, rb), g_part = g.slice(0, ra, rb);
      blocks(s, kItems, [&](int64_t sa, int64_t sb) {
        const int64_t n = sb - sa;
        const Tensor V_part = part(V, sa, sb);
        Tensor P = product(Q_part, V_part).contiguous();
        Tensor slope = need_Q ? product(g_part, part(E, sa, sb)).contiguous() : Tensor();
        scalar_t *p = P.data_ptr<scalar_t>(), *d = need_Q ? slope.data_ptr<scalar_t>() : nullptr;
        at::parallel_for(0, rb - ra, std::max<int64_t>(1, kGrain / n), [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) {
            if (need_Q)
              row_softmax_gradient(p + i * n, d + i * n, n, l[ra + i], c[ra + i]);
            else
              row_exp(p + i * n, n, l[ra + i]);
          }
        });
        if (need_Q) add_product(dQ.slice(0, ra, rb), slope, V_part.t(), sa == 0);
        if (need_E) add_product(dE.slice(0, sa, sb), P.t(), g_part.t(), ra == 0);
      });
    });
  });
  return {dQ.to(Q.scalar_type()), dE.to(E.scalar_type())};
}

}  // namespace foster::cpu
