// The one kernel behind all ops. A block owns 64 rows of X and streams over the rows of Y, in tiles of 64:
//
//   a = X[0] Y[0]^T, b = X[1] Y[1]^T     the scores of a tile, in registers
//   w = Op(a, b)                         row statistics are accumulated, or the scores are turned into weights
//   out += w Z                           for ops with an output matrix; Z has a row for each row of Y
//
// Scores and weights are never in global memory. X, Y and Z pass through shared memory in a three-stage pipeline of
// asynchronous copies. If shared memory is large enough, X is loaded once and stays there.
//
// An Op has Args, SharedStorage, kProducts (1 or 2), kStats (the numbers per row that a split hands over), kTargetTile
// (the rows' own targets are the columns of a first tile), and the functions of OpBase (op.cuh).
#pragma once

#include "kernels.h"
#include "products.cuh"

namespace foster::cuda {

constexpr int kThreads = 256, kBlockM = 64, kBlockN = 64, kStages = 3;

template <class S>
struct Params {
  using A = typename Layout<S>::Acc;
  const S* X[2];
  const S* Y[2];
  int width[2];
  const S* Z;
  int z_width;
  S* out;  // (rows, z_width)
  int64_t rows, cols;
  int64_t tiles;
  int tiles_per_split, splits, chunks;
  bool x_resident, aligned, exact;
  A* partial_out;
  A* partial_stats;
  unsigned* counters;
};

// The sizes, in bytes, of the parts of shared memory, in their order there.
template <class S, class Op, int kColumns>
struct SharedLayout {
  using L = Layout<S>;
  static constexpr int panel = kBlockM * L::stride * sizeof(S);
  static constexpr int z_stride = kColumns + L::z_pad;
  static constexpr int z = kColumns > 0 ? L::slice * z_stride * int(sizeof(S)) : 0;
  static constexpr int stage = 2 * panel > z ? 2 * panel : z;
  static constexpr int weights = kColumns > 0 ? kBlockM * L::w_stride * int(sizeof(S)) : 0;
  static constexpr int op = (sizeof(typename Op::SharedStorage) + 15) / 16 * 16;
  static constexpr int bytes = kStages * stage + weights + op + 16;
  static_assert(bytes <= 99 * 1024, "the most that a block may have on an RTX A5000");
  static int resident_x(const int (&width)[2]) {
    int panels = 0;
    for (int p = 0; p < Op::kProducts; ++p) panels += (width[p] + L::k_chunk - 1) / L::k_chunk;
    return panels * panel;
  }
};

// The position of a thread's scores in a tile: two rows, and pairs of columns in one half of the tile.
struct Position {
  int row[2], col, quad_lane, half;
  __device__ Position() {
    const Lane lane;
    row[0] = lane.warp % 4 * 16 + lane.g;
    row[1] = row[0] + 8;
    half = lane.warp / 4;
    col = half * 32 + 2 * lane.t;
    quad_lane = lane.t;
  }
  __device__ int column(int j, int e) const { return col + 8 * j + e % 2; }
  // Of the eight threads that share a row, one writes its results.
  __device__ bool is_writer() const { return half == 0 && quad_lane == 0; }
};

// Loads X, Y and Z into the stages of shared memory in the order of their use: for each tile the chunks of X and Y of
// each product, then the slices of Z.
template <class S, class Op, int kColumns>
struct Loader {
  using L = Layout<S>;
  using M = SharedLayout<S, Op, kColumns>;
  const Params<S>& params;
  const typename Op::Args& args;
  const int64_t row0;
  const int column0;
  unsigned char* const stages;
  S* const resident_x;
  int64_t tile;
  const int64_t begin, first, end;  // `begin` is the first tile, `first` the first that is not a target tile
  int step, load_stage, use_stage, k_chunks[2];

  __device__ Loader(const Params<S>& params, const typename Op::Args& args, int64_t row0, int column0,
                    unsigned char* stages, S* resident_x, int64_t begin, int64_t first, int64_t end)
      : params(params), args(args), row0(row0), column0(column0), stages(stages), resident_x(resident_x), tile(begin),
        begin(begin), first(first), end(end), step(0), load_stage(0), use_stage(0) {
    for (int p = 0; p < 2; ++p) k_chunks[p] = p < Op::kProducts ? (params.width[p] + L::k_chunk - 1) / L::k_chunk : 0;
    for (int i = 0; i < kStages - 1; ++i) prefetch();
  }

