#include "tiles.h"

#include <ATen/core/dispatch/Dispatcher.h>

namespace foster::cpu {
namespace {

using Linear = at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, c10::string_view,
                          c10::List<std::optional<at::Scalar>>, std::optional<c10::string_view>);

// Torch's own fp32 matrix product by oneDNN. It is internal to torch, so it may be missing or have another schema.
const std::optional<c10::TypedOperatorHandle<Linear>>& onednn_linear() {
  static const auto result = []() -> std::optional<c10::TypedOperatorHandle<Linear>> {
#if defined(__x86_64__)
    const auto handle = c10::Dispatcher::singleton().findSchema({"mkldnn::_linear_pointwise", ""});
    if (!handle || !at::globalContext().userEnabledMkldnn()) return std::nullopt;
    const auto& schema = handle->schema();
    if (schema.arguments().size() != 6 || schema.returns().size() != 1) return std::nullopt;
    return handle->typed<Linear>();
#else
    return std::nullopt;
#endif
  }();
  return result;
}

// Whether fp32 products are faster through oneDNN than through the BLAS that torch was built with.
bool prefers_onednn() {
#if defined(__x86_64__) && defined(__GNUC__)
  static const bool other_than_intel = !__builtin_cpu_is("intel");
  return other_than_intel && onednn_linear();
#else
  return false;
#endif
}

bool uses_onednn(const at::Tensor& x, const at::Tensor& w) {
  return x.scalar_type() == at::kFloat && x.size(0) * w.size(0) >= 4096 && x.size(1) >= 16 && prefers_onednn();
}

}  // namespace

at::Tensor matmul_nt(const at::Tensor& x, const at::Tensor& w, bool position_invariant) {
  if ((position_invariant && x.scalar_type() == at::kFloat && onednn_linear()) || uses_onednn(x, w))
    return onednn_linear()->call(x, w, std::nullopt, "none", c10::List<std::optional<at::Scalar>>(), "");
  return at::mm(x, w.t());
}

void accumulate_matmul_nt(at::Tensor out, const at::Tensor& x, const at::Tensor& w, bool overwrite) {
  if (!uses_onednn(x, w))
    out.addmm_(x, w.t(), /*beta=*/overwrite ? 0 : 1);
  else if (overwrite)
    out.copy_(matmul_nt(x, w));
  else
    out.add_(matmul_nt(x, w));
}

}  // namespace foster::cpu
