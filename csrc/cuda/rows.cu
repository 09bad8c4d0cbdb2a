// The kernels of rows.h. In the kernels over whole rows a block owns one row: its threads go over it in steps of 16
// bytes, and their partial results are combined in a fixed order, so that the same input gives the same bits. In the
// kernels over tiles every thread takes 16 bytes of a row. A row's padding beyond n is neither read nor written.
#include "rows.h"

#include "device.cuh"

namespace foster::cuda {
namespace {

constexpr int kTile = 128;  // threads of a block over a tile

// Calls f(first item, count) for each 16 bytes of a row of n that belong to this thread.
template <class T, class F>
__device__ void for_each_pack(int64_t n, int thread, int threads, F f) {
  constexpr int kPack = 16 / sizeof(T);
  for (int64_t i = int64_t(thread) * kPack; i < n; i += int64_t(threads) * kPack)
    f(i, n - i < kPack ? int(n - i) : kPack);
}

// The sums of a softmax over the scores seen so far, relative to their maximum; `weighted` is sum exp(a - max) d.
template <class A>
struct Online {
  A max = -infinity<A>(), sum = 0, weighted = 0;

  __device__ void rescale(A new_max) {
    const A factor = max == new_max ? A(1) : max == -infinity<A>() ? A(0) : exponential(max - new_max);
    sum *= factor;
    weighted *= factor;
    max = new_max;
  }
  __device__ void merge(Online other) {
    const A top = maximum(max, other.max);
    rescale(top);
    other.rescale(top);
    sum += other.sum;
    weighted += other.weighted;
  }
  // Adds `count` scores a, each with its d.
  template <int kPack>
  __device__ void add(const A (&a)[kPack], const A (&d)[kPack], int count) {
    A top = max;
#pragma unroll
    for (int j = 0; j < kPack; ++j)
      if (j < count) top = maximum(top, a[j]);
    rescale(top);
    const A shift = top == -infinity<A>() ? A(0) : top;
#pragma unroll
    for (int j = 0; j < kPack; ++j)
      if (j < count) {
        const A e = exponential(a[j] - shift);
        sum += e;
        if (d[j] != 0) weighted += e * d[j];
      }
  }
  __device__ A lse() const { return max + logarithm(sum); }
};

// Combines what the threads of a block hold by `merge`, in the order of lanes and warps; every thread gets the result.
template <class Part>
__device__ Part over_block(Part part, unsigned char* shared, int threads) {
#pragma unroll
  for (int mask = 1; mask < 32; mask *= 2) {
    // the lower lane merges the higher one's part, and both hold the same result
    Part other = shuffle_xor(part, mask);
    if (threadIdx.x & mask) {
      other.merge(part);
      part = other;
    } else {
      part.merge(other);
    }
  }
  Part* parts = reinterpret_cast<Part*>(shared);
  __syncthreads();  // an earlier call's parts have been read
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = part;
  __syncthreads();
  part = parts[0];
  for (int w = 1; w < threads / 32; ++w) part.merge(parts[w]);
  return part;
}

template <class A>
struct Sum {
  A value = 0;
  __device__ void merge(Sum other) { value += other.value; }
};

struct Counts {
  int greater = 0, equal = 0, bad = 0;
  __device__ void merge(Counts other) { greater += other.greater, equal += other.equal, bad += other.bad; }
};

template <class T, class A = Accumulate<T>>
__global__ void __launch_bounds__(1024) softmax_rows_kernel(Rows x, int threads, T* S, A* lse) {
  FOSTER_SHARED(shared);
  T* row = S + blockIdx.x * x.ld;
  Online<A> total;
  for_each_pack<T>(x.n, threadIdx.x, threads, [&](int64_t i, int count) {
    A a[16 / sizeof(T)], zero[16 / sizeof(T)] = {};
    load(row + i, a, count);
    total.add(a, zero, count);
  });
  total = over_block(total, shared, threads);
  const A factor = A(1) / total.sum;
  for_each_pack<T>(x.n, threadIdx.x, threads, [&](int64_t i, int count) {
    A a[16 / sizeof(T)];
    load(row + i, a, count);
    for (A& value : a) value = exponential(value - total.max) * factor;
    store(row + i, a, count);
  });
  if (threadIdx.x == 0) lse[blockIdx.x] = total.lse();
}

template <class T, class A = Accumulate<T>>
__global__ void __launch_bounds__(1024) softmax_backward_rows_kernel(Rows x, int threads, const T* P, T* dP) {
  FOSTER_SHARED(shared);
  const T* p_row = P + blockIdx.x * x.ld;
  T* d_row = dP + blockIdx.x * x.ld;
  Sum<A> delta;
  for_each_pack<T>(x.n, threadIdx.x, threads, [&](int64_t i, int count) {
    A p[16 / sizeof(T)], d[16 / sizeof(T)];
    load(p_row + i, p, count);
    load(d_row + i, d, count);
    for (int j = 0; j < count; ++j) delta.value += p[j] * d[j];
  });
  delta = over_block(delta, shared, threads);
  for_each_pack<T>(x.n, threadIdx.x, threads, [&](int64_t i, int count) {
    A p[16 / sizeof(T)], d[16 / sizeof(T)];
    load(p_row + i, p, count);
    load(d_row + i, d, count);
    for (int j = 0; j < 16 / int(sizeof(T)); ++j) d[j] = p[j] * (d[j] - delta.value);
    store(d_row + i, d, count);
  });
}

// The row and the first item of this thread's 16 bytes, in a grid where each row has `blocks` blocks; false past the end.
template <class T>
__device__ bool place(const Rows& x, unsigned blocks, int64_t& row, int64_t& item, int& count) {
  constexpr int kPack = 16 / sizeof(T);
  row = blockIdx.x / blocks;
  item = (int64_t(blockIdx.x % blocks) * kTile + threadIdx.x) * kPack;
  count = x.n - item < kPack ? int(x.n - item) : kPack;
  return count > 0;
}

template <class T, class A = Accumulate<T>>
__global__ void softmax_backward_tile_kernel(Rows x, unsigned blocks, T* S, T* dP, const A* lse, const A* delta) {
  int64_t row, item;
  int count;
  if (!place<T>(x, blocks, row, item, count)) return;
  A p[16 / sizeof(T)], d[16 / sizeof(T)];
  load(S + row * x.ld + item, p, count);
  for (A& value : p) value = exponential(value - lse[row]);
  store(S + row * x.ld + item, p, count);
  if (dP == nullptr) return;
  load(dP + row * x.ld + item, d, count);
  for (int j = 0; j < 16 / int(sizeof(T)); ++j) d[j] = p[j] * (d[j] - delta[row]);
  store(dP + row * x.ld + item, d, count);
}

// a <- p (a - b - mean_diff) and b <- q - p, with p = exp(a - lse_a) and q = exp(b - lse_b), both times `grad`.
template <class A, int kPack>
__device__ void kl_gradients(A (&a)[kPack], A (&b)[kPack], A lse_a, A lse_b, A mean_diff, A grad) {
#pragma unroll
  for (int j = 0; j < kPack; ++j) {
    const A p = exponential(a[j] - lse_a), q = exponential(b[j] - lse_b), diff = a[j] - b[j] - mean_diff;
    a[j] = grad * p * diff;
    b[j] = grad * (q - p);
  }
}

template <class A>
struct Pair {
  Online<A> a, b;
  __device__ void merge(Pair other) { a.merge(other.a), b.merge(other.b); }
};

template <class T, class A = Accumulate<T>>
__global__ void __launch_bounds__(512) kl_rows_kernel(Rows x, int threads, T* A_, T* B_, bool save, A* loss,
                                                       A* mean_diff, A* lse_a, A* lse_b) {
  FOSTER_SHARED(shared);
  constexpr int kPack = 16 / sizeof(T);
  T *row_a = A_ + blockIdx.x * x.ld, *row_b = B_ + blockIdx.x * x.ld;
  Pair<A> total;
  for_each_pack<T>(x.n, threadIdx.x, threads, [&](int64_t i, int count) {
    A a[kPack], b[kPack], d[kPack], zero[kPack] = {};
    load(row_a + i, a, count);
    load(row_b + i, b, count);
    for (int j = 0; j < kPack; ++j) d[j] = a[j] - b[j];
    total.a.add(a, d, count);
    total.b.add(b, zero, count);
  });
  total = over_block(total, shared, threads);
  const A la = total.a.lse(), lb = total.b.lse(), mean = total.a.weighted / total.a.sum;
  if (threadIdx.x == 0) {
    // mean_diff, not the loss, is what gradients take: a - b - mean_diff is exactly 0 if the first softmax is one-hot
    loss[blockIdx.x] = mean - (la - lb);
    mean_diff[blockIdx.x] = mean;
    lse_a[blockIdx.x] = la;
    lse_b[blockIdx.x] = lb;
  }
  if (!save) return;
  for_each_pack<T>(x.n, threadIdx.x, threads, [&](int64_t i, int count) {
    A a[kPack], b[kPack];
    load(row_a + i, a, count);
    load(row_b + i, b, count);
    kl_gradients(a, b, la, lb, mean, A(1));
    store(row_a + i, a, count);
    store(row_b + i, b, count);
  });
}

template <class T, class A = Accumulate<T>>
__global__ void kl_backward_tile_kernel(Rows x, unsigned blocks, T* A_, T* B_, bool need_a, const A* grad,
                                        const A* mean_diff, const A* lse_a, const A* lse_b) {
  int64_t row, item;
  int count;
  if (!place<T>(x, blocks, row, item, count)) return;
  A a[16 / sizeof(T)], b[16 / sizeof(T)];
  load(A_ + row * x.ld + item, a, count);
  load(B_ + row * x.ld + item, b, count);
  kl_gradients(a, b, lse_a[row], lse_b[row], mean_diff[row], grad[row]);
  if (need_a) store(A_ + row * x.ld + item, a, count);
  store(B_ + row * x.ld + item, b, count);
}

template <class T, class A = Accumulate<T>>
__global__ void __launch_bounds__(512) cross_entropy_rows_kernel(Rows x, int threads, T* S, const int64_t* target,
                                                                  const A* correction, bool save, A scale, A* loss) {
  FOSTER_SHARED(shared);
  constexpr int kPack = 16 / sizeof(T);
  T* row = S + blockIdx.x * x.ld;
  const int64_t own = target[blockIdx.x];
  const bool inside = own >= 0 && own < x.n;
  const A own_score = inside ? to_accumulate(row[own]) : not_a_number<A>();
  const auto read = [&](int64_t i, int count, A(&a)[kPack]) {
    load(row + i, a, count);
    if (correction != nullptr)
      for (int j = 0; j < count; ++j)
        if (i + j != own) a[j] += correction[i + j];
  };
  Online<A> total;
  for_each_pack<T>(x.n, threadIdx.x, threads, [&](int64_t i, int count) {
    A a[kPack], zero[kPack] = {};
    read(i, count, a);
    total.add(a, zero, count);
  });
  total = over_block(total, shared, threads);  // its barriers: own_score has been read by all
  if (threadIdx.x == 0) loss[blockIdx.x] = total.lse() - own_score;
  if (!save) return;
  const A factor = (inside ? scale : own_score) / total.sum;
  for_each_pack<T>(x.n, threadIdx.x, threads, [&](int64_t i, int count) {
    A a[kPack];
    read(i, count, a);
    for (int j = 0; j < kPack; ++j)
      a[j] = exponential(a[j] - total.max) * factor - (i + j == own ? scale : A(0));
    store(row + i, a, count);
  });
}

template <class T, class A = Accumulate<T>>
__global__ void __launch_bounds__(1024) count_rows_kernel(Rows x, int threads, T* S, const int64_t* target,
                                                          const int64_t* seen, const int64_t* offsets,
                                                          int64_t* greater, int64_t* equal) {
  FOSTER_SHARED(shared);
  T* row = S + blockIdx.x * x.ld;
  const int64_t own = target[blockIdx.x];
  const bool inside = own >= 0 && own < x.n;
  const A score = inside ? to_accumulate(row[own]) : not_a_number<A>();
  Counts counts;
  if (seen != nullptr) {
    __syncthreads();  // everyone has read the target's score
    for (int64_t i = offsets[blockIdx.x] + threadIdx.x; i < offsets[blockIdx.x + 1]; i += threads) {
      const bool fits = seen[i] >= 0 && seen[i] < x.n;
      counts.bad += !fits;
      if (fits && seen[i] != own) row[seen[i]] = from_accumulate<T>(not_a_number<A>());
    }
    __syncthreads();
  }
  for_each_pack<T>(x.n, threadIdx.x, threads, [&](int64_t i, int count) {
    A a[16 / sizeof(T)];
    load(row + i, a, count);
    for (int j = 0; j < count; ++j) {
      counts.greater += a[j] > score;
      counts.equal += a[j] == score && i + j != own;
    }
  });
  counts = over_block(counts, shared, threads);
  if (threadIdx.x == 0) {
    const bool bad = counts.bad > 0 || !inside;
    greater[blockIdx.x] = bad ? -1 : counts.greater;
    equal[blockIdx.x] = bad ? -1 : counts.equal;
  }
}

// Threads for a row of n: about four packs of 16 bytes for each, and whole warps.
int threads_for(int64_t n, int size, int most) {
  int threads = 64;
  while (threads < most && int64_t(threads) * 4 * (16 / size) < n) threads *= 2;
  return threads;
}

template <class F>
cudaError_t dispatch(Type type, F f) {
  switch (type) {
    case Type::kFloat: return f(float());
    case Type::kDouble: return f(double());
    default: return f(bf16());
  }
}

}  // namespace

#define FOSTER_ROWS(kernel, most, part, ...)                                                        \
  dispatch(x.type, [&](auto like) {                                                                 \
    using T = decltype(like);                                                                       \
    using A = Accumulate<T>;                                                                        \
    const int threads = threads_for(x.n, sizeof(T), most);                                          \
    FOSTER_LAUNCH(kernel<T>, unsigned(x.r), threads, 32 * sizeof(part), x.stream, x, threads, __VA_ARGS__); \
    return cudaGetLastError();                                                                      \
  })
#define FOSTER_TILE(kernel, ...)                                                                  \
  dispatch(x.type, [&](auto like) {                                                               \
    using T = decltype(like);                                                                     \
    using A = Accumulate<T>;                                                                      \
    const int64_t packs = (x.n * int64_t(sizeof(T)) + 15) / 16, blocks = (packs + kTile - 1) / kTile; \
    FOSTER_LAUNCH(kernel<T>, unsigned(x.r * blocks), kTile, 0, x.stream, x, unsigned(blocks), __VA_ARGS__); \
    return cudaGetLastError();                                                                    \
  })

cudaError_t softmax_rows(Rows x, void* S, void* lse) {
  return FOSTER_ROWS(softmax_rows_kernel, 1024, Online<A>, (T*)S, (A*)lse);
}
cudaError_t softmax_backward_rows(Rows x, const void* P, void* dP) {
  return FOSTER_ROWS(softmax_backward_rows_kernel, 1024, Sum<A>, (const T*)P, (T*)dP);
}
cudaError_t softmax_backward_tile(Rows x, void* S, void* dP, const void* lse, const void* delta) {
  return FOSTER_TILE(softmax_backward_tile_kernel, (T*)S, (T*)dP, (const A*)lse, (const A*)delta);
}
cudaError_t kl_rows(Rows x, void* A_, void* B_, bool save, void* loss, void* mean_diff, void* lse_a, void* lse_b) {
  return FOSTER_ROWS(kl_rows_kernel, 512, Pair<A>, (T*)A_, (T*)B_, save, (A*)loss, (A*)mean_diff, (A*)lse_a,
                     (A*)lse_b);
}
cudaError_t kl_backward_tile(Rows x, void* A_, void* B_, bool need_a, const void* grad, const void* mean_diff,
                             const void* lse_a, const void* lse_b) {
  return FOSTER_TILE(kl_backward_tile_kernel, (T*)A_, (T*)B_, need_a, (const A*)grad, (const A*)mean_diff,
                     (const A*)lse_a, (const A*)lse_b);
}
cudaError_t cross_entropy_rows(Rows x, void* S, const int64_t* target, const void* correction, bool save, double scale,
                               void* loss) {
  return FOSTER_ROWS(cross_entropy_rows_kernel, 512, Online<A>, (T*)S, target, (const A*)correction, save, A(scale),
                     (A*)loss);
}
cudaError_t count_rows(Rows x, void* S, const int64_t* target, const int64_t* seen, const int64_t* offsets,
                       int64_t* greater, int64_t* equal) {
  return FOSTER_ROWS(count_rows_kernel, 1024, Counts, (T*)S, target, seen, offsets, greater, equal);
}

}  // namespace foster::cuda
