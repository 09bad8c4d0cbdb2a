// Checks of the arguments of the ops, the same on every device.
#pragma once

#include <optional>

#include <ATen/ATen.h>

namespace foster {

using at::Tensor;

// Checks that x (r, d) and w (s, d) are matrices of one supported type on one device, with s > 0.
inline void check_pair(const Tensor& x, const Tensor& w, const char* names) {
  TORCH_CHECK(x.dim() == 2 && w.dim() == 2 && x.size(1) == w.size(1), names, ": matrices of one width are needed, not ",
              x.sizes(), " and ", w.sizes());
  TORCH_CHECK(x.scalar_type() == w.scalar_type(), names, ": one type is needed, not ", x.scalar_type(), " and ",
              w.scalar_type());
  TORCH_CHECK(x.scalar_type() == at::kFloat || x.scalar_type() == at::kDouble || x.scalar_type() == at::kBFloat16,
              names, ": float, double or bfloat16 are needed, not ", x.scalar_type());
  TORCH_CHECK(x.device() == w.device(), names, ": one device is needed, not ", x.device(), " and ", w.device());
  TORCH_CHECK(w.size(0) > 0, names, ": no items");
}

inline void check_soft_embed(const Tensor& Q, const Tensor& V, const Tensor& E) {
  check_pair(Q, V, "soft_embed: Q, V");
  TORCH_CHECK(E.dim() == 2 && E.size(0) == V.size(0) && E.scalar_type() == V.scalar_type() && E.device() == V.device(),
              "soft_embed: E ", E.sizes(), " does not fit V ", V.sizes());
}

inline void check_soft_kl(const Tensor& Q, const Tensor& V, const Tensor& H, const Tensor& E) {
  check_pair(Q, V, "soft_kl: Q, V");
  check_pair(H, E, "soft_kl: H, E");
  TORCH_CHECK(Q.size(0) == H.size(0) && V.size(0) == E.size(0) && Q.scalar_type() == H.scalar_type() &&
                  Q.device() == H.device(),
              "soft_kl: Q ", Q.sizes(), ", V ", V.sizes(), ", H ", H.sizes(), ", E ", E.sizes(), " do not fit");
}

inline void check_softmax_ce(const Tensor& H, const Tensor& E, const Tensor& target,
                             const std::optional<Tensor>& correction) {
  check_pair(H, E, "softmax_ce: H, E");
  TORCH_CHECK(target.scalar_type() == at::kLong && target.dim() == 1 && target.size(0) == H.size(0) &&
                  target.device() == H.device(),
              "softmax_ce: target must be int64 (r,)");
  TORCH_CHECK(!correction || (correction->dim() == 1 && correction->size(0) == E.size(0) &&
                              correction->device() == H.device() && correction->is_floating_point()),
              "softmax_ce: correction must have one number per item");
}

// The values of target and offsets are checked on a CPU alone, as a check on a GPU would wait for it.
inline void check_rank_counts(const Tensor& H, const Tensor& E, const Tensor& target,
                              const std::optional<Tensor>& seen_items, const std::optional<Tensor>& seen_offsets) {
  check_pair(H, E, "rank_counts: H, E");
  const int64_t r = H.size(0), n = E.size(0);
  const bool values = H.device().is_cpu();
  TORCH_CHECK(target.scalar_type() == at::kLong && target.dim() == 1 && target.size(0) == r &&
                  target.device() == H.device(),
              "rank_counts: target must be int64 (r,)");
  TORCH_CHECK(seen_items.has_value() == seen_offsets.has_value(), "rank_counts: seen items need their offsets");
  if (r > 0 && values)
    TORCH_CHECK(target.min().item<int64_t>() >= 0 && target.max().item<int64_t>() < n,
                "rank_counts: a target is outside the items");
  if (!seen_items) return;
  const Tensor &items = *seen_items, &offsets = *seen_offsets;
  TORCH_CHECK(items.scalar_type() == at::kLong && offsets.scalar_type() == at::kLong && items.dim() == 1 &&
                  offsets.dim() == 1 && items.device() == H.device() && offsets.device() == H.device() &&
                  offsets.numel() == r + 1,
              "rank_counts: seen items and offsets must be int64, offsets (r + 1,)");
  TORCH_CHECK(!values || (offsets.diff().ge(0).all().item<bool>() && offsets.select(0, 0).item<int64_t>() >= 0 &&
                          offsets.select(0, r).item<int64_t>() <= items.numel()),
              "rank_counts: seen offsets must rise from 0 to the number of seen items");
}

}  // namespace foster
