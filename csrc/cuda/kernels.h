// What the binding calls: each op on raw pointers, queued on a stream. Shapes as in foster_cli/ops/reference.py: Q, H
// (r, width), V, E (s, width); matrices lie row after row without gaps. No torch header here or in the kernels.
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

// What the kernels need to know of a device.
struct Device {
  int processors;  // streaming multiprocessors
  int shared;      // bytes of shared memory that a block may ask for
};

// How a problem is cut. A block of 256 threads keeps 64 rows and streams over tiles of 64 columns. `columns` of its
// output it holds at once (0: it has no output matrix), `chunks` of them make the whole; the stream may be cut in
// `splits`, whose results the last block to finish puts together in a fixed order.
struct Plan {
  int64_t blocks, tiles;
  int columns, chunks, splits, tiles_each;
  size_t bytes;     // of workspace
  size_t counters;  // of 4 bytes each that are 0 before the call, and after it
};

// For `rows` that stay and `cols` that stream; `out` columns of output; `stats` numbers kept of each row.
Plan plan(Type type, int64_t rows, int64_t cols, int64_t out, int stats, Device device);

// Where an op runs. `exact`: fp32 products keep fp32's accuracy; otherwise they are those of TF32.
struct Context {
  Device device;
  bool exact;
  void* workspace;
  unsigned* counters;
  cudaStream_t stream;
};

// The sizes of a call: r rows, s items; Q, V are (., width), H and E (., other) in soft_kl and E (s, other) in
// soft_embed.
struct Sizes {
  int64_t r, s;
  int width, other;
};

// The plans of the ops below. `part` of a backward: the gradient to 0: Q, 1: H, 2: E.
Plan plan_soft_embed(Type type, Sizes n, Device device);
Plan plan_soft_embed_backward(Type type, Sizes n, int part, Device device);
Plan plan_soft_kl(Type type, Sizes n, Device device);
Plan plan_soft_kl_backward(Type type, Sizes n, int part, Device device);

// X (r, other) = softmax(Q V^T) E in the inputs' type and lse (r,) in the type of sums.
cudaError_t soft_embed(Type type, Sizes n, const void* Q, const void* V, const void* E, void* X, void* lse, Context c);

// part 0: out = dQ (r, width); part 2: out = dE (s, other). grad (r, other) in the inputs' type; centre (r,) is
// sum grad X.
cudaError_t soft_embed_backward(Type type, Sizes n, int part, const void* grad, const void* Q, const void* V,
                                const void* E, const void* centre, const void* lse, void* out, Context c);

// loss, centre, lse_Q, lse_H (r,) in the type of sums.
cudaError_t soft_kl(Type type, Sizes n, const void* Q, const void* V, const void* H, const void* E, void* loss,
                    void* centre, void* lse_Q, void* lse_H, Context c);

// part 0: out = dQ, 1: dH, 2: dE. grad (r,) in the type of sums.
cudaError_t soft_kl_backward(Type type, Sizes n, int part, const void* grad, const void* Q, const void* V,
                             const void* H, const void* E, const void* centre, const void* lse_Q, const void* lse_H,
                             void* out, Context c);

// Adds to greater and equal (r,), which the caller has set to 0. In row i the items seen[offsets[i] : offsets[i + 1]],
// in rising order, are left out; both null: none.
cudaError_t rank_counts(Type type, Sizes n, const void* H, const void* E, const int64_t* target, const int64_t* seen,
                        const int64_t* offsets, int64_t* greater, int64_t* equal, Context c);

}  // namespace foster::cuda
