#pragma once

#include "team.hpp"

namespace immucond::cuda {

/// store(i, j, sum_k a(i, k) b(k, j)) for all i < rows, j < cols (`lower`: at least those with
/// j <= i), k < depth. Each warp takes blocks of 16 x 16, four 8 x 8 accumulators of the tensor
/// cores (on the device: DMMA); operands come straight from where a and b read them, four steps of
/// k in flight. a and b are never called out of range.
template <class Team, class A, class B, class Store>
IMMUCOND_DEVICE void product(const Team& team, int rows, int cols, int depth, bool lower,
                             const A& a, const B& b, const Store& store) {
  constexpr int kTile = 8, kStep = 4, kTiles = 2, kBlock = kTile * kTiles;
  const int across = (cols + kBlock - 1) / kBlock;
  const int blocks = (rows + kBlock - 1) / kBlock * across;
  const int group = team.lane() / 4, member = team.lane() % 4;
  int turn = 0;  // blocks above the diagonal do not count: the others are dealt out evenly
  for (int block = 0; block < blocks; ++block) {
    const int i0 = block / across * kBlock, j0 = block % across * kBlock;
    if (lower && j0 > i0) continue;
    if (turn++ % team.warps() != team.warp()) continue;
    Accumulator sums[kTiles][kTiles];
    IMMUCOND_UNROLL for (int r = 0; r < kTiles; ++r)
        IMMUCOND_UNROLL for (int s = 0; s < kTiles; ++s) sums[r][s] = {0.0, 0.0};
    IMMUCOND_UNROLL_BY(4)
    for (int k0 = 0; k0 < depth; k0 += kStep) {
      const int k = k0 + member;
      double left[kTiles], right[kTiles];
      IMMUCOND_UNROLL for (int t = 0; t < kTiles; ++t) {
        const int i = i0 + t * kTile + group, j = j0 + t * kTile + group;
        left[t] = i < rows && k < depth ? a(i, k) : 0.0;
        right[t] = j < cols && k < depth ? b(k, j) : 0.0;
      }
      IMMUCOND_UNROLL for (int r = 0; r < kTiles; ++r)
          IMMUCOND_UNROLL for (int s = 0; s < kTiles; ++s)
              team.multiply_add(left[r], right[s], sums[r][s]);
    }
    IMMUCOND_UNROLL for (int r = 0; r < kTiles; ++r)
        IMMUCOND_UNROLL for (int s = 0; s < kTiles; ++s) {
      const int i = i0 + r * kTile + group, j = j0 + s * kTile + 2 * member;
      if (i < rows && j < cols) store(i, j, sums[r][s].first);
      if (i < rows && j + 1 < cols) store(i, j + 1, sums[r][s].second);
    }
  }
}

}  // namespace immucond::cuda