  // Waits for the oldest stage and starts the loading of one more. The pointer is valid until the call after the next.
  __device__ S* next() {
    cp_async_wait<kStages - 2>();
    __syncthreads();
    prefetch();
    S* ready = reinterpret_cast<S*>(stages + use_stage * M::stage);
    use_stage = use_stage + 1 == kStages ? 0 : use_stage + 1;
    return ready;
  }

 private:
  __device__ void prefetch() {
    if (tile < end) {
      load(reinterpret_cast<S*>(stages + load_stage * M::stage));
      constexpr int slices = kColumns > 0 ? kBlockN / L::slice : 0;
      if (++step == k_chunks[0] + k_chunks[1] + slices) {
        step = 0;
        ++tile;
      }
    }
    load_stage = load_stage + 1 == kStages ? 0 : load_stage + 1;
    cp_async_commit();
  }

  __device__ void load(S* stage) {
    const int p = step < k_chunks[0] ? 0 : 1;
    const int chunk = step - p * k_chunks[0];
    if (p == 1 && chunk >= k_chunks[1]) return load_z(stage, chunk - k_chunks[1]);
    constexpr size_t panel = M::panel / sizeof(S);
    if (!params.x_resident)
      load_rows(stage, params.X[p], row0, params.rows, params.width[p], chunk);
    else if (tile == begin)
      load_rows(resident_x + step * panel, params.X[p], row0, params.rows, params.width[p], chunk);
    if constexpr (Op::kTargetTile) {
      if (tile < first)
        return load_rows(stage + panel, params.Y[p], row0, params.rows, params.width[p], chunk, args.target);
    }
    load_rows(stage + panel, params.Y[p], tile * kBlockN, params.cols, params.width[p], chunk);
  }

