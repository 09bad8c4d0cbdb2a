// The gradients of the ops on every device, in C++ so that a backward costs no Python. Where second derivatives are asked
// for, the formulas are written in differentiable operations. V has no gradient.
#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

namespace foster {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

template <class Signature>
auto op(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

Tensor or_none(bool needed, const Tensor& x) { return needed ? x : Tensor(); }

struct SoftEmbed : Function<SoftEmbed> {
  using Forward = std::tuple<Tensor, Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, bool);
  using Backward = std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                              const Tensor&, const Tensor&, const Tensor&, bool, bool);

  static variable_list forward(AutogradContext* ctx, const Tensor& Q, const Tensor& V, const Tensor& E, bool save) {
    at::AutoDispatchBelowADInplaceOrView guard;
    static const auto run = op<Forward>("foster::soft_embed");
    const auto [X, lse, saved] = run.call(Q, V, E, save);
    ctx->save_for_backward({Q, V, E, X, lse, saved});
    ctx->mark_non_differentiable({lse, saved});
    return {X, lse, saved};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto kept = ctx->get_saved_variables();
    const Tensor &Q = kept[0], &V = kept[1], &E = kept[2], &grad = grads[0];
    const bool need_Q = ctx->needs_input_grad(0), need_E = ctx->needs_input_grad(2);
    if (at::GradMode::is_enabled()) {
      const Tensor P = at::softmax(at::matmul(Q, V.t()), 1), dP = at::matmul(grad, E.t());
      const Tensor dS = P * (dP - (P * dP).sum(1, true));
      return {or_none(need_Q, at::matmul(dS, V)), Tensor(), or_none(need_E, at::matmul(P.t(), grad)), Tensor()};
    }
    static const auto run = op<Backward>("foster::soft_embed_backward");
    const auto [dQ, dE] = run.call(grad, Q, V, E, kept[3], kept[4], kept[5], need_Q, need_E);
    return {or_none(need_Q, dQ), Tensor(), or_none(need_E, dE), Tensor()};
  }
};

struct SoftKl : Function<SoftKl> {
  using Forward = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&,
                                                                     const Tensor&, bool);
  using Backward = std::tuple<Tensor, Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                                      const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                                      const Tensor&, bool, bool, bool);

  static variable_list forward(AutogradContext* ctx, const Tensor& Q, const Tensor& V, const Tensor& H, const Tensor& E,
                               bool save) {
    at::AutoDispatchBelowADInplaceOrView guard;
    static const auto run = op<Forward>("foster::soft_kl");
    const auto [loss, mean_diff, lse_Q, lse_H, saved] = run.call(Q, V, H, E, save);
    ctx->save_for_backward({Q, V, H, E, mean_diff, lse_Q, lse_H, saved});
    ctx->mark_non_differentiable({mean_diff, lse_Q, lse_H, saved});
    return {loss, mean_diff, lse_Q, lse_H, saved};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto kept = ctx->get_saved_variables();
    const Tensor &Q = kept[0], &V = kept[1], &H = kept[2], &E = kept[3], &grad = grads[0];
    const bool need_Q = ctx->needs_input_grad(0), need_H = ctx->needs_input_grad(2),
               need_E = ctx->needs_input_grad(3);
    if (at::GradMode::is_enabled()) {
      const Tensor log_p = at::log_softmax(at::matmul(Q, V.t()), 1), log_q = at::log_softmax(at::matmul(H, E.t()), 1);
      const Tensor p = log_p.exp(), diff = log_p - log_q, g = grad.unsqueeze(1);
      const Tensor dA = g * p * (diff - (p * diff).sum(1, true)), dB = g * (log_q.exp() - p);
      return {or_none(need_Q, at::matmul(dA, V)), Tensor(), or_none(need_H, at::matmul(dB, E)),
              or_none(need_E, at::matmul(dB.t(), H)), Tensor()};
    }
    static const auto run = op<Backward>("foster::soft_kl_backward");
    const auto [dQ, dH, dE] =
        run.call(grad, Q, V, H, E, kept[4], kept[5], kept[6], kept[7], need_Q, need_H, need_E);
    return {or_none(need_Q, dQ), Tensor(), or_none(need_H, dH), or_none(need_E, dE), Tensor()};
  }
};

struct SoftmaxCe : Function<SoftmaxCe> {
  using Forward = std::tuple<Tensor, Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&,
                                                     const std::optional<Tensor>&, bool);

  static variable_list forward(AutogradContext* ctx, const Tensor& H, const Tensor& E, const Tensor& target,
                               const std::optional<Tensor>& correction, bool gradients) {
    at::AutoDispatchBelowADInplaceOrView guard;
    static const auto run = op<Forward>("foster::softmax_ce");
    const auto [loss, dH, dE] = run.call(H, E, target, correction, gradients);
    ctx->save_for_backward({H, E, target, correction ? *correction : Tensor(), dH, dE});
    ctx->saved_data["gradients"] = gradients;
    ctx->mark_non_differentiable({dH, dE});
    return {loss, dH, dE};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto kept = ctx->get_saved_variables();
    const Tensor &H = kept[0], &E = kept[1], &correction = kept[3];
    const bool need_H = ctx->needs_input_grad(0), need_E = ctx->needs_input_grad(1);
    Tensor dH = kept[4], dE = kept[5], grad = grads[0];
    if (at::GradMode::is_enabled() || !ctx->saved_data["gradients"].toBool()) {
      const Tensor items = at::arange(at::Scalar(E.sym_size(0)), kept[2].options());
      const Tensor own = (kept[2].unsqueeze(1) == items).to(H.scalar_type());
      Tensor S = at::matmul(H, E.t());
      if (correction.defined()) S = S + (1 - own) * correction;
      const Tensor dS = (at::softmax(S, 1) - own) * grad.div(at::Scalar(H.sym_size(0)));
      dH = at::matmul(dS, E);
      dE = at::matmul(dS.t(), H);
    } else {
      dH = (dH * grad).to(H.scalar_type());
      dE = (dE * grad).to(E.scalar_type());
    }
    return {or_none(need_H, dH), or_none(need_E, dE), Tensor(), Tensor(), Tensor()};
  }
};

std::tuple<Tensor, Tensor, Tensor> soft_embed(const Tensor& Q, const Tensor& V, const Tensor& E, bool save) {
  const auto out = SoftEmbed::apply(Q, V, E, save);
  return {out[0], out[1], out[2]};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> soft_kl(const Tensor& Q, const Tensor& V, const Tensor& H,
                                                           const Tensor& E, bool save) {
  const auto out = SoftKl::apply(Q, V, H, E, save);
  return {out[0], out[1], out[2], out[3], out[4]};
}

std::tuple<Tensor, Tensor, Tensor> softmax_ce(const Tensor& H, const Tensor& E, const Tensor& target,
                                              const std::optional<Tensor>& correction, bool gradients) {
  const auto out = SoftmaxCe::apply(H, E, target, correction, gradients);
  return {out[0], out[1], out[2]};
}

}  // namespace

TORCH_LIBRARY_IMPL(foster, Autograd, m) {
  m.impl("soft_embed", &soft_embed);
  m.impl("soft_kl", &soft_kl);
  m.impl("softmax_ce", &softmax_ce);
}

}  // namespace foster
