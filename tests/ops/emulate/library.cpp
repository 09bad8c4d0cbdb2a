// The launchers of kernels.h with a C interface, for the tests to call through ctypes.
#include <vector>

#include "kernels.h"

using namespace foster::cuda;

namespace {

// Workspace as the binding allocates it: bytes of arbitrary content, and counters that are 0 before and after the call.
struct Workspace {
  std::vector<unsigned char> bytes;
  std::vector<unsigned> counters;
  explicit Workspace(const Plan& p) : bytes(p.workspace_bytes, 0xff), counters(p.counters, 0) {}
  Context context(int sm_count, int shared, bool exact) {
    return {{sm_count, shared}, exact, bytes.data(), counters.data(), nullptr};
  }
  // The error, or -1 if a counter is not 0.
  int check(cudaError_t error) const {
    for (unsigned c : counters)
      if (c != 0) return -1;
    return error;
  }
};

}  // namespace

extern "C" {

void foster_seed(uint64_t seed) { emulate::set_seed(seed); }

// The columns, chunks and splits of the plan for `out` output columns (0: no output matrix).
void foster_plan(int type, int64_t rows, int64_t cols, int64_t out, int sm_count, int shared, int* result) {
  const Plan p = plan(static_cast<Type>(type), rows, cols, out, 2, {sm_count, shared});
  result[0] = p.columns, result[1] = p.chunks, result[2] = p.splits;
}

int foster_soft_embed(int type, Sizes n, const void* Q, const void* V, const void* E, void* X, void* lse, int sm_count,
                      int shared, bool exact) {
  const auto t = static_cast<Type>(type);
  Workspace workspace(plan_soft_embed(t, n, {sm_count, shared}));
  return workspace.check(soft_embed(t, n, Q, V, E, X, lse, workspace.context(sm_count, shared, exact)));
}

int foster_soft_embed_backward(int type, Sizes n, int wrt, const void* grad, const void* Q, const void* V,
                               const void* E, const void* delta, const void* lse, void* out, int sm_count, int shared,
                               bool exact) {
  const auto t = static_cast<Type>(type);
  Workspace workspace(plan_soft_embed_backward(t, n, wrt, {sm_count, shared}));
  return workspace.check(
      soft_embed_backward(t, n, wrt, grad, Q, V, E, delta, lse, out, workspace.context(sm_count, shared, exact)));
}

int foster_soft_kl(int type, Sizes n, const void* Q, const void* V, const void* H, const void* E, void* loss,
                   void* mean_diff, void* lse_Q, void* lse_H, int sm_count, int shared, bool exact) {
  const auto t = static_cast<Type>(type);
  Workspace workspace(plan_soft_kl(t, n, {sm_count, shared}));
  return workspace.check(
      soft_kl(t, n, Q, V, H, E, loss, mean_diff, lse_Q, lse_H, workspace.context(sm_count, shared, exact)));
}

int foster_soft_kl_backward(int type, Sizes n, int wrt, const void* grad, const void* Q, const void* V, const void* H,
                            const void* E, const void* mean_diff, const void* lse_Q, const void* lse_H, void* out,
                            int sm_count, int shared, bool exact) {
  const auto t = static_cast<Type>(type);
  Workspace workspace(plan_soft_kl_backward(t, n, wrt, {sm_count, shared}));
  return workspace.check(soft_kl_backward(t, n, wrt, grad, Q, V, H, E, mean_diff, lse_Q, lse_H, out,
                                          workspace.context(sm_count, shared, exact)));
}

int foster_rank_counts(int type, Sizes n, const void* H, const void* E, const int64_t* target, const int64_t* seen,
                       const int64_t* offsets, int64_t* greater, int64_t* equal, int sm_count, int shared, bool exact) {
  Workspace workspace(Plan{});
  return workspace.check(rank_counts(static_cast<Type>(type), n, H, E, target, seen, offsets, greater, equal,
                                     workspace.context(sm_count, shared, exact)));
}
}
