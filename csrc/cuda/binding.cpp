// The ops on a GPU: products by torch's own library (cuBLAS), and one kernel of rows.h between them.
//
// Scores are computed in chunks that hold at most FOSTER_SCORES_MB (96 by default: a tenth of what plain PyTorch needs
// at 4,000 x 45,833) MiB of fp32, and half of that in bf16. A forward takes chunks of whole rows, so a kernel sees all
// of a row's scores; where one chunk is enough, it keeps them for the backward. Otherwise the backward recomputes them
// in chunks of items, for which the row's statistics are known. Nothing here waits for the device.
#include <algorithm>
#include <cstdlib>

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include "../checks.h"
#include "rows.h"

namespace foster::cuda {
namespace {

using at::Tensor;

at::ScalarType accumulate_type(const Tensor& x) { return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }

Rows rows_of(const Tensor& S) {
  const Type type = S.scalar_type() == at::kDouble  ? Type::kDouble
                    : S.scalar_type() == at::kFloat ? Type::kFloat
                                                    : Type::kBFloat16;
  return {type, S.size(0), S.size(1), S.stride(0), c10::cuda::getCurrentCUDAStream().stream()};
}

// The most scores that are in memory at once.
int64_t max_scores() {
  static const int64_t bound = [] {
    const char* text = std::getenv("FOSTER_SCORES_MB");
    const double mb = text == nullptr ? 96.0 : std::atof(text);
    TORCH_CHECK(mb > 0, "FOSTER_SCORES_MB=", text, ": a positive number of MiB is needed");
    return static_cast<int64_t>(mb * (1 << 18));
  }();
  return bound;
}

// The columns of memory for n scores of a row: whole 16 bytes, so that every row is aligned.
int64_t padded(int64_t n, const Tensor& like) {
  const int64_t pack = 16 / like.element_size();
  return (n + pack - 1) / pack * pack;
}

// Memory for scores (r, n) of a type.
Tensor empty_scores(int64_t r, int64_t n, const Tensor& like) {
  return at::empty({r, padded(n, like)}, like.options()).narrow(1, 0, n);
}

// Rows of a chunk of whole rows of s scores in each of `matrices`; and columns of a chunk of r rows.
int64_t chunk_rows(int64_t r, int64_t s, int64_t matrices) {
  return std::clamp<int64_t>(max_scores() / (matrices * s), 1, std::max<int64_t>(r, 1));
}
int64_t chunk_items(int64_t r, int64_t s, int64_t matrices) {
  const int64_t most = max_scores() / (matrices * std::max<int64_t>(r, 1));
  return std::min(s, std::max<int64_t>(most / 64 * 64, 64));
}

// The scores x w^T in `memory` (at least as many rows).
Tensor scores(const Tensor& memory, const Tensor& x, const Tensor& w) {
  Tensor out = memory.narrow(0, 0, x.size(0)).narrow(1, 0, w.size(0));
  at::mm_out(out, x, w.t());
  return out;
}

// A sum of products, in the type of accumulation if there is more than one term.
struct Accumulated {
  Tensor sum;
  void add(const Tensor& x, const Tensor& y, bool last) {
    if (!sum.defined()) {
      sum = at::mm(x, y);
      if (!last) sum = sum.to(accumulate_type(sum));
    } else if (sum.scalar_type() == x.scalar_type()) {
      sum.addmm_(x, y);
    } else {
      sum.add_(at::mm(x, y));
    }
  }
};

// Where row a of x (r,) lies.
void* row_at(const Tensor& x, int64_t a) { return static_cast<char*>(x.data_ptr()) + a * x.element_size(); }

Tensor nothing(const Tensor& like) { return at::empty({0}, like.options()); }

std::tuple<Tensor, Tensor, Tensor> soft_embed(const Tensor& Q, const Tensor& V, const Tensor& E, bool save_scores) {
  check_soft_embed(Q, V, E);
  const c10::cuda::CUDAGuard guard(Q.device());
  const int64_t r = Q.size(0), s = V.size(0), size = chunk_rows(r, s, 1);
  Tensor X = at::empty({r, E.size(1)}, E.options()), lse = at::empty({r}, Q.options().dtype(accumulate_type(Q)));
  if (r == 0) return {X, lse, nothing(Q)};
  const Tensor memory = empty_scores(size, s, Q);
  for (int64_t a = 0; a < r; a += size) {
    const int64_t n = std::min(size, r - a);
    Tensor P = scores(memory, Q.narrow(0, a, n), V), X_rows = X.narrow(0, a, n);
    C10_CUDA_CHECK(softmax_rows(rows_of(P), P.data_ptr(), row_at(lse, a)));
    at::mm_out(X_rows, P, E);
  }
  return {X, lse, save_scores && size == r ? memory : nothing(Q)};
}

std::tuple<Tensor, Tensor> soft_embed_backward(const Tensor& grad_, const Tensor& Q, const Tensor& V, const Tensor& E,
                                               const Tensor& X, const Tensor& lse, const Tensor& saved, bool need_Q,
                                               bool need_E) {
  const c10::cuda::CUDAGuard guard(Q.device());
  const Tensor grad = grad_.to(E.scalar_type());
  const int64_t r = Q.size(0), s = V.size(0);
  if (r == 0) return {need_Q ? at::zeros_like(Q) : nothing(Q), need_E ? at::zeros_like(E) : nothing(E)};
  if (saved.numel() > 0) {
    Tensor dQ = nothing(Q), dE = need_E ? at::mm(saved.t(), grad) : nothing(E);
    if (need_Q) {
      const Tensor dP = scores(empty_scores(r, s, Q), grad, E);
      C10_CUDA_CHECK(softmax_backward_rows(rows_of(dP), saved.data_ptr(), dP.data_ptr()));
      dQ = at::mm(dP, V);
    }
    return {dQ, dE};
  }
  const int64_t size = chunk_items(r, s, need_Q ? 2 : 1);
  const Tensor memory = empty_scores(r, size, Q), memory_dP = need_Q ? empty_scores(r, size, Q) : Tensor();
  const auto wide = accumulate_type(Q);
  const Tensor delta = need_Q ? (grad.to(wide) * X.to(wide)).sum(1) : Tensor();
  Accumulated dQ;
  Tensor dE = need_E ? at::empty_like(E, at::MemoryFormat::Contiguous) : nothing(E);
  for (int64_t a = 0; a < s; a += size) {
    const int64_t n = std::min(size, s - a);
    const Tensor V_part = V.narrow(0, a, n), P = scores(memory, Q, V_part);
    const Tensor dP = need_Q ? scores(memory_dP, grad, E.narrow(0, a, n)) : Tensor();
    C10_CUDA_CHECK(softmax_backward_tile(rows_of(P), P.data_ptr(), need_Q ? dP.data_ptr() : nullptr, lse.data_ptr(),
                                         need_Q ? delta.data_ptr() : nullptr));
    if (need_E) {
      Tensor part = dE.narrow(0, a, n);
      at::mm_out(part, P.t(), grad);
    }
    if (need_Q) dQ.add(dP, V_part, size == s);
  }
  return {need_Q ? dQ.sum.to(Q.scalar_type()) : nothing(Q), dE};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> soft_kl(const Tensor& Q, const Tensor& V, const Tensor& H,
                                                           const Tensor& E, bool save_scores) {
  check_soft_kl(Q, V, H, E);
  const c10::cuda::CUDAGuard guard(Q.device());
  const int64_t r = Q.size(0), s = V.size(0), size = chunk_rows(r, s, 2);
  const auto options = Q.options().dtype(accumulate_type(Q));
  const Tensor loss = at::empty({r}, options), mean_diff = at::empty({r}, options), lse_Q = at::empty({r}, options),
               lse_H = at::empty({r}, options);
  Tensor saved = nothing(Q);
  if (r > 0) {
    const bool save = save_scores && size == r;
    const Tensor memory = at::empty({2, size, padded(s, Q)}, Q.options()).narrow(2, 0, s);
    for (int64_t a = 0; a < r; a += size) {
      const int64_t n = std::min(size, r - a);
      const Tensor A = scores(memory[0], Q.narrow(0, a, n), V), B = scores(memory[1], H.narrow(0, a, n), E);
      C10_CUDA_CHECK(kl_rows(rows_of(A), A.data_ptr(), B.data_ptr(), save, row_at(loss, a), row_at(mean_diff, a),
                             row_at(lse_Q, a), row_at(lse_H, a)));
    }
    if (save) saved = memory;
  }
  return {loss, mean_diff, lse_Q, lse_H, saved};
}

std::tuple<Tensor, Tensor, Tensor> soft_kl_backward(const Tensor& grad, const Tensor& Q, const Tensor& V,
                                                    const Tensor& H, const Tensor& E, const Tensor& mean_diff_,
                                                    const Tensor& lse_Q_, const Tensor& lse_H_, const Tensor& saved,
                                                    bool need_Q, bool need_H, bool need_E) {
  const c10::cuda::CUDAGuard guard(Q.device());
  const int64_t r = Q.size(0), s = V.size(0);
  const auto zero = [](bool need, const Tensor& like) { return need ? at::zeros_like(like) : nothing(like); };
  if (r == 0) return {zero(need_Q, Q), zero(need_H, H), zero(need_E, E)};
  if (saved.numel() > 0) {  // the gradients for grad = 1; the rows of the products and of H are scaled instead
    const Tensor g = grad.to(Q.scalar_type()).unsqueeze(1);
    return {need_Q ? at::mm(saved[0], V).mul_(g) : nothing(Q), need_H ? at::mm(saved[1], E).mul_(g) : nothing(H),
            need_E ? at::mm(saved[1].t(), H * g) : nothing(E)};
  }
  const Tensor g = grad.to(accumulate_type(Q)).contiguous(), mean_diff = mean_diff_.contiguous();
  const Tensor lse_Q = lse_Q_.contiguous(), lse_H = lse_H_.contiguous();
  const int64_t size = chunk_items(r, s, 2);
  const Tensor memory_A = empty_scores(r, size, Q), memory_B = empty_scores(r, size, Q);
  Accumulated dQ, dH;
  Tensor dE = need_E ? at::empty_like(E, at::MemoryFormat::Contiguous) : nothing(E);
  for (int64_t a = 0; a < s; a += size) {
    const int64_t n = std::min(size, s - a);
    const Tensor V_part = V.narrow(0, a, n), E_part = E.narrow(0, a, n);
    const Tensor A = scores(memory_A, Q, V_part), B = scores(memory_B, H, E_part);
    C10_CUDA_CHECK(kl_backward_tile(rows_of(A), A.data_ptr(), B.data_ptr(), need_Q, g.data_ptr(), mean_diff.data_ptr(),
                                    lse_Q.data_ptr(), lse_H.data_ptr()));
    if (need_Q) dQ.add(A, V_part, size == s);
    if (need_H) dH.add(B, E_part, size == s);
    if (need_E) {
      Tensor part = dE.narrow(0, a, n);
      at::mm_out(part, B.t(), H);
    }
  }
  return {need_Q ? dQ.sum.to(Q.scalar_type()) : nothing(Q), need_H ? dH.sum.to(H.scalar_type()) : nothing(H), dE};
}

std::tuple<Tensor, Tensor, Tensor> softmax_ce(const Tensor& H, const Tensor& E, const Tensor& target_,
                                              const std::optional<Tensor>& correction_, bool gradients) {
  check_softmax_ce(H, E, target_, correction_);
  const c10::cuda::CUDAGuard guard(H.device());
  const int64_t r = H.size(0), s = E.size(0), size = chunk_rows(r, s, 1);
  const auto wide = accumulate_type(H);
  const Tensor loss = at::empty({r}, H.options().dtype(wide)), target = target_.contiguous();
  const Tensor correction = correction_ ? correction_->to(wide).contiguous() : Tensor();
  Tensor dH = gradients ? at::empty_like(H, at::MemoryFormat::Contiguous) : nothing(H);
  Accumulated dE;
  const Tensor memory = empty_scores(size, s, H);
  for (int64_t a = 0; a < r; a += size) {
    const int64_t n = std::min(size, r - a);
    const Tensor H_rows = H.narrow(0, a, n), S = scores(memory, H_rows, E);
    C10_CUDA_CHECK(cross_entropy_rows(rows_of(S), S.data_ptr(), target.data_ptr<int64_t>() + a,
                                      correction_ ? correction.data_ptr() : nullptr, gradients, 1.0 / r,
                                      row_at(loss, a)));
    if (!gradients) continue;
    Tensor part = dH.narrow(0, a, n);
    at::mm_out(part, S, E);
    dE.add(S.t(), H_rows, size == r);
  }
  const Tensor to_E = !gradients ? nothing(E) : dE.sum.defined() ? dE.sum.to(E.scalar_type()) : at::zeros_like(E);
  return {loss.mean(), dH, to_E};
}

std::tuple<Tensor, Tensor> rank_counts(const Tensor& H_, const Tensor& E_, const Tensor& target_,
                                       const std::optional<Tensor>& seen_items,
                                       const std::optional<Tensor>& seen_offsets) {
  check_rank_counts(H_, E_, target_, seen_items, seen_offsets);
  const c10::cuda::CUDAGuard guard(H_.device());
  const at::NoTF32Guard no_tf32;  // ranks are those of fp32 scores, or fp64
  const Tensor H = H_.to(accumulate_type(H_)), E = E_.to(accumulate_type(E_)), target = target_.contiguous();
  const int64_t r = H.size(0), s = E.size(0), size = chunk_rows(r, s, 1);
  Tensor greater = at::empty({r}, target.options()), equal = at::empty({r}, target.options());
  const Tensor items = seen_items ? seen_items->contiguous() : Tensor();
  const Tensor offsets = seen_offsets ? seen_offsets->contiguous() : Tensor();
  const bool seen = seen_items && items.numel() > 0;
  const Tensor memory = empty_scores(size, s, H);
  for (int64_t a = 0; a < r; a += size) {
    const int64_t n = std::min(size, r - a);
    const Tensor S = scores(memory, H.narrow(0, a, n), E);
    C10_CUDA_CHECK(count_rows(rows_of(S), S.data_ptr(), target.data_ptr<int64_t>() + a,
                              seen ? items.data_ptr<int64_t>() : nullptr,
                              seen ? offsets.data_ptr<int64_t>() + a : nullptr, greater.data_ptr<int64_t>() + a,
                              equal.data_ptr<int64_t>() + a));
  }
  return {greater, equal};
}

}  // namespace

TORCH_LIBRARY_IMPL(foster, CUDA, m) {
  m.impl("soft_embed", &soft_embed);
  m.impl("soft_embed_backward", &soft_embed_backward);
  m.impl("soft_kl", &soft_kl);
  m.impl("soft_kl_backward", &soft_kl_backward);
  m.impl("softmax_ce", &softmax_ce);
  m.impl("rank_counts", &rank_counts);
}

}  // namespace foster::cuda
