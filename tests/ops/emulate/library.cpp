// The launchers of rows.h with a C interface, for the tests to call through ctypes.
#include "rows.h"

using namespace foster::cuda;

extern "C" {

void foster_seed(uint64_t seed) { emulate::set_seed(seed); }

int foster_softmax_rows(Rows x, void* S, void* lse) { return softmax_rows(x, S, lse); }
int foster_softmax_backward_rows(Rows x, const void* P, void* dP) { return softmax_backward_rows(x, P, dP); }
int foster_softmax_backward_tile(Rows x, void* S, void* dP, const void* lse, const void* delta) {
  return softmax_backward_tile(x, S, dP, lse, delta);
}
int foster_kl_rows(Rows x, void* A, void* B, bool save, void* loss, void* mean_diff, void* lse_a, void* lse_b) {
  return kl_rows(x, A, B, save, loss, mean_diff, lse_a, lse_b);
}
int foster_kl_backward_tile(Rows x, void* A, void* B, bool need_a, const void* grad, const void* mean_diff,
                            const void* lse_a, const void* lse_b) {
  return kl_backward_tile(x, A, B, need_a, grad, mean_diff, lse_a, lse_b);
}
int foster_cross_entropy_rows(Rows x, void* S, const int64_t* target, const void* correction, bool save, double scale,
                              void* loss) {
  return cross_entropy_rows(x, S, target, correction, save, scale, loss);
}
int foster_count_rows(Rows x, void* S, const int64_t* target, const int64_t* seen, const int64_t* offsets,
                      int64_t* greater, int64_t* equal) {
  return count_rows(x, S, target, seen, offsets, greater, equal);
}
}
