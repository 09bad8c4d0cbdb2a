// How many items score above, and equal to, each row's target: counted tile by tile, no scores kept.
#include <algorithm>
#include <vector>

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>

#include "../checks.h"
#include "../ops.h"
#include "rows.h"
#include "tiles.h"

namespace foster::cpu {
namespace {

// Catalogues up to this many items are scored at once: 512 rows of them are 8 MiB.
constexpr int64_t kSmall = 4096;
static_assert(kRows <= kItems && kItems <= kSmall);

// Each row's left-out items in rising order, its target among them.
std::vector<std::vector<int64_t>> left_out(const Tensor& target, const std::optional<Tensor>& items,
                                           const std::optional<Tensor>& offsets) {
  const int64_t r = target.size(0);
  const int64_t* goal = target.const_data_ptr<int64_t>();
  std::vector<std::vector<int64_t>> out(r);
  for (int64_t i = 0; i < r; ++i) {
    if (items) {
      const int64_t* at = offsets->const_data_ptr<int64_t>();
      const int64_t* seen = items->const_data_ptr<int64_t>();
      out[i].assign(seen + at[i], seen + at[i + 1]);
    }
    out[i].push_back(goal[i]);
    std::sort(out[i].begin(), out[i].end());
  }
  return out;
}

}  // namespace

std::tuple<Tensor, Tensor> rank_counts(const Tensor& H, const Tensor& E, const Tensor& target,
                                       const std::optional<Tensor>& seen_items,
                                       const std::optional<Tensor>& seen_offsets) {
  check_rank_counts(H, E, target, seen_items, seen_offsets);
  const int64_t r = H.size(0), n = E.size(0);
  std::optional<Tensor> items, offsets;
  if (seen_items) {
    items = seen_items->contiguous();
    offsets = seen_offsets->contiguous();
  }
  const Tensor goal = target.contiguous();
  const auto out = left_out(goal, items, offsets);
  Tensor greater = at::zeros({r}, target.options()), equal = at::zeros({r}, target.options());
  int64_t *above = greater.data_ptr<int64_t>(), *same = equal.data_ptr<int64_t>();
  AT_DISPATCH_FLOATING_TYPES(sum_type(H), "rank_counts", [&] {
    blocks(r, kRows, [&](int64_t ra, int64_t rb) {
      const Tensor H_part = part(H, ra, rb);
      // Equal items must score equal, so every product has the same shape: a target's own score comes from a tile of
      // targets as wide as the others, and the last tile reaches back over items that are counted already. A small
      // catalogue is one tile.
      const int64_t width = n <= kSmall ? n : kItems;
      Tensor own;
      if (n > kSmall) {
        const Tensor wanted = at::constant_pad_nd(goal.slice(0, ra, rb), {0, width - (rb - ra)});
        own = product(H_part, part(E.index_select(0, wanted), 0, width), true).diagonal().contiguous();
      }
      blocks(n, width, [&](int64_t na, int64_t nb) {
        const int64_t first = nb - width, fresh = nb - na, old = width - fresh;
        Tensor scores = product(H_part, part(E, first, nb), true).contiguous();
        if (n <= kSmall) own = scores.gather(1, goal.slice(0, ra, rb).unsqueeze(1)).squeeze(1).contiguous();
        const scalar_t* o = own.const_data_ptr<scalar_t>();
        scalar_t* x = scores.data_ptr<scalar_t>();
        at::parallel_for(0, rb - ra, std::max<int64_t>(1, kGrain / width), [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) {
            const auto& skip = out[ra + i];
            for (auto it = std::lower_bound(skip.begin(), skip.end(), na); it != skip.end() && *it < nb; ++it)
              x[i * width + (*it - first)] = -std::numeric_limits<scalar_t>::infinity();
            row_count(x + i * width + old, fresh, o[i], above + ra + i, same + ra + i);
          }
        });
      });
    });
  });
  return {greater, equal};
}

}  // namespace foster::cpu