  // Loads one chunk of the columns of 64 rows, which begin with `row`; 0 beyond the end. `index` maps rows of src.
  __device__ void load_rows(S* dst, const S* src, int64_t row, int64_t rows, int width, int chunk,
                            const int64_t* index = nullptr) {
    constexpr int vecs = L::k_chunk / L::vec;
    for (int u = threadIdx.x; u < kBlockM * vecs; u += kThreads) {
      const int64_t i = row + u / vecs;
      const int k = chunk * L::k_chunk + u % vecs * L::vec;
      const int64_t source = i < rows && index != nullptr ? index[i] : i;
      load_vec(dst + u / vecs * L::stride + u % vecs * L::vec, src + source * width + k, i < rows ? width - k : 0);
    }
  }
  __device__ void load_z(S* dst, int slice) {
    constexpr int vecs = kColumns > 0 ? kColumns / L::vec : 1;
    for (int u = threadIdx.x; u < L::slice * vecs; u += kThreads) {
      const int64_t i = tile * kBlockN + slice * L::slice + u / vecs;
      const int k = column0 + u % vecs * L::vec;
      load_vec(dst + u / vecs * M::z_stride + u % vecs * L::vec, params.Z + i * params.z_width + k,
               i < params.cols ? params.z_width - k : 0);
    }
  }
  // Loads 16 bytes, of which `valid` elements exist.
  __device__ void load_vec(S* dst, const S* src, int valid) {
    if (params.aligned) {
      cp_async(dst, valid > 0 ? static_cast<const void*>(src) : static_cast<const void*>(params.X[0]),
               valid > 0 ? 16 : 0);
      return;
    }
#pragma unroll
    for (int e = 0; e < L::vec; ++e) dst[e] = e < valid ? src[e] : S{};
  }
};

template <class S>
__device__ inline void store_pair(S* dst, typename Layout<S>::Acc x, typename Layout<S>::Acc y) {
  dst[0] = round_to<S>(x);
  dst[1] = round_to<S>(y);
}
template <>
__device__ inline void store_pair<bf16>(bf16* dst, float x, float y) {
  *reinterpret_cast<uint32_t*>(dst) = round_to<bf16>(x).bits | static_cast<uint32_t>(round_to<bf16>(y).bits) << 16;
}

// scores += X[p] Y[p]^T for the rows and columns of a warp.
template <int p, class S, class Op, int kColumns>
__device__ inline void accumulate_product(Loader<S, Op, kColumns>& loader, const Position& pos,
                                          typename Layout<S>::Acc (&scores)[4][4]) {
  using L = Layout<S>;
  constexpr int kPanel = SharedLayout<S, Op, kColumns>::panel / sizeof(S);
  const int x_rows = pos.row[0] / 16 * 16 * L::stride, y_rows = pos.half * 32 * L::stride;
  for (int k = 0; k < loader.k_chunks[p]; ++k) {
    const S* stage = loader.next();
    const S* x = loader.params.x_resident ? loader.resident_x + ((p ? loader.k_chunks[0] : 0) + k) * kPanel : stage;
    accumulate_scores(scores, x + x_rows, stage + kPanel + y_rows, loader.params.exact);
  }
}

// Writes a thread's weights to shared memory.
template <class S>
__device__ inline void store_weights(S* weights, const Position& pos, const typename Layout<S>::Acc (&w)[4][4]) {
#pragma unroll
  for (int j = 0; j < 4; ++j)
#pragma unroll
    for (int h = 0; h < 2; ++h)
      store_pair<S>(weights + pos.row[h] * Layout<S>::w_stride + pos.column(j, 0), w[j][2 * h], w[j][2 * h + 1]);
}

// Writes the results of one split of a group to the workspace.
template <class S, class Op, int kColumns, int kFragments>
__device__ inline void store_split(const Params<S>& params, Op& op, typename Layout<S>::Acc (&out)[kFragments][4],
                                   int64_t group, int split) {
  using A = typename Layout<S>::Acc;
  A* partial_out = params.partial_out + (group * params.splits + split) * (kFragments * 4 * kThreads) + threadIdx.x;
  if constexpr (kColumns > 0)
    for (int i = 0; i < kFragments * 4; ++i) partial_out[i * kThreads] = out[i / 4][i % 4];
  op.store_stats(params.partial_stats + (group * params.splits + split) * kBlockM * Op::kStats);
}

// Combines the results of all splits of a group, in order, in op and out.
template <class S, class Op, int kColumns, int kFragments>
__device__ inline void combine_splits(const Params<S>& params, Op& op, typename Layout<S>::Acc (&out)[kFragments][4],
                                      int64_t group) {
  using A = typename Layout<S>::Acc;
  const A* stats = params.partial_stats + group * params.splits * kBlockM * Op::kStats;
  op.combine_stats(stats, params.splits);
  if constexpr (kColumns > 0) {
#pragma unroll
    for (int i = 0; i < kFragments * 4; ++i) out[i / 4][i % 4] = A(0);
    for (int split = 0; split < params.splits; ++split) {
      const A* from = params.partial_out + (group * params.splits + split) * (kFragments * 4 * kThreads) + threadIdx.x;
      const A factor[2] = {op.split_factor(stats, split, 0), op.split_factor(stats, split, 1)};
#pragma unroll
      for (int i = 0; i < kFragments * 4; ++i) out[i / 4][i % 4] += factor[i % 4 / 2] * from[i * kThreads];
    }
  }
}

template <class S, class Op, int kColumns, int kFragments>
__device__ inline void store_output(const Params<S>& params, Op& op, typename Layout<S>::Acc (&out)[kFragments][4],
                                    const Position& pos, int64_t row0, int chunk) {
#pragma unroll
  for (int j = 0; j < kFragments; ++j)
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int64_t row = row0 + pos.row[e / 2];
      const int col = chunk * kColumns + pos.half * kColumns / 2 + 8 * j + 2 * pos.quad_lane + e % 2;
      if (row < params.rows && col < params.z_width)
        params.out[row * params.z_width + col] = round_to<S>(op.normalize(out[j][e], e / 2));
    }
}

