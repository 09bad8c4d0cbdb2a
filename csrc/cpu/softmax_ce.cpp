// The cross-entropy of each row's target among all items, and its gradients, in blocks of rows whose scores stay in a
// core's cache.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>

#include "../checks.h"
#include "../ops.h"
#include "rows.h"
#include "tiles.h"

namespace foster::cpu {

// Scores of a block: 1 MiB in float.
constexpr int64_t kBlock = int64_t(1) << 18;

std::tuple<Tensor, Tensor, Tensor> softmax_ce(const Tensor& H, const Tensor& E_, const Tensor& target_,
                                              const std::optional<Tensor>& correction_, bool gradients) {
  check_softmax_ce(H, E_, target_, correction_);
  const int64_t r = H.size(0), s = E_.size(0), rows = std::max<int64_t>(16, kBlock / s);
  const auto wide = accumulate_type(H);
  const auto options = H.options().dtype(wide);
  const Tensor E = E_.to(wide), target = target_.contiguous(), loss = at::empty({r}, options);
  const Tensor correction = correction_ ? correction_->to(wide).contiguous() : Tensor();
  const int64_t* y = target.const_data_ptr<int64_t>();
  TORCH_CHECK(r == 0 || (target.min().item<int64_t>() >= 0 && target.max().item<int64_t>() < s),
              "softmax_ce: a target is outside the items");
  Tensor dH = at::empty({gradients ? r : 0, H.size(1)}, options), dE = at::zeros_like(E, at::MemoryFormat::Contiguous);
  AT_DISPATCH_FLOATING_TYPES(wide, "softmax_ce", [&] {
    scalar_t* out = loss.data_ptr<scalar_t>();
    const scalar_t* add = correction_ ? correction.const_data_ptr<scalar_t>() : nullptr;
    for_each_tile(r, rows, [&](int64_t a, int64_t b) {
      const Tensor h = row_slice(H, a, b), S = matmul_nt(h, E).contiguous();
      scalar_t* x = S.data_ptr<scalar_t>();
      at::parallel_for(0, b - a, std::max<int64_t>(1, kGrainSize / s), [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          scalar_t* row = x + i * s;
          const scalar_t own = row[y[a + i]];
          if (add != nullptr) {
            row_add(row, add, s);
            row[y[a + i]] = own;
          }
          const scalar_t max = row_max(row, s), sum = row_exp(row, s, max);
          out[a + i] = std::log(sum) + (max - own);
          if (!gradients) continue;
          row_scale(row, s, scalar_t(1) / (sum * r));
          row[y[a + i]] -= scalar_t(1) / r;
        }
      });
      if (!gradients) return;
      accumulate_matmul_nt(dH.slice(0, a, b), S, E.t(), true);
      accumulate_matmul_nt(dE, S.t(), h.t(), false);
    });
  });
  if (!gradients) return {loss.mean(), at::empty({0}, H.options()), at::empty({0}, H.options())};
  return {loss.mean(), dH.to(H.scalar_type()), dE.to(H.scalar_type())};
}

}  // namespace foster::cpu
