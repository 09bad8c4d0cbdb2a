// The tiles of rows x items, and the matrix product of a tile. At most kTileRows x kTileItems scores (of each kind) are
// in memory at once, so memory does not grow with rows or items.
#pragma once

#include <algorithm>
#include <cstdint>

#include <ATen/ATen.h>
#include <ATen/OpMathType.h>

namespace foster::cpu {

constexpr int64_t kTileRows = 512;
constexpr int64_t kTileItems = 1024;
// The least number of scores that a thread works on.
constexpr int64_t kGrainSize = 16384;
// A forward saves at most this many scores (of each kind) for its backward: 16 MiB in float, however many items.
constexpr int64_t kMaxSaved = int64_t(1) << 22;

// x (r, k) times the transpose of w (c, k), in the type of x. On x86 processors that are not Intel's, large fp32
// products go through oneDNN, because MKL runs at half its speed there; all other products go through at::mm. With
// `position_invariant` all fp32 products go through oneDNN: with MKL the result of a column depends on its position.
at::Tensor matmul_nt(const at::Tensor& x, const at::Tensor& w, bool position_invariant = false);

// out (r, c) += x (r, k) times the transpose of w (c, k); with `overwrite`, out is set to the product.
void accumulate_matmul_nt(at::Tensor out, const at::Tensor& x, const at::Tensor& w, bool overwrite);

// Memory for the `matrices` (r, s) score matrices that a forward saves; empty without `save` or if they are too large.
inline at::Tensor empty_saved(bool save, int64_t matrices, int64_t r, int64_t s, const at::TensorOptions& options) {
  return save && r > 0 && r * s <= kMaxSaved ? at::empty({matrices, r, s}, options) : at::empty({0}, options);
}

// The type in which sums are accumulated.
inline at::ScalarType accumulate_type(const at::Tensor& x) {
  return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

// Rows [a, b) of x in the type of accumulation.
inline at::Tensor row_slice(const at::Tensor& x, int64_t a, int64_t b) {
  return x.slice(0, a, b).to(accumulate_type(x));
}

// Calls f(a, b) for consecutive ranges [a, b) of at most `size` that cover [0, n).
template <class F>
void for_each_tile(int64_t n, int64_t size, const F& f) {
  for (int64_t a = 0; a < n; a += size) f(a, std::min(a + size, n));
}

}  // namespace foster::cpu