template <class S, class Op, int kColumns>
__global__ void __launch_bounds__(kThreads, 1)
    stream_kernel(const __grid_constant__ Params<S> params, const __grid_constant__ typename Op::Args args) {
  using L = Layout<S>;
  using A = typename L::Acc;
  using M = SharedLayout<S, Op, kColumns>;
  constexpr int kFragments = kColumns > 0 ? kColumns / 16 : 1;  // of a warp, 8 output columns each
  FOSTER_SHARED(shared);
  S* weights = reinterpret_cast<S*>(shared + kStages * M::stage);
  auto& op_shared = *reinterpret_cast<typename Op::SharedStorage*>(shared + kStages * M::stage + M::weights);
  int& is_last_block = *reinterpret_cast<int*>(shared + kStages * M::stage + M::weights + M::op);
  S* resident_x = reinterpret_cast<S*>(shared + M::bytes);

  const int split = blockIdx.x % params.splits, chunk = blockIdx.x / params.splits % params.chunks;
  const int64_t block = blockIdx.x / params.splits / params.chunks, row0 = block * kBlockM;
  const int64_t first = static_cast<int64_t>(split) * params.tiles_per_split;
  const int64_t end = first + params.tiles_per_split < params.tiles ? first + params.tiles_per_split : params.tiles;
  const int64_t begin = Op::kTargetTile ? first - 1 : first;
  const Position pos;

  Op op(args, op_shared, pos, row0, params.rows, params.cols, first);
  A out[kFragments][4] = {};
  Loader<S, Op, kColumns> loader(params, args, row0, chunk * kColumns, shared, resident_x, begin, first, end);

  for (int64_t tile = begin; tile < end; ++tile) {
    op.begin_tile(tile);
    A a[4][4] = {}, b[4][4] = {};
    accumulate_product<0>(loader, pos, a);
    if constexpr (Op::kProducts == 2) accumulate_product<1>(loader, pos, b);
    op.process_tile(a, b, tile);  // a becomes the weights
    if constexpr (kColumns > 0) {
      store_weights(weights, pos, a);
      op.rescale_output(out);
      for (int z = 0; z < kBlockN / L::slice; ++z) {
        const S* stage = loader.next();
        accumulate_output(out, weights + pos.row[0] / 16 * 16 * L::w_stride + z * L::slice,
                          stage + pos.half * kColumns / 2, M::z_stride, params.exact);
      }
    }
  }
  op.reduce();

  if constexpr (Op::kStats > 0 || kColumns > 0) {
    if (params.splits > 1) {  // the last block of the group combines the splits
      const int64_t group = block * params.chunks + chunk;
      store_split<S, Op, kColumns>(params, op, out, group, split);
      __threadfence();
      __syncthreads();
      if (threadIdx.x == 0) {
        is_last_block = atomicAdd(params.counters + group, 1u) == static_cast<unsigned>(params.splits - 1);
        if (is_last_block) params.counters[group] = 0;
      }
      __syncthreads();
      if (!is_last_block) return;
      __threadfence();
      combine_splits<S, Op, kColumns>(params, op, out, group);
    }
  }
  op.store_rows(chunk);
  if constexpr (kColumns > 0) store_output<S, Op, kColumns>(params, op, out, pos, row0, chunk);
}

inline bool aligned(const void* p, int width, size_t size) {
  return reinterpret_cast<uintptr_t>(p) % 16 == 0 && width * size % 16 == 0;
}

// Launches the kernel. The caller sets the matrices, widths, rows and columns of `params`, and the plan the rest.
template <class S, class Op, int kColumns>
cudaError_t launch(Params<S> params, const typename Op::Args& args, const Plan& p, const Context& c) {
  using A = typename Layout<S>::Acc;
  if (params.rows == 0) return cudaSuccess;
  params.tiles = p.tiles;
  params.tiles_per_split = p.tiles_per_split;
  params.splits = p.splits;
  params.chunks = p.chunks;
  params.exact = c.exact;
  params.aligned = true;
  for (int i = 0; i < Op::kProducts; ++i)
    params.aligned = params.aligned && aligned(params.X[i], params.width[i], sizeof(S)) &&
                     aligned(params.Y[i], params.width[i], sizeof(S));
  if (kColumns > 0) params.aligned = params.aligned && aligned(params.Z, params.z_width, sizeof(S));
  const size_t groups = static_cast<size_t>(p.row_blocks) * p.chunks * p.splits;
  params.partial_out = static_cast<A*>(c.workspace);
  params.partial_stats = params.partial_out + (kColumns > 0 && p.splits > 1 ? groups * kColumns * kBlockM : 0);
  params.counters = c.counters;
  using M = SharedLayout<S, Op, kColumns>;
  params.x_resident = M::bytes + M::resident_x(params.width) <= c.device.max_shared;
  const int shared = M::bytes + (params.x_resident ? M::resident_x(params.width) : 0);
  const auto kernel = stream_kernel<S, Op, kColumns>;
  if (shared > c.device.max_shared) return cudaErrorInvalidConfiguration;
  const cudaError_t set = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
  if (set != cudaSuccess) return set;
  FOSTER_LAUNCH(kernel, static_cast<unsigned>(groups), kThreads, shared, c.stream, params, args);
  return cudaGetLastError();
}

// The compiled numbers of output columns per block: 128 or 384 for bf16 and float, 128 for double.
template <class S, class Op>
cudaError_t launch_with_output(const Params<S>& params, const typename Op::Args& args, const Plan& p,
                               const Context& c) {
  if constexpr (sizeof(S) < 8) {
    if (p.columns == 384) return launch<S, Op, 384>(params, args, p, c);
  }
  return launch<S, Op, 128>(params, args, p, c);
}

// Calls f with a value of the type.
template <class F>
cudaError_t dispatch_type(Type type, const F& f) {
  if (type == Type::kFloat) return f(float{});
  if (type == Type::kDouble) return f(double{});
  return f(bf16{});
}

}  // namespace foster::cuda
