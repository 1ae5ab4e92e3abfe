#pragma once

// The device algorithms are templates over a team: the threads of one block, in warps of 32, that
// share memory. Compiled by nvcc the team is a CUDA block (block_team.cuh); compiled for the host
// it is a block of fibers (tests/emulation), which is how the algorithms are tested where
// there is no card. A team offers
//
//     thread(), threads(), lane(), warp(), warps()    who am I
//     sync(), sync_warp()                             barriers that order memory
//     exchange(x, mask)                               x of lane ^ mask, within the warp
//     broadcast(x, lane)                              x of that lane, within the warp
//     multiply_add(a, b, c)                           C += A B by the warp's lanes together
//
// and all threads of a warp, or of the team, call them together.

#include <math.h>

#include <cstdint>

#include "immucond/double_double.hpp"

#if defined(__CUDACC__)
#define IMMUCOND_DEVICE __device__ inline
#define IMMUCOND_UNROLL _Pragma("unroll")
#define IMMUCOND_PRAGMA(text) _Pragma(#text)
#define IMMUCOND_UNROLL_BY(count) IMMUCOND_PRAGMA(unroll count)
#else
#define IMMUCOND_DEVICE inline
#define IMMUCOND_UNROLL
#define IMMUCOND_UNROLL_BY(count)
#endif

namespace immucond::cuda {

inline constexpr int kWarp = 32;

/// Two neighbouring entries of a row of an 8 x 8 accumulator that a warp holds: lane l has those at
/// row l / 4, columns 2 (l % 4) and one on.
struct Accumulator {
  double first = 0.0, second = 0.0;
};

// Sums and maxima by butterflies: every lane gets the same bits.

template <class Team>
IMMUCOND_DEVICE double warp_sum(const Team& team, double x) {
  for (int mask = kWarp / 2; mask > 0; mask /= 2) x += team.exchange(x, mask);
  return x;
}

template <class Team>
IMMUCOND_DEVICE DoubleDouble warp_sum(const Team& team, DoubleDouble x) {
  for (int mask = kWarp / 2; mask > 0; mask /= 2)
    x = x + DoubleDouble{team.exchange(x.hi, mask), team.exchange(x.lo, mask)};
  return x;
}

template <class Team>
IMMUCOND_DEVICE double warp_max(const Team& team, double x) {
  for (int mask = kWarp / 2; mask > 0; mask /= 2) x = fmax(x, team.exchange(x, mask));
  return x;
}

/// Over the whole team; `scratch` holds one number a warp, and is free again on return.
template <class Team>
IMMUCOND_DEVICE double team_max(const Team& team, double x, double* scratch) {
  x = warp_max(team, x);
  if (team.lane() == 0) scratch[team.warp()] = x;
  team.sync();
  for (int w = 0; w < team.warps(); ++w) x = fmax(x, scratch[w]);
  team.sync();
  return x;
}

template <class Team>
IMMUCOND_DEVICE double team_sum(const Team& team, double x, double* scratch) {
  x = warp_sum(team, x);
  if (team.lane() == 0) scratch[team.warp()] = x;
  team.sync();
  x = 0.0;
  for (int w = 0; w < team.warps(); ++w) x += scratch[w];
  team.sync();
  return x;
}

}  // namespace immucond::cuda
