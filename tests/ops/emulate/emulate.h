// The CUDA kernels on a CPU, for the tests: what primitives.cuh takes from CUDA, in C++. Every thread of a block is a
// fibre; fibres switch at barriers and at warp-wide operations, in a random order. Shared memory starts as NaN, and an
// asynchronous copy overwrites its destination with NaN at once and arrives only when it is waited for, so a missing
// barrier or wait gives wrong numbers. Fragments are as the PTX manual defines them (mma.m16n8k16 bf16, mma.m16n8k8
// tf32, ldmatrix).
//
// It does not show time, bank conflicts or registers, nor whether a GPU rounds as it does here.
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

// Runs `body` in every thread of every block, one block after another, in a random order that the seed determines. A
// deadlock or a write past the end of shared memory ends the program with a message.
void launch(unsigned grid, unsigned block, size_t shared, const std::function<void()>& body);
void set_seed(uint64_t seed);

Index thread_index();
Index block_index();
unsigned char* shared_memory();
void sync_threads();

// A warp-wide operation: waits for the 32 threads of the warp; the last to arrive runs `op` with all their arguments.
void warp_collective(void* args, void (*op)(void** lane_args));

void cp_async(void* dst, const void* src, int bytes);
void cp_async_commit();
void cp_async_wait(int pending);

struct MmaArgs {
  float* c;
  const uint32_t* a;
  uint32_t b[2];
};
void mma_bf16(void** lane_args);
void mma_tf32(void** lane_args);

struct LdmatrixArgs {
  uint32_t* out;
  const void* row;
};
void ldmatrix(void** lane_args);
void ldmatrix_transposed(void** lane_args);

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

inline void cp_async(void* dst, const void* src, int bytes) { emulate::cp_async(dst, src, bytes); }
inline void cp_async_commit() { emulate::cp_async_commit(); }
template <int kPending>
inline void cp_async_wait() {
  emulate::cp_async_wait(kPending);
}
inline void ldmatrix(uint32_t (&out)[4], const void* row) {
  emulate::LdmatrixArgs args{out, row};
  emulate::warp_collective(&args, emulate::ldmatrix);
}
inline void ldmatrix_transposed(uint32_t (&out)[4], const void* row) {
  emulate::LdmatrixArgs args{out, row};
  emulate::warp_collective(&args, emulate::ldmatrix_transposed);
}
inline void mma_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  emulate::MmaArgs args{c, a, {b0, b1}};
  emulate::warp_collective(&args, emulate::mma_bf16);
}
inline void mma_tf32(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  emulate::MmaArgs args{c, a, {b0, b1}};
  emulate::warp_collective(&args, emulate::mma_tf32);
}
inline uint32_t to_tf32(float x) { return emulate::to_tf32(x); }
inline float float_from_bits(uint32_t x) {
  float value;
  __builtin_memcpy(&value, &x, sizeof value);
  return value;
}

// shuffle_xor of any type: a lane gets the value of lane ^ mask.
template <class A>
struct ShuffleArgs {
  A value, result;
  int mask;
};
template <class A>
inline A shuffle_xor(A x, int mask) {
  ShuffleArgs<A> args{x, x, mask};
  emulate::warp_collective(&args, [](void** lane_args) {
    for (int i = 0; i < 32; ++i) {
      auto* a = static_cast<ShuffleArgs<A>*>(lane_args[i]);
      a->result = static_cast<ShuffleArgs<A>*>(lane_args[i ^ a->mask])->value;
    }
  });
  return args.result;
}

}  // namespace foster::cuda
