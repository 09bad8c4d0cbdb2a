#include "emulate.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#if !defined(__x86_64__) || defined(FOSTER_UCONTEXT)
#include <ucontext.h>
#endif

namespace emulate {
namespace {

constexpr size_t kStack = 256 << 10;
constexpr unsigned char kGuard = 0xA5;
constexpr size_t kGuardSize = 256;

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "emulate: %s\n", what);
  std::abort();
}

// ---- fibres: on x86-64 a few instructions switch the stack, elsewhere ucontext does ----

#if defined(__x86_64__) && !defined(FOSTER_UCONTEXT)
using Context = void*;
extern "C" void emulate_switch(void** from, void* to);
asm(R"(
.text
.globl emulate_switch
.type emulate_switch, @function
emulate_switch:
  pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
  ret
.size emulate_switch, .-emulate_switch
)");
void switch_context(Context& from, Context& to) { emulate_switch(&from, to); }
void prepare(Context& c, unsigned char* stack, void (*entry)()) {
  auto top = reinterpret_cast<uintptr_t>(stack + kStack) & ~uintptr_t(15);
  auto* slot = reinterpret_cast<void**>(top);
  *--slot = nullptr;  // the return address of `entry`, for the stack alignment of the ABI
  *--slot = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; ++i) *--slot = nullptr;
  c = slot;
}
#else
using Context = ucontext_t;
void switch_context(Context& from, Context& to) { swapcontext(&from, &to); }
void prepare(Context& c, unsigned char* stack, void (*entry)()) {
  getcontext(&c);
  c.uc_stack.ss_sp = stack;
  c.uc_stack.ss_size = kStack;
  c.uc_link = nullptr;
  makecontext(&c, entry, 0);
}
#endif

struct Copy {
  void* dst;
  const void* src;
  int bytes;
};

struct Fibre {
  Context context;
  std::unique_ptr<unsigned char[]> stack;
  unsigned index = 0;
  bool done = false;
  std::vector<std::vector<Copy>> groups;  // of pending asynchronous copies; the last one is not committed
};

struct Warp {
  void* lane_args[32];
  unsigned waiting[32];
  unsigned arrived = 0;
};

std::mt19937_64 rng(0);
std::vector<Fibre> fibres;
std::vector<Warp> warps;
std::vector<unsigned> ready, at_barrier;
Context scheduler;
Fibre* current;
unsigned block_x;
unsigned char* memory;
size_t memory_size;
const std::function<void()>* kernel;

void run_body() {
  (*kernel)();
  current->done = true;
  switch_context(current->context, scheduler);
  fail("a finished thread continued");
}

void yield() { switch_context(current->context, scheduler); }

void run_block(unsigned threads) {
  if (fibres.size() < threads) fibres.resize(threads);
  warps.assign((threads + 31) / 32, {});
  ready.clear();
  at_barrier.clear();
  for (unsigned i = 0; i < threads; ++i) {
    Fibre& f = fibres[i];
    if (!f.stack) f.stack.reset(new unsigned char[kStack]);
    f.index = i;
    f.done = false;
    f.groups.assign(1, {});
    prepare(f.context, f.stack.get(), run_body);
    ready.push_back(i);
  }
  unsigned running = threads;
  while (running > 0) {
    if (ready.empty()) fail("deadlock: some threads wait where the others never arrive");
    const size_t pick = rng() % ready.size();
    std::swap(ready[pick], ready.back());
    current = &fibres[ready.back()];
    ready.pop_back();
    switch_context(scheduler, current->context);
    running -= current->done;
    if (!at_barrier.empty() && at_barrier.size() == running) {
      ready.insert(ready.end(), at_barrier.begin(), at_barrier.end());
      at_barrier.clear();
    }
  }
}

