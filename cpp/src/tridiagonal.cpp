#include "immucond/tridiagonal.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>

#include "immucond/multiversion.hpp"

namespace immucond {
namespace {

// The recurrence waits on one division a row; that many shifts side by side hide the wait.
constexpr Index kShifts = 16;

/// counts[s] = number of eigenvalues above shifts[s], by the signs of the pivots of T - shift I.
IMMUCOND_MULTIVERSION void sturm_counts(const double* d, const double* e_squared, Index n,
                                        double pivot_min, const double* shifts, double* counts) {
  double q[kShifts], above[kShifts];
  for (Index s = 0; s < kShifts; ++s) {
    q[s] = 1.0;
    above[s] = 0.0;
  }
  for (Index i = 0; i < n; ++i) {
    const double e2 = e_squared[i], diagonal = d[i];
    for (Index s = 0; s < kShifts; ++s) {
      double pivot = (diagonal - shifts[s]) - e2 / q[s];
      pivot = std::fabs(pivot) < pivot_min ? -pivot_min : pivot;
      above[s] += pivot > 0.0 ? 1.0 : 0.0;
      q[s] = pivot;
    }
  }
  for (Index s = 0; s < kShifts; ++s) counts[s] = above[s];
}

/// Doubles in the order of their values as integers, so that bisection halves the number of
/// representable values between two bounds, not their distance: tiny eigenvalues cost no more.
std::int64_t ordinal(double x) {
  const auto bits = std::bit_cast<std::int64_t>(x);
  return bits < 0 ? std::numeric_limits<std::int64_t>::min() - bits : bits;
}

double from_ordinal(std::int64_t i) {
  return std::bit_cast<double>(i < 0 ? std::numeric_limits<std::int64_t>::min() - i : i);
}

}  // namespace

Tridiagonal::Tridiagonal(std::vector<double> diagonal, std::vector<double> off_diagonal)
    : d_(std::move(diagonal)), e_(std::move(off_diagonal)), e_squared_(d_.size()) {
  const std::size_t n = d_.size();
  double largest_square = 1.0;
  for (std::size_t i = 0; i < n; ++i) {
    const double left = i > 0 ? std::fabs(e_[i - 1]) : 0.0;
    const double right = i + 1 < n ? std::fabs(e_[i]) : 0.0;
    radius_ = std::max(radius_, std::fabs(d_[i]) + left + right);
    e_squared_[i] = left * left;
    largest_square = std::max(largest_square, e_squared_[i]);
  }
  pivot_min_ = std::numeric_limits<double>::min() * largest_square;
}

Index Tridiagonal::count_above(double x) const {
  std::array<double, kShifts> shifts, counts;
  shifts.fill(x);
  sturm_counts(d_.data(), e_squared_.data(), size(), pivot_min_, shifts.data(), counts.data());
  return static_cast<Index>(counts[0]);
}

double Tridiagonal::eigenvalue(Index from_top) const {
  // Invariant: at least from_top eigenvalues lie above `low`, fewer above `high`.
  const double slack = 4 * std::numeric_limits<double>::epsilon() * radius_ + 2 * pivot_min_;
  std::int64_t high = ordinal(radius_ + slack), low = -high;
  std::array<double, kShifts> shifts, counts;
  for (;;) {
    const std::uint64_t width = static_cast<std::uint64_t>(high) - static_cast<std::uint64_t>(low);
    if (width <= 1) return from_ordinal(low);
    constexpr std::uint64_t parts = kShifts + 1;
    const auto at = [&](std::uint64_t s) {
      const std::uint64_t offset = width / parts * s + width % parts * s / parts;
      return static_cast<std::int64_t>(static_cast<std::uint64_t>(low) + offset);
    };
    for (std::size_t s = 0; s < kShifts; ++s) shifts[s] = from_ordinal(at(s + 1));
    sturm_counts(d_.data(), e_squared_.data(), size(), pivot_min_, shifts.data(), counts.data());
    std::uint64_t below = 0;  // shifts that have from_top eigenvalues above them
    while (below < kShifts && counts[below] >= static_cast<double>(from_top)) ++below;
    const std::int64_t new_low = at(below);
    if (below < kShifts) high = at(below + 1);
    low = new_low;
  }
}

void Tridiagonal::eigenvectors(const std::vector<double>& values, double* z) const {
  // dstein wants room for n - 1 off-diagonals, and a pointer that is not null.
  std::vector<double> e = e_;
  e.resize(d_.size());
  lapack::stein(size(), d_.data(), e.data(), static_cast<Index>(values.size()), values.data(), z);
}

}  // namespace immucond
