// How a problem is cut into blocks: enough of them for every processor of the device, by cutting the stream where there
// are few rows.
#include <algorithm>

#include "kernels.h"

namespace foster::cuda {
namespace {

constexpr int64_t kRows = 64, kTile = 64;
constexpr int64_t kSplitsWithOutput = 8, kSplits = 64;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

Plan plan(Type type, int64_t rows, int64_t cols, int64_t out, int stats, Device device) {
  Plan p{};
  p.blocks = ceil_div(rows, kRows);
  p.tiles = ceil_div(cols, kTile);
  const int64_t wanted = 2 * static_cast<int64_t>(device.processors);
  p.columns = out == 0 ? 0 : 128;
  // scores are made again for every chunk of the output, so a wide one where the rows alone fill the device
  if (out > 128 && type != Type::kDouble && p.blocks * ceil_div(out, 384) >= wanted) p.columns = 384;
  p.chunks = out == 0 ? 1 : static_cast<int>(ceil_div(out, p.columns));
  const int64_t groups = std::max<int64_t>(1, p.blocks * p.chunks);
  const int64_t most = std::min(p.tiles, out == 0 ? kSplits : kSplitsWithOutput);
  const int64_t splits = std::clamp<int64_t>(wanted / groups, 1, std::max<int64_t>(1, most));
  p.tiles_each = static_cast<int>(ceil_div(p.tiles, splits));
  p.splits = static_cast<int>(ceil_div(p.tiles, p.tiles_each));
  if (p.splits > 1) {
    const size_t size = type == Type::kDouble ? 8 : 4;
    p.bytes = static_cast<size_t>(groups) * p.splits * kRows * (p.columns + stats) * size;
    p.counters = static_cast<size_t>(groups);
  }
  return p;
}

}  // namespace foster::cuda