float float_of_bf16(uint32_t bits) {
  bits <<= 16;
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
float float_of_tf32(uint32_t bits) {
  bits &= 0xffffe000u;  // the tensor cores ignore the last 13 bits
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// c += a b, a (16, n), b (n, 8).
template <int n>
void multiply(void** lane_args, const float (&a)[16][n], const float (&b)[n][8]) {
  for (int lane = 0; lane < 32; ++lane) {
    float* c = static_cast<MmaArgs*>(lane_args[lane])->c;
    for (int e = 0; e < 4; ++e) {
      const int row = lane / 4 + e / 2 * 8, col = lane % 4 * 2 + e % 2;
      for (int k = 0; k < n; ++k) c[e] += a[row][k] * b[k][col];
    }
  }
}

template <class Read>
void read_matrices(void** lane_args, const Read& read) {
  uint16_t matrix[4][8][8];
  for (int lane = 0; lane < 32; ++lane) {
    const void* row = static_cast<LdmatrixArgs*>(lane_args[lane])->row;
    if (reinterpret_cast<uintptr_t>(row) % 16 != 0) fail("ldmatrix: a row is not aligned to 16 bytes");
    std::memcpy(matrix[lane / 8][lane % 8], row, 16);
  }
  for (int lane = 0; lane < 32; ++lane)
    for (int i = 0; i < 4; ++i) {
      const auto [low, high] = read(matrix[i], lane / 4, lane % 4 * 2);
      static_cast<LdmatrixArgs*>(lane_args[lane])->out[i] = low | static_cast<uint32_t>(high) << 16;
    }
}

}  // namespace

void set_seed(uint64_t seed) { rng.seed(seed); }
Index thread_index() { return {current->index}; }
Index block_index() { return {block_x}; }
unsigned char* shared_memory() { return memory; }

void launch(unsigned grid, unsigned block, size_t shared, const std::function<void()>& body) {
  std::unique_ptr<unsigned char[]> own(new unsigned char[shared + kGuardSize + 128]);
  memory = reinterpret_cast<unsigned char*>((reinterpret_cast<uintptr_t>(own.get()) + 127) & ~uintptr_t(127));
  memory_size = shared;
  kernel = &body;
  std::vector<unsigned> order(grid);
  std::iota(order.begin(), order.end(), 0u);
  std::shuffle(order.begin(), order.end(), rng);
  for (unsigned x : order) {
    block_x = x;
    std::memset(memory, 0xff, shared);
    std::memset(memory + shared, kGuard, kGuardSize);
    run_block(block);
    for (size_t i = 0; i < kGuardSize; ++i)
      if (memory[shared + i] != kGuard) fail("a write past the end of shared memory");
  }
}

void sync_threads() {
  at_barrier.push_back(current->index);
  yield();
}

void warp_collective(void* args, void (*op)(void** lane_args)) {
  Warp& w = warps[current->index / 32];
  w.lane_args[current->index % 32] = args;
  w.waiting[w.arrived++] = current->index;
  if (w.arrived == 32) {
    op(w.lane_args);
    w.arrived = 0;
    for (unsigned i : w.waiting)
      if (i != current->index) ready.push_back(i);
    return;
  }
  yield();
}

void cp_async(void* dst, const void* src, int bytes) {
  const auto at = static_cast<unsigned char*>(dst);
  if (at < memory || at + 16 > memory + memory_size) fail("cp.async: outside shared memory");
  if (reinterpret_cast<uintptr_t>(dst) % 16 != 0 || reinterpret_cast<uintptr_t>(src) % 16 != 0)
    fail("cp.async: not aligned to 16 bytes");
  std::memset(dst, 0xff, 16);
  current->groups.back().push_back({dst, src, bytes});
}
void cp_async_commit() { current->groups.emplace_back(); }
void cp_async_wait(int pending) {
  auto& groups = current->groups;
  while (static_cast<int>(groups.size()) - 1 > pending) {
    for (const Copy& c : groups.front()) {
      std::memset(c.dst, 0, 16);
      std::memcpy(c.dst, c.src, c.bytes);
    }
    groups.erase(groups.begin());
  }
}

void mma_bf16(void** lane_args) {
  float a[16][16], b[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const MmaArgs& m = *static_cast<MmaArgs*>(lane_args[lane]);
    const int g = lane / 4, k = lane % 4 * 2;
    for (int i = 0; i < 4; ++i)
      for (int e = 0; e < 2; ++e) a[g + i % 2 * 8][k + i / 2 * 8 + e] = float_of_bf16(m.a[i] >> 16 * e & 0xffff);
    for (int i = 0; i < 2; ++i)
      for (int e = 0; e < 2; ++e) b[k + 8 * i + e][g] = float_of_bf16(m.b[i] >> 16 * e & 0xffff);
  }
  multiply<16>(lane_args, a, b);
}

void mma_tf32(void** lane_args) {
  float a[16][8], b[8][8];
  for (int lane = 0; lane < 32; ++lane) {
    const MmaArgs& m = *static_cast<MmaArgs*>(lane_args[lane]);
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; ++i) a[g + i % 2 * 8][t + i / 2 * 4] = float_of_tf32(m.a[i]);
    for (int i = 0; i < 2; ++i) b[t + 4 * i][g] = float_of_tf32(m.b[i]);
  }
  multiply<8>(lane_args, a, b);
}

void ldmatrix(void** lane_args) {
  read_matrices(lane_args, [](const uint16_t (&m)[8][8], int row, int col) {
    return std::pair(m[row][col], m[row][col + 1]);
  });
}
void ldmatrix_transposed(void** lane_args) {
  read_matrices(lane_args, [](const uint16_t (&m)[8][8], int row, int col) {
    return std::pair(m[col][row], m[col + 1][row]);
  });
}

// Rounds to a mantissa of 10 bits, ties away from zero (cvt.rna).
uint32_t to_tf32(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  if ((bits & 0x7f800000u) == 0x7f800000u) return bits;
  return (bits + 0x1000u) & 0xffffe000u;
}

}  // namespace emulate
