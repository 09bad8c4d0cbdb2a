// What stands between the matrix products of the ops: one kernel for each, over rows of scores on raw device pointers,
// enqueued on a CUDA stream. Scores are (r, n) matrices in the type of the op's inputs, with a leading dimension `ld`
// that is a multiple of 16 bytes; what is stated per row is (r,) in the type of accumulation (float; double for double).
// Neither this file nor the kernels include a header of torch.
#pragma once

#include <cstdint>

#if defined(FOSTER_EMULATE)
#include "emulate.h"
#else
#include <cuda_runtime_api.h>
#endif

namespace foster::cuda {

enum class Type { kFloat, kDouble, kBFloat16 };

// The shape of a matrix of scores, and where its launch goes.
struct Rows {
  Type type;
  int64_t r, n, ld;
  cudaStream_t stream;
};

// S <- P = softmax(S) of each row, lse = log sum exp(S).
cudaError_t softmax_rows(Rows x, void* S, void* lse);

// The backward of softmax from P: dP <- P (dP - sum(P dP)), over whole rows.
cudaError_t softmax_backward_rows(Rows x, const void* P, void* dP);

// The same from the scores of some items, whose lse and whose delta = sum(P dP) are known: S <- P, and
// dP <- P (dP - delta) unless dP is null.
cudaError_t softmax_backward_tile(Rows x, void* S, void* dP, const void* lse, const void* delta);

// loss = KL(softmax(A) || softmax(B)) of each row, mean_diff = the mean of A - B under softmax(A), and both lse. With
// `save`, the gradients of the loss to both: A <- softmax(A) (A - B - mean_diff) and B <- softmax(B) - softmax(A).
cudaError_t kl_rows(Rows x, void* A, void* B, bool save, void* loss, void* mean_diff, void* lse_a, void* lse_b);

// The gradients of grad . loss to the scores of some items, in place of them; A stays as it is without `need_a`.
cudaError_t kl_backward_tile(Rows x, void* A, void* B, bool need_a, const void* grad, const void* mean_diff,
                             const void* lse_a, const void* lse_b);

// loss = log sum_c exp(S_c + correction_c) - S_target of each row, where the target has no correction. With `save`,
// S <- scale (softmax - onehot(target)), the gradient of scale . loss. `correction` (n,), in the type of accumulation,
// may be null. A target outside [0, n) gives NaN.
cudaError_t cross_entropy_rows(Rows x, void* S, const int64_t* target, const void* correction, bool save, double scale,
                               void* loss);

// How many scores of each row are above, and equal to, its target's. Row i leaves out the target and
// seen[offsets[i] : offsets[i + 1]] (both may be null; in any order, also twice), whose scores are overwritten by NaN.
// A row with a target or an item outside [0, n) gets -1.
cudaError_t count_rows(Rows x, void* S, const int64_t* target, const int64_t* seen, const int64_t* offsets,
                       int64_t* greater, int64_t* equal);

}  // namespace foster::cuda
