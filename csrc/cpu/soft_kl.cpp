// KL(softmax(Q V^T) || softmax(H E^T)) row by row in one pass over the items, and its backward in another.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>

#include "../checks.h"
#include "../ops.h"
#include "rows.h"
#include "tiles.h"

namespace foster::cpu {

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> soft_kl(const Tensor& Q, const Tensor& V, const Tensor& H,
                                                           const Tensor& E, bool keep) {
  check_soft_kl(Q, V, H, E);
  const int64_t r = Q.size(0), s = V.size(0);
  const auto options = Q.options().dtype(sum_type(Q));
  // of each row so far: the largest scores a and b, their sums of exponentials, sum exp(a - most) (a - b)
  Tensor most_a = at::full({r}, -std::numeric_limits<double>::infinity(), options), most_b = most_a.clone();
  Tensor sum_a = at::zeros({r}, options), sum_b = at::zeros({r}, options), apart = at::zeros({r}, options);
  Tensor kept = room_to_keep(keep, 2, r, s, options);  // the scores a and b
  AT_DISPATCH_FLOATING_TYPES(sum_type(Q), "soft_kl", [&] {
    scalar_t *ma = most_a.data_ptr<scalar_t>(), *mb = most_b.data_ptr<scalar_t>(), *za = sum_a.data_ptr<scalar_t>(),
             *zb = sum_b.data_ptr<scalar_t>(), *d = apart.data_ptr<scalar_t>();
    blocks(r, kRows, [&](int64_t ra, int64_t rb) {
      const Tensor Q_part = part(Q, ra, rb), H_part = part(H, ra, rb);
      blocks(s, kItems, [&](int64_t sa, int64_t sb) {
        const int64_t n = sb - sa;
        const Tensor A = product(Q_part, part(V, sa, sb)).contiguous();
        const Tensor B = product(H_part, part(E, sa, sb)).contiguous();
        if (kept.numel() > 0) {
          kept[0].slice(0, ra, rb).slice(1, sa, sb).copy_(A);
          kept[1].slice(0, ra, rb).slice(1, sa, sb).copy_(B);
        }
        const scalar_t *a = A.const_data_ptr<scalar_t>(), *b = B.const_data_ptr<scalar_t>();
        at::parallel_for(0, rb - ra, std::max<int64_t>(1, kGrain / n), [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) {
            const int64_t row = ra + i;
            const scalar_t now_a = std::max(ma[row], row_max(a + i * n, n));
            const scalar_t now_b = std::max(mb[row], row_max(b + i * n, n));
            const scalar_t shrink_a = std::exp(ma[row] - now_a), shrink_b = std::exp(mb[row] - now_b);
            scalar_t z, difference;
            row_divergence(a + i * n, b + i * n, n, now_a, &z, &difference);
            za[row] = za[row] * shrink_a + z;
            d[row] = d[row] * shrink_a + difference;
            zb[row] = zb[row] * shrink_b + row_exp_sum(b + i * n, n, now_b);
            ma[row] = now_a;
            mb[row] = now_b;
          }
        });
      });
    });
  });
  Tensor lse_Q = most_a + sum_a.log(), lse_H = most_b + sum_b.log();
  // kept as it is: where the first distribution is one item, a - b - centre is then exactly 0
  Tensor centre = apart / sum_a;
  return {centre - (lse_Q - lse_H), centre, lse_Q, lse_H, kept};
}

std::tuple<Tensor, Tensor, Tensor> soft_kl_backward(const Tensor& grad, const Tensor& Q, const Tensor& V,
                                                    const Tensor& H, const Tensor& E, const Tensor& centre,
                                                    const Tensor& lse_Q, const Tensor& lse_H, const Tensor& kept,
                                                    bool need_Q, bool need_H, bool need_E) {
  const int64_t r = Q.size(0), s = V.size(0);
  const auto options = Q.options().dtype(sum_type(Q));
  const Tensor g = grad.to(sum_type(Q)).contiguous();
  const auto made = [&](bool needed, const Tensor& like) {
    if (!needed) return at::empty({0}, options);
    return r > 0 ? at::empty(like.sizes(), options) : at::zeros(like.sizes(), options);
  };
  Tensor dQ = made(need_Q, Q), dH = made(need_H, H), dE = made(need_E, E);
  AT_DISPATCH_FLOATING_TYPES(sum_type(Q), "soft_kl_backward", [&] {
    const scalar_t *la = lse_Q.const_data_ptr<scalar_t>(), *lb = lse_H.const_data_ptr<scalar_t>(),
                   *c = centre.const_data_ptr<scalar_t>(), *w = g.const_data_ptr<scalar_t>();
    blocks(r, kRows, [&](int64_t ra, int64_t rb) {
      const Tensor Q_part = part(Q, ra, rb), H_part = part(H, ra, rb);
      blocks(s, kItems, [&](int64_t sa, int64_t sb) {
        const int64_t n = sb - sa;
        const Tensor V_part = part(V, sa, sb), E_part = part(E, sa, sb);
        const auto scores = [&](int64_t which, const Tensor& x, const Tensor& y) {
          return kept.numel() > 0
                     ? kept[which].slice(0, ra, rb).slice(1, sa, sb).clone(at::MemoryFormat::Contiguous)
                     : product(x, y).contiguous();
        };
        Tensor A = scores(0, Q_part, V_part), B = scores(1, H_part, E_part);
        scalar_t *a = A.data_ptr<scalar_t>(), *b = B.data_ptr<scalar_t>();
        at::parallel_for(0, rb - ra, std::max<int64_t>(1, kGrain / n), [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i)
            row_divergence_gradient(a + i * n, b + i * n, n, la[ra + i], lb[ra + i], c[ra + i], w[ra + i]);
        });
        if (need_Q) add_product(dQ.slice(0, ra, rb), A, V_part.t(), sa == 0);
        if (need_H) add_product(dH.slice(0, ra, rb), B, E_part.t(), sa == 0);
        if (need_E) add_product(dE.slice(0, sa, sb), B.t(), H_part.t(), ra == 0);
      });
    });
  });
  return {dQ.to(Q.scalar_type()), dH.to(H.scalar_type()), dE.to(E.scalar_type())};
}

}  // namespace foster::cpu
