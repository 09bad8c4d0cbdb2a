#include "tiles.h"

#include <ATen/core/dispatch/Dispatcher.h>

namespace foster::cpu {
namespace {

using Linear = at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, c10::string_view,
                          c10::List<std::optional<at::Scalar>>, std::optional<c10::string_view>);

// torch's own entry to oneDNN for fp32; it is internal to torch, so it may be missing or look different.
const std::optional<c10::TypedOperatorHandle<Linear>>& linear() {
  static const auto found = []() -> std::optional<c10::TypedOperatorHandle<Linear>> {
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
  return found;
}

// Whether fp32 products are faster through oneDNN than through the BLAS that torch carries.
bool prefers_onednn() {
#if defined(__x86_64__) && defined(__GNUC__)
  static const bool other = !__builtin_cpu_is("intel");
  return other && linear();
#else
  return false;
#endif
}

bool through_onednn(const at::Tensor& x, const at::Tensor& w) {
  return x.scalar_type() == at::kFloat && x.size(0) * w.size(0) >= 4096 && x.size(1) >= 16 && prefers_onednn();
}

}  // namespace

at::Tensor product(const at::Tensor& x, const at::Tensor& w, bool steady) {
  if ((steady && x.scalar_type() == at::kFloat && linear()) || through_onednn(x, w))
    return linear()->call(x, w, std::nullopt, "none", c10::List<std::optional<at::Scalar>>(), "");
  return at::mm(x, w.t());
}

void add_product(at::Tensor out, const at::Tensor& x, const at::Tensor& w, bool first) {
  if (!through_onednn(x, w))
    out.addmm_(x, w.t(), /*beta=*/first ? 0 : 1);
  else if (first)
    out.copy_(product(x, w));
  else
    out.add_(product(x, w));
}

}  // namespace foster::cpu
