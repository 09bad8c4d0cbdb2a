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

}  // namespace

at::Tensor product(const at::Tensor& x, const at::Tensor& w, bool steady) {
  const bool large = x.size(0) * w.size(0) >= 4096 && x.size(1) >= 16;
  if (x.scalar_type() == at::kFloat && linear() && (large || steady))
    return linear()->call(x, w, std::nullopt, "none", c10::List<std::optional<at::Scalar>>(), "");
  return at::mm(x, w.t());
}

}  // namespace foster::cpu
