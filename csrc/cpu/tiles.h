// How rows x items are walked, and the product of a tile. No more than kRows x kItems scores are held at once (of each
// kind), so memory grows with neither.
#pragma once

#include <algorithm>
#include <cstdint>

#include <ATen/ATen.h>
#include <ATen/OpMathType.h>

namespace foster::cpu {

constexpr int64_t kRows = 512;
constexpr int64_t kItems = 1024;
// Scores that one thread takes at least.
constexpr int64_t kGrain = 16384;
// Up to this many scores (of each kind) a forward may keep for its backward: 16 MiB in float, whatever the catalogue.
constexpr int64_t kKept = int64_t(1) << 22;

// x (r, k) times the transpose of w (c, k), in the type of x. fp32 goes to oneDNN on x86 that is not Intel's, where MKL
// runs at half its speed; all else, and small ones, go through at::mm. With `steady` all fp32 goes to oneDNN: MKL's result
// for a column depends on where it stands, oneDNN's does not.
at::Tensor product(const at::Tensor& x, const at::Tensor& w, bool steady = false);

// out (r, c) = x (r, k) times the transpose of w (c, k), added to what is there unless it is the `first`.
void add_product(at::Tensor out, const at::Tensor& x, const at::Tensor& w, bool first);

// Where a forward leaves `kinds` matrices (r, s) of scores for its backward; empty where it is not to, or they are large.
inline at::Tensor room_to_keep(bool keep, int64_t kinds, int64_t r, int64_t s, const at::TensorOptions& options) {
  return keep && r > 0 && r * s <= kKept ? at::empty({kinds, r, s}, options) : at::empty({0}, options);
}

// The type sums are kept in.
inline at::ScalarType sum_type(const at::Tensor& x) { return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }

// Rows [a, b) of x in the type of sums.
inline at::Tensor part(const at::Tensor& x, int64_t a, int64_t b) { return x.slice(0, a, b).to(sum_type(x)); }

// Calls f(a, b) for 0 <= a < b <= n, in steps of `size`.
template <class F>
void blocks(int64_t n, int64_t size, const F& f) {
  for (int64_t a = 0; a < n; a += size) f(a, std::min(a + size, n));
}

}  // namespace foster::cpu
