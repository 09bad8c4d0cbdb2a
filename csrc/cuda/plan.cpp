// How a problem is divided: into enough blocks to occupy every multiprocessor. If there are few rows, the tiles that a
// block of rows streams over are split among several blocks.
#include <algorithm>

#include "kernels.h"

namespace foster::cuda {
namespace {

constexpr int64_t kBlockM = 64, kBlockN = 64;
constexpr int64_t kMaxSplitsWithOutput = 8, kMaxSplits = 64;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

Plan plan(Type type, int64_t rows, int64_t cols, int64_t out, int stats, Device device) {
  Plan p{};
  p.row_blocks = ceil_div(rows, kBlockM);
  p.tiles = ceil_div(cols, kBlockN);
  const int64_t target_blocks = 2 * static_cast<int64_t>(device.sm_count);
  p.columns = out == 0 ? 0 : 128;
  // The scores are recomputed for each chunk of the output, so chunks are wide if the rows alone occupy the device.
  if (out > 128 && type != Type::kDouble && p.row_blocks * ceil_div(out, 384) >= target_blocks) p.columns = 384;
  p.chunks = out == 0 ? 1 : static_cast<int>(ceil_div(out, p.columns));
  const int64_t groups = std::max<int64_t>(1, p.row_blocks * p.chunks);
  const int64_t max_splits = std::min(p.tiles, out == 0 ? kMaxSplits : kMaxSplitsWithOutput);
  const int64_t splits = std::clamp<int64_t>(target_blocks / groups, 1, std::max<int64_t>(1, max_splits));
  p.tiles_per_split = static_cast<int>(ceil_div(p.tiles, splits));
  p.splits = static_cast<int>(ceil_div(p.tiles, p.tiles_per_split));
  if (p.splits > 1) {
    const size_t size = type == Type::kDouble ? 8 : 4;
    p.workspace_bytes = static_cast<size_t>(groups) * p.splits * kBlockM * (p.columns + stats) * size;
    p.counters = static_cast<size_t>(groups);
  }
  return p;
}

}  // namespace foster::cuda
