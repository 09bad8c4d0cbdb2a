// The ops on raw device pointers, enqueued on a CUDA stream, as the binding calls them. Shapes are those of
// foster_cli/ops/reference.py: Q, H (r, w) and V, E (s, w); matrices are row-major and contiguous. Neither this file
// nor the kernels include a header of torch.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(FOSTER_EMULATE)
#include "emulate.h"
#else
#include <cuda_runtime_api.h>
#endif

namespace foster::cuda {

enum class Type { kFloat, kDouble, kBFloat16 };

// The properties of a device that matter here.
struct Device {
  int sm_count;    // streaming multiprocessors
  int max_shared;  // bytes of shared memory that a block may ask for
};

// How a problem is divided among thread blocks. A block of 256 threads owns 64 rows and streams over tiles of 64
// columns. It accumulates a chunk of `columns` output columns (0 if the op has no output matrix), and the output has
// `chunks` of these. The tiles may be divided into `splits`; the last block to finish combines the results, in order.
struct Plan {
  int64_t row_blocks, tiles;
  int columns, chunks, splits, tiles_per_split;
  size_t workspace_bytes;
  size_t counters;  // of 4 bytes each, which are 0 before the call and after it
};

// The plan for `rows` that the blocks own, `cols` that they stream over, `out` output columns and `stats` numbers per
// row that the splits hand over.
Plan plan(Type type, int64_t rows, int64_t cols, int64_t out, int stats, Device device);

// Where an op runs. With `exact`, fp32 products have the accuracy of fp32; without it they are single TF32 products.
struct Context {
  Device device;
  bool exact;
  void* workspace;
  unsigned* counters;
  cudaStream_t stream;
};

// The sizes of a call: r rows, s items, the width of Q and V, and that of E (and, in soft_kl, of H).
struct Sizes {
  int64_t r, s;
  int width_v, width_e;
};

// The plans of the ops below. A backward computes one gradient per call, to the input `wrt`: 0 is Q, 1 is H, 2 is E.
Plan plan_soft_embed(Type type, Sizes n, Device device);
Plan plan_soft_embed_backward(Type type, Sizes n, int wrt, Device device);
Plan plan_soft_kl(Type type, Sizes n, Device device);
Plan plan_soft_kl_backward(Type type, Sizes n, int wrt, Device device);

// X (r, width_e) = softmax(Q V^T) E in the type of the inputs, and lse (r,) in the type of accumulation.
cudaError_t soft_embed(Type type, Sizes n, const void* Q, const void* V, const void* E, void* X, void* lse, Context c);

// out is dQ (r, width_v) or dE (s, width_e). grad (r, width_e) is in the type of the inputs; delta (r,) is the sum of
// grad X over each row.
cudaError_t soft_embed_backward(Type type, Sizes n, int wrt, const void* grad, const void* Q, const void* V,
                                const void* E, const void* delta, const void* lse, void* out, Context c);

// loss, mean_diff, lse_Q and lse_H (r,) are in the type of accumulation.
cudaError_t soft_kl(Type type, Sizes n, const void* Q, const void* V, const void* H, const void* E, void* loss,
                    void* mean_diff, void* lse_Q, void* lse_H, Context c);

// out is dQ, dH or dE. grad (r,) is in the type of accumulation.
cudaError_t soft_kl_backward(Type type, Sizes n, int wrt, const void* grad, const void* Q, const void* V, const void* H,
                             const void* E, const void* mean_diff, const void* lse_Q, const void* lse_H, void* out,
                             Context c);

// Adds to greater and equal (r,), which the caller has set to 0. Row i does not count the items
// seen[offsets[i] : offsets[i + 1]], which are in ascending order; both pointers may be null.
cudaError_t rank_counts(Type type, Sizes n, const void* H, const void* E, const int64_t* target, const int64_t* seen,
                        const int64_t* offsets, int64_t* greater, int64_t* equal, Context c);

}  // namespace foster::cuda
