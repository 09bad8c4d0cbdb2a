// The kernels on a CPU, for tests: what primitives.cuh needs of CUDA, in C++. Every thread of a block is a fibre; fibres
// change places at barriers and at the operations of a whole warp, in an order drawn at random. Shared memory starts as
// NaN, an asynchronous copy spoils its target at once and arrives only when it is waited for, so that a missing barrier
// or wait gives wrong numbers. Fragments lie as the PTX manual says (mma.m16n8k16 bf16, mma.m16n8k8 tf32, ldmatrix).
//
// What it does not show: time, bank conflicts, registers, and whether a GPU rounds as it does here.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __grid_constant__
#define __launch_bounds__(...)
#define FOSTER_SHARED(name) unsigned char* name = ::emulate::shared_memory()
#define FOSTER_LAUNCH(kernel, grid, block, shared, stream, ...) \
  ::emulate::launch(grid, block, shared, [=] { kernel(__VA_ARGS__); })

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidConfiguration = 9 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
template <class F>
cudaError_t cudaFuncSetAttribute(F, cudaFuncAttribute, int) {
  return cudaSuccess;
}
inline cudaError_t cudaGetLastError() { return cudaSuccess; }

namespace emulate {

struct Index {
  unsigned x = 0, y = 0, z = 0;
};

// Runs `body` in every thread of every block; blocks one after another, in a random order that `seed` fixes. A deadlock
// or a write past the end of shared memory ends the program with a message.
void launch(unsigned grid, unsigned block, size_t shared, const std::function<void()>& body);
void set_seed(uint64_t seed);

Index thread_index();
Index block_index();
unsigned char* shared_memory();
void sync_threads();

// A warp's 32 threads come together; the last to arrive runs `all` over what each has brought.
void together(void* mine, void (*all)(void** of_lanes));

void copy_async(void* to, const void* from, int bytes);
void commit();
void wait(int left);

struct Mma {
  float* c;
  const uint32_t* a;
  uint32_t b[2];
};
void mma_bf16(void** of_lanes);
void mma_tf32(void** of_lanes);

struct Matrices {
  uint32_t* out;
  const void* row;
};
void load_matrices(void** of_lanes);
void load_matrices_transposed(void** of_lanes);

uint32_t to_tf32(float x);

}  // namespace emulate

#define threadIdx (::emulate::thread_index())
#define blockIdx (::emulate::block_index())
inline void __syncthreads() { emulate::sync_threads(); }
inline void __threadfence() {}
template <class T>
T atomicAdd(T* at, T value) {
  return std::exchange(*at, *at + value);
}

namespace foster::cuda {

inline void copy_async(void* to, const void* from, int bytes) { emulate::copy_async(to, from, bytes); }
inline void copies_commit() { emulate::commit(); }
template <int kLeft>
inline void copies_wait() {
  emulate::wait(kLeft);
}
inline void load_matrices(uint32_t (&out)[4], const void* row) {
  emulate::Matrices mine{out, row};
  emulate::together(&mine, emulate::load_matrices);
}
inline void load_matrices_transposed(uint32_t (&out)[4], const void* row) {
  emulate::Matrices mine{out, row};
  emulate::together(&mine, emulate::load_matrices_transposed);
}
inline void mma_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  emulate::Mma mine{c, a, {b0, b1}};
  emulate::together(&mine, emulate::mma_bf16);
}
inline void mma_tf32(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  emulate::Mma mine{c, a, {b0, b1}};
  emulate::together(&mine, emulate::mma_tf32);
}
inline uint32_t to_tf32(float x) { return emulate::to_tf32(x); }
inline float bits_float(uint32_t x) {
  float value;
  __builtin_memcpy(&value, &x, sizeof value);
  return value;
}

// lane_xor for any type: each lane brings its value, and takes that of lane ^ mask.
template <class A>
struct Exchange {
  A value, found;
  int mask;
};
template <class A>
inline A lane_xor(A x, int mask) {
  Exchange<A> mine{x, x, mask};
  emulate::together(&mine, [](void** of_lanes) {
    for (int i = 0; i < 32; ++i) {
      auto* e = static_cast<Exchange<A>*>(of_lanes[i]);
      e->found = static_cast<Exchange<A>*>(of_lanes[i ^ e->mask])->value;
    }
  });
  return mine.found;
}

}  // namespace foster::cuda
