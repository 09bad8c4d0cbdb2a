// KL(softmax(Q V^T) || softmax(H E^T)) of each row by an online softmax in one pass over the items, and its backward.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>

#include "../checks.h"
#include "../ops.h"
#include "rows.h"
#include "tiles.h"

namespace foster::cpu {

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> soft_kl(const Tensor& Q, const Tensor& V, const Tensor& H,
                                                           const Tensor& E, bool save_scores) {
  check_soft_kl(Q, V, H, E);
  const int64_t r = Q.size(0), s = V.size(0);
  const auto options = Q.options().dtype(accumulate_type(Q));
  // of each row so far: the maxima of the scores a and b, their sums of exponentials, and sum exp(a - max_a) (a - b)
  Tensor max_a = at::full({r}, -std::numeric_limits<double>::infinity(), options), max_b = max_a.clone();
  Tensor sum_a = at::zeros({r}, options), sum_b = at::zeros({r}, options), weighted_diff = at::zeros({r}, options);
  Tensor saved = empty_saved(save_scores, 2, r, s, options);  // the scores a and b
  AT_DISPATCH_FLOATING_TYPES(accumulate_type(Q), "soft_kl", [&] {
    scalar_t *ma = max_a.data_ptr<scalar_t>(), *mb = max_b.data_ptr<scalar_t>();
    scalar_t *den_a = sum_a.data_ptr<scalar_t>(), *den_b = sum_b.data_ptr<scalar_t>();
    scalar_t* wd = weighted_diff.data_ptr<scalar_t>();
    for_each_tile(r, kTileRows, [&](int64_t ra, int64_t rb) {
      const Tensor Q_tile = row_slice(Q, ra, rb), H_tile = row_slice(H, ra, rb);
      for_each_tile(s, kTileItems, [&](int64_t sa, int64_t sb) {
        const int64_t n = sb - sa;
        const Tensor A = matmul_nt(Q_tile, row_slice(V, sa, sb)).contiguous();
        const Tensor B = matmul_nt(H_tile, row_slice(E, sa, sb)).contiguous();
        if (saved.numel() > 0) {
          saved[0].slice(0, ra, rb).slice(1, sa, sb).copy_(A);
          saved[1].slice(0, ra, rb).slice(1, sa, sb).copy_(B);
        }
        const scalar_t *a = A.const_data_ptr<scalar_t>(), *b = B.const_data_ptr<scalar_t>();
        at::parallel_for(0, rb - ra, std::max<int64_t>(1, kGrainSize / n), [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) {
            const int64_t row = ra + i;
            const scalar_t new_max_a = std::max(ma[row], row_max(a + i * n, n));
            const scalar_t new_max_b = std::max(mb[row], row_max(b + i * n, n));
            const scalar_t rescale_a = std::exp(ma[row] - new_max_a), rescale_b = std::exp(mb[row] - new_max_b);
            scalar_t tile_sum, tile_diff;
            row_kl_sums(a + i * n, b + i * n, n, new_max_a, &tile_sum, &tile_diff);
            den_a[row] = den_a[row] * rescale_a + tile_sum;
            wd[row] = wd[row] * rescale_a + tile_diff;
            den_b[row] = den_b[row] * rescale_b + row_exp_sum(b + i * n, n, new_max_b);
            ma[row] = new_max_a;
            mb[row] = new_max_b;
          }
        });
      });
    });
  });
  Tensor lse_Q = max_a + sum_a.log(), lse_H = max_b + sum_b.log();
  // The backward takes mean_diff, not the loss, so that a - b - mean_diff is exactly 0 if the first softmax is one-hot.
  Tensor mean_diff = weighted_diff / sum_a;
  return {mean_diff - (lse_Q - lse_H), mean_diff, lse_Q, lse_H, saved};
}

std::tuple<Tensor, Tensor, Tensor> soft_kl_backward(const Tensor& grad, const Tensor& Q, const Tensor& V,
                                                    const Tensor& H, const Tensor& E, const Tensor& mean_diff,
                                                    const Tensor& lse_Q, const Tensor& lse_H, const Tensor& saved,
                                                    bool need_Q, bool need_H, bool need_E) {
  const int64_t r = Q.size(0), s = V.size(0);
  const auto options = Q.options().dtype(accumulate_type(Q));
  const Tensor g = grad.to(accumulate_type(Q)).contiguous();
  const auto allocate = [&](bool needed, const Tensor& like) {
    if (!needed) return at::empty({0}, options);
    return r > 0 ? at::empty(like.sizes(), options) : at::zeros(like.sizes(), options);
  };
  Tensor dQ = allocate(need_Q, Q), dH = allocate(need_H, H), dE = allocate(need_E, E);
  AT_DISPATCH_FLOATING_TYPES(accumulate_type(Q), "soft_kl_backward", [&] {
    const scalar_t *la = lse_Q.const_data_ptr<scalar_t>(), *lb = lse_H.const_data_ptr<scalar_t>(),
                   *md = mean_diff.const_data_ptr<scalar_t>(), *w = g.const_data_ptr<scalar_t>();
    for_each_tile(r, kTileRows, [&](int64_t ra, int64_t rb) {
      const Tensor Q_tile = row_slice(Q, ra, rb), H_tile = row_slice(H, ra, rb);
      for_each_tile(s, kTileItems, [&](int64_t sa, int64_t sb) {
        const int64_t n = sb - sa;
        const Tensor V_tile = row_slice(V, sa, sb), E_tile = row_slice(E, sa, sb);
        const auto scores = [&](int64_t which, const Tensor& x, const Tensor& y) {
          return saved.numel() > 0 ? saved[which].slice(0, ra, rb).slice(1, sa, sb).clone(at::MemoryFormat::Contiguous)
                                   : matmul_nt(x, y).contiguous();
        };
        Tensor A = scores(0, Q_tile, V_tile), B = scores(1, H_tile, E_tile);
        scalar_t *a = A.data_ptr<scalar_t>(), *b = B.data_ptr<scalar_t>();
        at::parallel_for(0, rb - ra, std::max<int64_t>(1, kGrainSize / n), [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i)
            row_kl_backward(a + i * n, b + i * n, n, la[ra + i], lb[ra + i], md[ra + i], w[ra + i]);
        });
        if (need_Q) accumulate_matmul_nt(dQ.slice(0, ra, rb), A, V_tile.t(), sa == 0);
        if (need_H) accumulate_matmul_nt(dH.slice(0, ra, rb), B, E_tile.t(), sa == 0);
        if (need_E) accumulate_matmul_nt(dE.slice(0, sa, sb), B.t(), H_tile.t(), ra == 0);
      });
    });
  });
  return {dQ.to(Q.scalar_type()), dH.to(H.scalar_type()), dE.to(E.scalar_type())};
}

}  // namespace foster::cpu
