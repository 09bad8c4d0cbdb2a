// The one kernel behind all ops. A block keeps 64 rows of X and streams over the rows of Y, 64 at a time:
//
//   a = X[0] Y[0]^T, b = X[1] Y[1]^T     scores of a tile, in registers
//   w = Op(a, b)                         what the op makes of them: statistics of each row, or weights
//   out += w Z                           for ops with an output matrix; Z has one row for each row of Y
//
// Scores and weights are never in global memory. X, Y and Z come through shared memory in three stages of asynchronous
// copies; where a block may have enough of it, X is read once and stays.
//
// An Op has: Args, Shared, kProducts (1 or 2), kStats (numbers of a row that blocks of one row hand over), kOwn (a first
// tile holds the rows' own columns); and the functions called below.
#pragma once

#include "kernels.h"
#include "products.cuh"

namespace foster::cuda {

constexpr int kThreads = 256, kRows = 64, kTile = 64, kStages = 3;

template <class S>
struct Stream {
  using A = typename Layout<S>::Sum;
  const S* X[2];
  const S* Y[2];
  int width[2];
  const S* Z;
  int z_width;
  S* out;  // (rows, z_width)
  int64_t rows, cols;
  int64_t tiles;
  int tiles_each, splits, chunks;
  bool kept, aligned, exact;
  A* partial;
  A* stats;
  unsigned* counters;
};

// Bytes of shared memory, in the order they lie.
template <class S, class Op, int kColumns>
struct Shared {
  using L = Layout<S>;
  static constexpr int panel = kRows * L::stride * sizeof(S);
  static constexpr int z_stride = kColumns + L::z_pad;
  static constexpr int z = kColumns > 0 ? L::slice * z_stride * int(sizeof(S)) : 0;
  static constexpr int stage = 2 * panel > z ? 2 * panel : z;
  static constexpr int weights = kColumns > 0 ? kRows * L::w_stride * int(sizeof(S)) : 0;
  static constexpr int own = (sizeof(typename Op::Shared) + 15) / 16 * 16;
  static constexpr int bytes = kStages * stage + weights + own + 16;
  static_assert(bytes <= 99 * 1024, "an RTX A5000 gives a block no more");
  static int kept(const int (&width)[2]) {
    int panels = 0;
    for (int p = 0; p < Op::kProducts; ++p) panels += (width[p] + L::chunk - 1) / L::chunk;
    return panels * panel;
  }
};

// Where a thread's results stand in a tile.
struct Place {
  int row[2], col, lane_t, side;  // rows of the block; first column of the tile
  __device__ Place() {
    const Lane at;
    row[0] = at.warp % 4 * 16 + at.g;
    row[1] = row[0] + 8;
    side = at.warp / 4;
    col = side * 32 + 2 * at.t;
    lane_t = at.t;
  }
  __device__ int column(int j, int e) const { return col + 8 * j + e % 2; }
  // Of the eight threads that share a row, the one that writes.
  __device__ bool writes() const { return side == 0 && lane_t == 0; }
};

// Brings the parts of the stream into shared memory, in the order they are used: of each tile the chunks of X and Y,
// product after product, then the slices of Z.
template <class S, class Op, int kColumns>
struct Feed {
  using L = Layout<S>;
  using M = Shared<S, Op, kColumns>;
  const Stream<S>& s;
  const typename Op::Args& args;
  const int64_t row0;
  const int column0;
  unsigned char* const stages;
  S* const kept;
  int64_t tile;
  const int64_t begin, first, last;
  int part, slot, used, chunks[2];

  __device__ Feed(const Stream<S>& s, const typename Op::Args& args, int64_t row0, int column0, unsigned char* stages,
                  S* kept, int64_t begin, int64_t first, int64_t last)
      : s(s), args(args), row0(row0), column0(column0), stages(stages), kept(kept), tile(begin), begin(begin),
        first(first), last(last), part(0), slot(0), used(0) {
    for (int p = 0; p < 2; ++p) chunks[p] = p < Op::kProducts ? (s.width[p] + L::chunk - 1) / L::chunk : 0;
    for (int i = 0; i < kStages - 1; ++i) next();
  }

