// The CUDA kernels on a CPU, for the tests: what device.cuh takes from CUDA, in C++. Every thread of a block is a
// fibre; fibres switch at barriers and at warp-wide operations, in a random order. Shared memory starts as NaN, so a
// missing barrier gives wrong numbers, and 16-byte accesses are checked by the tests' alignment of the inputs.
//
// It does not show time, bank conflicts or registers, nor whether a GPU rounds as it does here.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)
#define FOSTER_SHARED(name) unsigned char* name = ::emulate::shared_memory()
#define FOSTER_LAUNCH(kernel, grid, block, shared, stream, ...) \
  ::emulate::launch(grid, block, shared, [=] { (kernel)(__VA_ARGS__); })

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidConfiguration = 9 };
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

}  // namespace emulate

#define threadIdx (::emulate::thread_index())
#define blockIdx (::emulate::block_index())
inline void __syncthreads() { emulate::sync_threads(); }
struct uint4 {
  uint32_t x, y, z, w;
};

namespace foster::cuda {

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
