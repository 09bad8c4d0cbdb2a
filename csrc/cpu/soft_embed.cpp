// X = softmax(Q V^T) E in one pass over the items, and its backward in one pass that makes the scores again.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>

#include "../checks.h"
#include "../ops.h"
#include "rows.h"
#include "tiles.h"

namespace foster::cpu {

std::tuple<Tensor, Tensor> soft_embed(const Tensor& Q, const Tensor& V, const Tensor& E) {
  check_soft_embed(Q, V, E);
  const int64_t r = Q.size(0), s = V.size(0), width = E.size(1);
  const auto options = Q.options().dtype(sum_type(Q));
  Tensor X = at::zeros({r, width}, options);
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
            if (shrink != scalar_t(1))
              for (int64_t j = 0; j < width; ++j) x[i * width + j] *= shrink;
            m[i] = now;
          }
        });
        X_part.add_(product(scores, part(E, sa, sb).t()));
      });
    });
  });
  X.div_(sum.unsqueeze(1));
  return {X.to(E.scalar_type()), most + sum.log()};
}

std::tuple<Tensor, Tensor> soft_embed_backward(const Tensor& grad, const Tensor& Q, const Tensor& V, const Tensor& E,
                                               const Tensor& X, const Tensor& lse, bool need_Q, bool need_E) {
  const int64_t r = Q.size(0), s = V.size(0);
  const auto options = Q.options().dtype(sum_type(Q));
  const Tensor g = grad.to(sum_type(Q)).contiguous();
  const Tensor centre = (g * X.to(sum_type(Q))).sum(1);
  Tensor dQ = need_Q ? at::zeros(Q.sizes(), options) : at::empty({0}, options);
  Tensor dE = need_E ? at::zeros(E.sizes(), options) : at::empty({0}, options);
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
        if (need_Q) dQ.slice(0, ra, rb).add_(product(slope, V_part.t()));
        if (need_E) dE.slice(0, sa, sb).add_(product(P.t(), g_part.t()));
      });
    });
  });
  return {dQ.to(Q.scalar_type()), dE.to(E.scalar_type())};
}

}  // namespace foster::cpu