  // Waits for the oldest part and asks for one more. The pointer is good until the call after the next.
  __device__ S* take() {
    copies_wait<kStages - 2>();
    __syncthreads();
    next();
    S* found = reinterpret_cast<S*>(stages + used * M::stage);
    used = used + 1 == kStages ? 0 : used + 1;
    return found;
  }

 private:
  __device__ void next() {
    if (tile < last) {
      load(reinterpret_cast<S*>(stages + slot * M::stage));
      constexpr int slices = kColumns > 0 ? kTile / L::slice : 0;
      if (++part == chunks[0] + chunks[1] + slices) {
        part = 0;
        ++tile;
      }
    }
    slot = slot + 1 == kStages ? 0 : slot + 1;
    copies_commit();
  }

  __device__ void load(S* stage) {
    const int p = part < chunks[0] ? 0 : 1;
    const int chunk = part - p * chunks[0];
    if (p == 1 && chunk >= chunks[1]) return load_z(stage, chunk - chunks[1]);
    if (!s.kept)
      load_rows(stage, s.X[p], row0, s.rows, s.width[p], chunk);
    else if (tile == begin)
      load_rows(kept + part * (M::panel / sizeof(S)), s.X[p], row0, s.rows, s.width[p], chunk);
    if constexpr (Op::kOwn) {
      if (tile < first) return load_rows(stage + M::panel / sizeof(S), s.Y[p], row0, s.rows, s.width[p], chunk, args.target);
    }
    load_rows(stage + M::panel / sizeof(S), s.Y[p], tile * kTile, s.cols, s.width[p], chunk);
  }

