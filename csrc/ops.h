// The ops of foster, one declaration each. Shapes as in foster_cli/ops/reference.py: Q, H (r, d), V, E (s, d), with r
// rows and s items; distributions are over the s items, losses in nats. Inputs are float, double or bfloat16 of one
// type; sums are kept in float (double for double).
#pragma once

#include <tuple>

#include <torch/library.h>

namespace foster {

using at::Tensor;

namespace cpu {

// X (r, d) = softmax(Q V^T) E, and lse (r,) = log sum exp(Q V^T). With `keep` the third holds what the backward can use
// again, where that is small (tiles.h); else it is empty.
std::tuple<Tensor, Tensor, Tensor> soft_embed(const Tensor& Q, const Tensor& V, const Tensor& E, bool keep);

// Gradients of X to Q (r, d) and E (s, d); V is frozen. What is not needed comes back empty.
std::tuple<Tensor, Tensor> soft_embed_backward(const Tensor& grad, const Tensor& Q, const Tensor& V, const Tensor& E,
                                               const Tensor& X, const Tensor& lse, const Tensor& kept, bool need_Q,
                                               bool need_E);

// loss (r,) = KL(softmax(Q V^T) || softmax(H E^T)); centre (r,), the mean of Q V^T - H E^T under the first of them; both
// log-normalisers (r,); the last as above.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> soft_kl(const Tensor& Q, const Tensor& V, const Tensor& H,
                                                           const Tensor& E, bool keep);

// Gradients of the losses to Q (r, d), H (r, d) and E (s, d). What is not needed comes back empty.
std::tuple<Tensor, Tensor, Tensor> soft_kl_backward(const Tensor& grad, const Tensor& Q, const Tensor& V,
                                                    const Tensor& H, const Tensor& E, const Tensor& centre,
                                                    const Tensor& lse_Q, const Tensor& lse_H, const Tensor& kept,
                                                    bool need_Q, bool need_H, bool need_E);

// How many of the n items of E score above and equal to each row's target (r,); the target itself and, in row i, the
// items seen_items[seen_offsets[i] : seen_offsets[i + 1]] are left out.
std::tuple<Tensor, Tensor> rank_counts(const Tensor& H, const Tensor& E, const Tensor& target,
                                       const std::optional<Tensor>& seen_items,
                                       const std::optional<Tensor>& seen_offsets);

}  // namespace cpu
}  // namespace foster
