// The ops on CUDA tensors: checks the arguments, allocates outputs and workspace, and calls the launchers of kernels.h.
// This is the only file here that includes torch.
#include <map>
#include <mutex>

#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGraphsC10Utils.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include "../checks.h"
#include "kernels.h"

namespace foster::cuda {
namespace {

Type type_of(const Tensor& x) {
  if (x.scalar_type() == at::kFloat) return Type::kFloat;
  return x.scalar_type() == at::kDouble ? Type::kDouble : Type::kBFloat16;
}

at::ScalarType accumulate_type(const Tensor& x) { return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }

Device device() {
  const cudaDeviceProp* p = at::cuda::getCurrentDeviceProperties();
  TORCH_CHECK(p->major >= 8, "foster: its CUDA ops need compute capability 8.0 or newer, this is ", p->major, ".",
              p->minor, " (FOSTER_OPS=reference does without them)");
  return {p->multiProcessorCount, static_cast<int>(p->sharedMemPerBlockOptin)};
}

int width_of(const Tensor& x) {
  TORCH_CHECK(x.size(1) <= 65536, "foster: rows of ", x.size(1), " are too wide");
  return static_cast<int>(x.size(1));
}

// Counters that are 0 between calls. Each stream reuses its own; while a graph is captured, they belong to the graph.
Tensor counters(size_t count, const Tensor& like) {
  constexpr int64_t kCached = 4096;
  const auto options = like.options().dtype(at::kInt);
  const auto needed = static_cast<int64_t>(count);
  const bool capturing = c10::cuda::currentStreamCaptureStatusMayInitCtx() != c10::cuda::CaptureStatus::None;
  if (needed > kCached || capturing) return at::zeros({needed}, options);
  static std::mutex mutex;
  static auto& cache = *new std::map<std::pair<int, cudaStream_t>, Tensor>();  // not freed: CUDA may shut down before
  const std::lock_guard<std::mutex> lock(mutex);
  Tensor& cached = cache[{like.get_device(), at::cuda::getCurrentCUDAStream().stream()}];
  if (!cached.defined()) cached = at::zeros({kCached}, options);
  return cached;
}

// The workspace of a plan. It may be freed once the kernel is enqueued, because torch's allocator is stream-ordered.
struct Workspace {
  Tensor bytes, count;
  Context context;
  Workspace(const Plan& p, Device device, const Tensor& like) {
    bytes = at::empty({static_cast<int64_t>(p.workspace_bytes)}, like.options().dtype(at::kByte));
    if (p.counters > 0) count = counters(p.counters, like);
    const bool exact = at::globalContext().float32MatmulPrecision() == at::Float32MatmulPrecision::HIGHEST;
    context = {device, exact, bytes.data_ptr(),
               p.counters > 0 ? reinterpret_cast<unsigned*>(count.data_ptr<int>()) : nullptr,
               at::cuda::getCurrentCUDAStream().stream()};
  }
};

// On a GPU no scores are saved for the backward: recomputing a score costs less than reading it.
Tensor nothing_saved(const Tensor& like) { return at::empty({0}, like.options()); }

std::tuple<Tensor, Tensor, Tensor> soft_embed_op(const Tensor& Q_, const Tensor& V_, const Tensor& E_, bool) {
  check_soft_embed(Q_, V_, E_);
  const c10::cuda::CUDAGuard guard(Q_.device());
  const Tensor Q = Q_.contiguous(), V = V_.contiguous(), E = E_.contiguous();
  Tensor X = at::empty({Q.size(0), E.size(1)}, E.options());
  Tensor lse = at::empty({Q.size(0)}, Q.options().dtype(accumulate_type(Q)));
  const Sizes n{Q.size(0), V.size(0), width_of(Q), width_of(E)};
  const Workspace workspace(plan_soft_embed(type_of(Q), n, device()), device(), Q);
  C10_CUDA_CHECK(soft_embed(type_of(Q), n, Q.data_ptr(), V.data_ptr(), E.data_ptr(), X.data_ptr(), lse.data_ptr(),
                            workspace.context));
  return {X, lse, nothing_saved(lse)};
}

std::tuple<Tensor, Tensor> soft_embed_backward_op(const Tensor& grad, const Tensor& Q_, const Tensor& V_,
                                                  const Tensor& E_, const Tensor& X, const Tensor& lse, const Tensor&,
                                                  bool need_Q, bool need_E) {
  const c10::cuda::CUDAGuard guard(Q_.device());
  const Tensor Q = Q_.contiguous(), V = V_.contiguous(), E = E_.contiguous();
  const Tensor g = grad.to(Q.scalar_type()).contiguous();
  const Tensor row_lse = lse.contiguous();
  // The gradient to E does not depend on delta.
  const Tensor delta = need_Q ? (g.to(accumulate_type(Q)) * X.to(accumulate_type(Q))).sum(1) : row_lse;
  const Sizes n{Q.size(0), V.size(0), width_of(Q), width_of(E)};
  const auto gradient = [&](bool needed, int wrt, const Tensor& like) {
    Tensor out = needed ? at::empty_like(like) : at::empty({0}, like.options());
    if (!needed) return out;
    if (Q.size(0) == 0) return out.zero_();
    const Workspace workspace(plan_soft_embed_backward(type_of(Q), n, wrt, device()), device(), Q);
    C10_CUDA_CHECK(soft_embed_backward(type_of(Q), n, wrt, g.data_ptr(), Q.data_ptr(), V.data_ptr(), E.data_ptr(),
                                       delta.data_ptr(), row_lse.data_ptr(), out.data_ptr(), workspace.context));
    return out;
  };
  return {gradient(need_Q, 0, Q), gradient(need_E, 2, E)};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> soft_kl_op(const Tensor& Q_, const Tensor& V_, const Tensor& H_,
                                                              const Tensor& E_, bool) {
  check_soft_kl(Q_, V_, H_, E_);
  const c10::cuda::CUDAGuard guard(Q_.device());
  const Tensor Q = Q_.contiguous(), V = V_.contiguous(), H = H_.contiguous(), E = E_.contiguous();
  const auto row = [&] { return at::empty({Q.size(0)}, Q.options().dtype(accumulate_type(Q))); };
  Tensor loss = row(), mean_diff = row(), lse_Q = row(), lse_H = row();
  const Sizes n{Q.size(0), V.size(0), width_of(Q), width_of(H)};
  const Workspace workspace(plan_soft_kl(type_of(Q), n, device()), device(), Q);
  C10_CUDA_CHECK(soft_kl(type_of(Q), n, Q.data_ptr(), V.data_ptr(), H.data_ptr(), E.data_ptr(), loss.data_ptr(),
                         mean_diff.data_ptr(), lse_Q.data_ptr(), lse_H.data_ptr(), workspace.context));
  return {loss, mean_diff, lse_Q, lse_H, nothing_saved(loss)};
}

std::tuple<Tensor, Tensor, Tensor> soft_kl_backward_op(const Tensor& grad, const Tensor& Q_, const Tensor& V_,
                                                       const Tensor& H_, const Tensor& E_, const Tensor& mean_diff_,
                                                       const Tensor& lse_Q_, const Tensor& lse_H_, const Tensor&,
                                                       bool need_Q, bool need_H, bool need_E) {
  const c10::cuda::CUDAGuard guard(Q_.device());
  const Tensor Q = Q_.contiguous(), V = V_.contiguous(), H = H_.contiguous(), E = E_.contiguous();
  const Tensor g = grad.to(accumulate_type(Q)).contiguous(), mean_diff = mean_diff_.contiguous();
  const Tensor lse_Q = lse_Q_.contiguous(), lse_H = lse_H_.contiguous();
  const Sizes n{Q.size(0), V.size(0), width_of(Q), width_of(H)};
  const auto gradient = [&](bool needed, int wrt, const Tensor& like) {
    Tensor out = needed ? at::empty_like(like) : at::empty({0}, like.options());
    if (!needed) return out;
    if (Q.size(0) == 0) return out.zero_();
    const Workspace workspace(plan_soft_kl_backward(type_of(Q), n, wrt, device()), device(), Q);
    C10_CUDA_CHECK(soft_kl_backward(type_of(Q), n, wrt, g.data_ptr(), Q.data_ptr(), V.data_ptr(), H.data_ptr(),
                                    E.data_ptr(), mean_diff.data_ptr(), lse_Q.data_ptr(), lse_H.data_ptr(),
                                    out.data_ptr(), workspace.context));
    return out;
  };
  return {gradient(need_Q, 0, Q), gradient(need_H, 1, H), gradient(need_E, 2, E)};
}

// The seen items, in ascending order within each row.
Tensor sorted_rows(const Tensor& items, const Tensor& offsets) {
  const Tensor used = items.slice(0, offsets.select(0, 0).item<int64_t>(), offsets.select(0, -1).item<int64_t>());
  const Tensor row = at::repeat_interleave(offsets.diff());
  const Tensor by_item = std::get<1>(at::sort(used, /*stable=*/true, 0, false));
  const Tensor by_row = std::get<1>(at::sort(row.index_select(0, by_item), /*stable=*/true, 0, false));
  return used.index_select(0, by_item.index_select(0, by_row)).contiguous();
}

std::tuple<Tensor, Tensor> rank_counts_op(const Tensor& H_, const Tensor& E_, const Tensor& target_,
                                          const std::optional<Tensor>& seen_items,
                                          const std::optional<Tensor>& seen_offsets) {
  check_rank_counts(H_, E_, target_, seen_items, seen_offsets);
  const c10::cuda::CUDAGuard guard(H_.device());
  const Tensor H = H_.contiguous(), E = E_.contiguous(), target = target_.contiguous();
  Tensor greater = at::zeros({H.size(0)}, target.options()), equal = at::zeros({H.size(0)}, target.options());
  Tensor items, offsets;
  if (seen_items && H.size(0) > 0) {
    items = sorted_rows(*seen_items, *seen_offsets);
    offsets = (*seen_offsets - seen_offsets->select(0, 0)).contiguous();
  }
  const bool seen = items.defined() && items.numel() > 0;
  Workspace workspace(Plan{}, device(), H);
  workspace.context.exact = true;  // ranking never uses TF32
  C10_CUDA_CHECK(rank_counts(type_of(H), {H.size(0), E.size(0), width_of(H), 0}, H.data_ptr(), E.data_ptr(),
                             target.data_ptr<int64_t>(), seen ? items.data_ptr<int64_t>() : nullptr,
                             seen ? offsets.data_ptr<int64_t>() : nullptr, greater.data_ptr<int64_t>(),
                             equal.data_ptr<int64_t>(), workspace.context));
  return {greater, equal};
}

}  // namespace

TORCH_LIBRARY_IMPL(foster, CUDA, m) {
  m.impl("soft_embed", &soft_embed_op);
  m.impl("soft_embed_backward", &soft_embed_backward_op);
  m.impl("soft_kl", &soft_kl_op);
  m.impl("soft_kl_backward", &soft_kl_backward_op);
  m.impl("rank_counts", &rank_counts_op);
}

}  // namespace foster::cuda