  // 64 rows from `row` on, one chunk of their columns; 0 beyond the end. `pick` names the rows.
  __device__ void load_rows(S* to, const S* from, int64_t row, int64_t rows, int width, int chunk,
                            const int64_t* pick = nullptr) {
    constexpr int units = L::chunk / L::unit;
    for (int u = threadIdx.x; u < kRows * units; u += kThreads) {
      const int64_t i = row + u / units;
      const int k = chunk * L::chunk + u % units * L::unit;
      const int64_t source = i < rows && pick != nullptr ? pick[i] : i;
      load_unit(to + u / units * L::stride + u % units * L::unit, from + source * width + k, i < rows ? width - k : 0);
    }
  }
  __device__ void load_z(S* to, int slice) {
    constexpr int units = kColumns > 0 ? kColumns / L::unit : 1;
    for (int u = threadIdx.x; u < L::slice * units; u += kThreads) {
      const int64_t i = tile * kTile + slice * L::slice + u / units;
      const int k = column0 + u % units * L::unit;
      load_unit(to + u / units * M::z_stride + u % units * L::unit, s.Z + i * s.z_width + k,
                i < s.cols ? s.z_width - k : 0);
    }
  }
  // One unit of 16 bytes, of which `there` elements exist.
  __device__ void load_unit(S* to, const S* from, int there) {
    if (s.aligned) {
      copy_async(to, there > 0 ? static_cast<const void*>(from) : static_cast<const void*>(s.X[0]), there > 0 ? 16 : 0);
      return;
    }
#pragma unroll
    for (int e = 0; e < L::unit; ++e) to[e] = e < there ? from[e] : S{};
  }
};

template <class S>
__device__ inline void store_pair(S* to, typename Layout<S>::Sum x, typename Layout<S>::Sum y) {
  to[0] = narrow<S>(x);
  to[1] = narrow<S>(y);
}
template <>
__device__ inline void store_pair<bf16>(bf16* to, float x, float y) {
  *reinterpret_cast<uint32_t*>(to) = narrow<bf16>(x).bits | static_cast<uint32_t>(narrow<bf16>(y).bits) << 16;
}

template <class S, class Op, int kColumns>
__global__ void __launch_bounds__(kThreads, 1)
    stream(const __grid_constant__ Stream<S> s, const __grid_constant__ typename Op::Args args) {
  using L = Layout<S>;
  using A = typename L::Sum;
  using M = Shared<S, Op, kColumns>;
  constexpr int kParts = kColumns > 0 ? kColumns / 16 : 1;  // of 8 columns each, of a warp
  constexpr int kPanel = M::panel / sizeof(S);
  FOSTER_SHARED(shared);
  S* weights = reinterpret_cast<S*>(shared + kStages * M::stage);
  auto& own = *reinterpret_cast<typename Op::Shared*>(shared + kStages * M::stage + M::weights);
  int& last_one = *reinterpret_cast<int*>(shared + kStages * M::stage + M::weights + M::own);
  S* kept = reinterpret_cast<S*>(shared + M::bytes);

  const int split = blockIdx.x % s.splits, chunk = blockIdx.x / s.splits % s.chunks;
  const int64_t block = blockIdx.x / s.splits / s.chunks, row0 = block * kRows;
  const int64_t first = static_cast<int64_t>(split) * s.tiles_each;
  const int64_t last = first + s.tiles_each < s.tiles ? first + s.tiles_each : s.tiles;
  const int64_t begin = Op::kOwn ? first - 1 : first;
  const Place at;
  const int x_rows = at.row[0] / 16 * 16 * L::stride, y_rows = at.side * 32 * L::stride;

  Op op(args, own, at, row0, s.rows, s.cols, first);
  A out[kParts][4] = {};
  Feed<S, Op, kColumns> feed(s, args, row0, chunk * kColumns, shared, kept, begin, first, last);

  for (int64_t tile = begin; tile < last; ++tile) {
    op.enter(tile);
    A a[4][4] = {}, b[4][4] = {};
    for (int k = 0; k < feed.chunks[0]; ++k) {
      const S* stage = feed.take();
      add_scores(a, (s.kept ? kept + k * kPanel : stage) + x_rows, stage + kPanel + y_rows, s.exact);
    }
    if constexpr (Op::kProducts == 2)
      for (int k = 0; k < feed.chunks[1]; ++k) {
        const S* stage = feed.take();
        add_scores(b, (s.kept ? kept + (feed.chunks[0] + k) * kPanel : stage) + x_rows, stage + kPanel + y_rows,
                   s.exact);
      }
    op.see(a, b, tile);  // a becomes the weights
    if constexpr (kColumns > 0) {
#pragma unroll
      for (int j = 0; j < 4; ++j)
#pragma unroll
        for (int h = 0; h < 2; ++h)
          store_pair<S>(weights + at.row[h] * L::w_stride + at.column(j, 0), a[j][2 * h], a[j][2 * h + 1]);
      op.rescale(out);
      for (int z = 0; z < kTile / L::slice; ++z) {
        const S* stage = feed.take();
        add_weighted(out, weights + at.row[0] / 16 * 16 * L::w_stride + z * L::slice, stage + at.side * kColumns / 2,
                     M::z_stride, s.exact);
      }
    }
  }
  op.join();

  if constexpr (Op::kStats > 0 || kColumns > 0) {
    if (s.splits > 1) {  // the last block of these rows puts the splits together, in their order
      const int64_t group = block * s.chunks + chunk;
      A* partial = s.partial + (group * s.splits + split) * (kParts * 4 * kThreads) + threadIdx.x;
      if constexpr (kColumns > 0)
        for (int i = 0; i < kParts * 4; ++i) partial[i * kThreads] = out[i / 4][i % 4];
      op.save(s.stats + (group * s.splits + split) * kRows * Op::kStats);
      __threadfence();
      __syncthreads();
      if (threadIdx.x == 0) {
        last_one = atomicAdd(s.counters + group, 1u) == static_cast<unsigned>(s.splits - 1);
        if (last_one) s.counters[group] = 0;
      }
      __syncthreads();
      if (!last_one) return;
      __threadfence();
      const A* stats = s.stats + group * s.splits * kRows * Op::kStats;
      op.gather(stats, s.splits);
      if constexpr (kColumns > 0) {
#pragma unroll
        for (int i = 0; i < kParts * 4; ++i) out[i / 4][i % 4] = A(0);
        for (int other = 0; other < s.splits; ++other) {
          const A* from = s.partial + (group * s.splits + other) * (kParts * 4 * kThreads) + threadIdx.x;
          const A share[2] = {op.share(stats, other, 0), op.share(stats, other, 1)};
#pragma unroll
          for (int i = 0; i < kParts * 4; ++i) out[i / 4][i % 4] += share[i % 4 / 2] * from[i * kThreads];
        }
      }
    }
  }
  op.finish(chunk);
  if constexpr (kColumns > 0) {
#pragma unroll
    for (int j = 0; j < kParts; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int64_t row = row0 + at.row[e / 2];
        const int col = chunk * kColumns + at.side * kColumns / 2 + 8 * j + 2 * at.lane_t + e % 2;
        if (row < s.rows && col < s.z_width) s.out[row * s.z_width + col] = narrow<S>(op.last(out[j][e], e / 2));
      }
  }
}

inline bool aligned(const void* p, int width, size_t size) {
  return reinterpret_cast<uintptr_t>(p) % 16 == 0 && width * size % 16 == 0;
}

// Queues the kernel. `s` has its matrices, widths, rows and columns; the plan gives the rest.
template <class S, class Op, int kColumns>
cudaError_t launch(Stream<S> s, const typename Op::Args& args, const Plan& p, const Context& c) {
  using A = typename Layout<S>::Sum;
  if (s.rows == 0) return cudaSuccess;
  s.tiles = p.tiles;
  s.tiles_each = p.tiles_each;
  s.splits = p.splits;
  s.chunks = p.chunks;
  s.exact = c.exact;
  s.aligned = true;
  for (int i = 0; i < Op::kProducts; ++i)
    s.aligned = s.aligned && aligned(s.X[i], s.width[i], sizeof(S)) && aligned(s.Y[i], s.width[i], sizeof(S));
  if (kColumns > 0) s.aligned = s.aligned && aligned(s.Z, s.z_width, sizeof(S));
  const size_t groups = static_cast<size_t>(p.blocks) * p.chunks * p.splits;
  s.partial = static_cast<A*>(c.workspace);
  s.stats = s.partial + (kColumns > 0 && p.splits > 1 ? groups * kColumns * kRows : 0);
  s.counters = c.counters;
  using M = Shared<S, Op, kColumns>;
  s.kept = M::bytes + M::kept(s.width) <= c.device.shared;
  const int shared = M::bytes + (s.kept ? M::kept(s.width) : 0);
  const auto kernel = stream<S, Op, kColumns>;
  if (shared > c.device.shared) return cudaErrorInvalidConfiguration;
  const cudaError_t set = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
  if (set != cudaSuccess) return set;
  FOSTER_LAUNCH(kernel, static_cast<unsigned>(groups), kThreads, shared, c.stream, s, args);
  return cudaGetLastError();
}

// The widths of output that are compiled: a block of bf16 or float takes 128 columns or 384, one of double 128.
template <class S, class Op>
cudaError_t launch_weighted(const Stream<S>& s, const typename Op::Args& args, const Plan& p, const Context& c) {
  if constexpr (sizeof(S) < 8) {
    if (p.columns == 384) return launch<S, Op, 384>(s, args, p, c);
  }
  return launch<S, Op, 128>(s, args, p, c);
}

// Calls f<S>() for the type.
template <class F>
cudaError_t with_type(Type type, const F& f) {
  if (type == Type::kFloat) return f(float{});
  if (type == Type::kDouble) return f(double{});
  return f(bf16{});
}

}  // namespace foster::cuda
