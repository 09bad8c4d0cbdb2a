// The ops of foster on a CPU. Shapes are those of foster_cli/ops/reference.py: Q, H (r, d) and V, E (s, d), with r rows
// and s items. Distributions are over the s items, and losses are in nats. The inputs of an op share one type: float,
// double or bfloat16. Sums are accumulated in float (in double for double).
#pragma once

#include <tuple>

#include <torch/library.h>

namespace foster {

using at::Tensor;

namespace cpu {

// X (r, d) = softmax(Q V^T) E, lse (r,) = log sum exp(Q V^T), and what is saved for the backward: the probabilities if
// `save_scores` is set and the problem is small (tiles.h), else an empty tensor.
std::tuple<Tensor, Tensor, Tensor> soft_embed(const Tensor& Q, const Tensor& V, const Tensor& E, bool save_scores);

// Gradients of X to Q (r, d) and E (s, d); V has none. A gradient that is not needed is returned empty.
std::tuple<Tensor, Tensor> soft_embed_backward(const Tensor& grad, const Tensor& Q, const Tensor& V, const Tensor& E,
                                               const Tensor& X, const Tensor& lse, const Tensor& saved, bool need_Q,
                                               bool need_E);

// loss (r,) = KL(softmax(Q V^T) || softmax(H E^T)); mean_diff (r,), the mean of Q V^T - H E^T under the first
// distribution; lse (r,) of both; and the two score matrices under the same conditions as above.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> soft_kl(const Tensor& Q, const Tensor& V, const Tensor& H,
                                                           const Tensor& E, bool save_scores);

// Gradients of the losses to Q (r, d), H (r, d) and E (s, d). A gradient that is not needed is returned empty.
std::tuple<Tensor, Tensor, Tensor> soft_kl_backward(const Tensor& grad, const Tensor& Q, const Tensor& V,
                                                    const Tensor& H, const Tensor& E, const Tensor& mean_diff,
                                                    const Tensor& lse_Q, const Tensor& lse_H, const Tensor& saved,
                                                    bool need_Q, bool need_H, bool need_E);

// The mean over rows of log sum_c exp(H . E_c + correction_c) - H . E_target, in nats, where the target has no
// correction ((s,); none: 0). With `gradients` also its gradients to H (r, d) and E (s, d), else empty tensors.
std::tuple<Tensor, Tensor, Tensor> softmax_ce(const Tensor& H, const Tensor& E, const Tensor& target,
                                              const std::optional<Tensor>& correction, bool gradients);

// How many of the n items of E score above, and equal to, each row's target (r,). Row i counts neither the target
// itself nor the items seen_items[seen_offsets[i] : seen_offsets[i + 1]].
std::tuple<Tensor, Tensor> rank_counts(const Tensor& H, const Tensor& E, const Tensor& target,
                                       const std::optional<Tensor>& seen_items,
                                       const std::optional<Tensor>& seen_offsets);

}  // namespace cpu
}  // namespace foster
