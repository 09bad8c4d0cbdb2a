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

struct Fibre {
  Context context;
  std::unique_ptr<unsigned char[]> stack;
  unsigned index = 0;
  bool done = false;
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

}  // namespace

void set_seed(uint64_t seed) { rng.seed(seed); }
Index thread_index() { return {current->index}; }
Index block_index() { return {block_x}; }
unsigned char* shared_memory() { return memory; }

void launch(unsigned grid, unsigned block, size_t shared, const std::function<void()>& body) {
  std::unique_ptr<unsigned char[]> own(new unsigned char[shared + kGuardSize + 128]);
  memory = reinterpret_cast<unsigned char*>((reinterpret_cast<uintptr_t>(own.get()) + 127) & ~uintptr_t(127));
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

}  // namespace emulate
