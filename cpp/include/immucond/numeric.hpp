#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>

#include "immucond/lapack.hpp"

namespace immucond {

inline constexpr double kEps = std::numeric_limits<double>::epsilon();

inline std::size_t size(Index n) { return static_cast<std::size_t>(n); }

/// What orthogonal reductions of n rows leave in each singular value, relative to the largest: the
/// usual sqrt(n) growth with a margin of four, and no less than small matrices show. The same for
/// entries that were computed at another precision.
inline double reduction_noise(Index n, double eps = kEps) {
  return 4.0 * eps * std::sqrt(static_cast<double>(std::max<Index>(n, 16)));
}

/// ||x||, also where the squares leave the range of float64.
double norm(const double* x, Index n, Index stride = 1);
/// x / ||x||, in place; a zero vector stays.
void normalize(double* x, Index n, Index stride = 1);

}  // namespace immucond
