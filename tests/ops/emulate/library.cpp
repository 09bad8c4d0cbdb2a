// The launchers of kernels.h for a test to call: plain C, types and parts as numbers.
#include <vector>

#include "kernels.h"

using namespace foster::cuda;

namespace {

// Workspace as the binding gives it: bytes of any content, counters that are 0 and must be 0 again.
struct Room {
  std::vector<unsigned char> bytes;
  std::vector<unsigned> counters;
  explicit Room(const Plan& p) : bytes(p.bytes, 0xff), counters(p.counters, 0) {}
  Context context(int processors, int shared, bool exact) {
    return {{processors, shared}, exact, bytes.data(), counters.data(), nullptr};
  }
  int done(cudaError_t error) const {
    for (unsigned c : counters)
      if (c != 0) return -1;
    return error;
  }
};

}  // namespace

extern "C" {

void foster_seed(uint64_t seed) { emulate::set_seed(seed); }

// How the kernel that makes `out` columns (0: none) would be cut: columns, chunks, splits.
void foster_plan(int type, int64_t rows, int64_t cols, int64_t out, int processors, int shared, int* found) {
  const Plan p = plan(static_cast<Type>(type), rows, cols, out, 2, {processors, shared});
  found[0] = p.columns, found[1] = p.chunks, found[2] = p.splits;
}

int foster_soft_embed(int type, Sizes n, const void* Q, const void* V, const void* E, void* X, void* lse,
                      int processors, int shared, bool exact) {
  const auto t = static_cast<Type>(type);
  Room room(plan_soft_embed(t, n, {processors, shared}));
  return room.done(soft_embed(t, n, Q, V, E, X, lse, room.context(processors, shared, exact)));
}

int foster_soft_embed_backward(int type, Sizes n, int part, const void* grad, const void* Q, const void* V,
                               const void* E, const void* centre, const void* lse, void* out, int processors,
                               int shared, bool exact) {
  const auto t = static_cast<Type>(type);
  Room room(plan_soft_embed_backward(t, n, part, {processors, shared}));
  return room.done(soft_embed_backward(t, n, part, grad, Q, V, E, centre, lse, out,
                                       room.context(processors, shared, exact)));
}

int foster_soft_kl(int type, Sizes n, const void* Q, const void* V, const void* H, const void* E, void* loss,
                   void* centre, void* lse_Q, void* lse_H, int processors, int shared, bool exact) {
  const auto t = static_cast<Type>(type);
  Room room(plan_soft_kl(t, n, {processors, shared}));
  return room.done(soft_kl(t, n, Q, V, H, E, loss, centre, lse_Q, lse_H, room.context(processors, shared, exact)));
}

int foster_soft_kl_backward(int type, Sizes n, int part, const void* grad, const void* Q, const void* V,
                            const void* H, const void* E, const void* centre, const void* lse_Q, const void* lse_H,
                            void* out, int processors, int shared, bool exact) {
  const auto t = static_cast<Type>(type);
  Room room(plan_soft_kl_backward(t, n, part, {processors, shared}));
  return room.done(soft_kl_backward(t, n, part, grad, Q, V, H, E, centre, lse_Q, lse_H, out,
                                    room.context(processors, shared, exact)));
}

int foster_rank_counts(int type, Sizes n, const void* H, const void* E, const int64_t* target, const int64_t* seen,
                       const int64_t* offsets, int64_t* greater, int64_t* equal, int processors, int shared,
                       bool exact) {
  Room room(Plan{});
  return room.done(rank_counts(static_cast<Type>(type), n, H, E, target, seen, offsets, greater, equal,
                               room.context(processors, shared, exact)));
}
}
