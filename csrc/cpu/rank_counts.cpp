// How many items score above, and equal to, each row's target, counted tile by tile.
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

// Up to this many items are scored in one tile: 8 MiB of scores for 512 rows.
constexpr int64_t kOneTile = 4096;
static_assert(kTileRows <= kTileItems && kTileItems <= kOneTile);

// The items that each row does not count, its target among them, in ascending order.
std::vector<std::vector<int64_t>> excluded_items(const Tensor& target, const std::optional<Tensor>& items,
                                                 const std::optional<Tensor>& offsets) {
  const int64_t r = target.size(0);
  const int64_t* target_item = target.const_data_ptr<int64_t>();
  std::vector<std::vector<int64_t>> out(r);
  for (int64_t i = 0; i < r; ++i) {
    if (items) {
      const int64_t* offset = offsets->const_data_ptr<int64_t>();
      const int64_t* seen = items->const_data_ptr<int64_t>();
      out[i].assign(seen + offset[i], seen + offset[i + 1]);
    }
    out[i].push_back(target_item[i]);
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
  const Tensor targets = target.contiguous();
  const auto excluded = excluded_items(targets, items, offsets);
  Tensor greater = at::zeros({r}, target.options()), equal = at::zeros({r}, target.options());
  int64_t *n_greater = greater.data_ptr<int64_t>(), *n_equal = equal.data_ptr<int64_t>();
  AT_DISPATCH_FLOATING_TYPES(accumulate_type(H), "rank_counts", [&] {
    for_each_tile(r, kTileRows, [&](int64_t ra, int64_t rb) {
      const Tensor H_tile = row_slice(H, ra, rb);
      // Equal items must have equal scores, so every product has the same shape. The score of a row's target comes from
      // a tile of targets as wide as the other tiles, and the last tile begins early, with items counted before. Few
      // items are one tile.
      const int64_t width = n <= kOneTile ? n : kTileItems;
      Tensor target_score;
      if (n > kOneTile) {
        const Tensor padded = at::constant_pad_nd(targets.slice(0, ra, rb), {0, width - (rb - ra)});
        target_score = matmul_nt(H_tile, row_slice(E.index_select(0, padded), 0, width), true).diagonal().contiguous();
      }
      for_each_tile(n, width, [&](int64_t na, int64_t nb) {
        const int64_t first = nb - width, new_items = nb - na, counted = width - new_items;
        Tensor scores = matmul_nt(H_tile, row_slice(E, first, nb), true).contiguous();
        if (n <= kOneTile)
          target_score = scores.gather(1, targets.slice(0, ra, rb).unsqueeze(1)).squeeze(1).contiguous();
        const scalar_t* t = target_score.const_data_ptr<scalar_t>();
        scalar_t* x = scores.data_ptr<scalar_t>();
        at::parallel_for(0, rb - ra, std::max<int64_t>(1, kGrainSize / width), [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) {
            const auto& skip = excluded[ra + i];
            for (auto it = std::lower_bound(skip.begin(), skip.end(), na); it != skip.end() && *it < nb; ++it)
              x[i * width + (*it - first)] = -std::numeric_limits<scalar_t>::infinity();
            row_count(x + i * width + counted, new_items, t[i], n_greater + ra + i, n_equal + ra + i);
          }
        });
      });
    });
  });
  return {greater, equal};
}

}  // namespace foster::cpu
