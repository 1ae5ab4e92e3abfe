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

// The recurrence waits on one division a row; that many shifts side by side hide the wait, and are
// enough for the compiler to vectorize over them rather than unroll (8 and 16 are not).
constexpr Index kShifts = 32;

constexpr double kNoCoupling = 1e-40;

/// counts[s] = number of eigenvalues above shifts[s], by the signs of the pivots of T - shift I.
IMMUCOND_MULTIVERSION void sturm_counts(const double* d, const double* e, Index n, double pivot_min,
                                        const double* shifts, double* counts) {
  double q[kShifts], above[kShifts];
  for (Index s = 0; s < kShifts; ++s) {
    q[s] = 1.0;
    above[s] = 0.0;
  }
  for (Index i = 0; i < n; ++i) {
    // e^2 / q by way of e / q: the square of a small coupling would vanish.
    const double coupling = e[i], diagonal = d[i];
    for (Index s = 0; s < kShifts; ++s) {
      double pivot = (diagonal - shifts[s]) - coupling * (coupling / q[s]);
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
    : d_(std::move(diagonal)), e_(std::move(off_diagonal)), left_(d_.size()) {
  const std::size_t n = d_.size();
  // A coupling that changes no digit of any eigenvalue, however small, only feeds underflow.
  for (std::size_t i = 0; i + 1 < n; ++i)
    if (std::fabs(e_[i]) <=
        kNoCoupling * std::sqrt(std::fabs(d_[i])) * std::sqrt(std::fabs(d_[i + 1])))
      e_[i] = 0.0;
  double largest_square = 1.0;
  for (std::size_t i = 0; i < n; ++i) {
    const double left = i > 0 ? std::fabs(e_[i - 1]) : 0.0;
    const double right = i + 1 < n ? std::fabs(e_[i]) : 0.0;
    radius_ = std::max(radius_, std::fabs(d_[i]) + left + right);
    left_[i] = left;
    largest_square = std::max(largest_square, left * left);
  }
  pivot_min_ = std::numeric_limits<double>::min() * largest_square;
}

std::vector<Index> Tridiagonal::counts_above(const std::vector<double>& xs) const {
  std::vector<Index> result(xs.size());
  std::array<double, kShifts> shifts, counts;
  for (std::size_t at = 0; at < xs.size(); at += kShifts) {
    const std::size_t lanes = std::min<std::size_t>(kShifts, xs.size() - at);
    for (std::size_t s = 0; s < kShifts; ++s) shifts[s] = xs[at + std::min(s, lanes - 1)];
    sturm_counts(d_.data(), left_.data(), size(), pivot_min_, shifts.data(), counts.data());
    for (std::size_t s = 0; s < lanes; ++s) result[at + s] = static_cast<Index>(counts[s]);
  }
  return result;
}

std::vector<double> Tridiagonal::eigenvalues(const std::vector<Index>& from_top) const {
  // At least from_top eigenvalues lie above `low`, fewer above `high`; so an eigenvalue that is a
  // float64 itself ends up in `high`.
  struct Bracket {
    std::int64_t low, high;
    std::uint64_t width() const {
      return static_cast<std::uint64_t>(high) - static_cast<std::uint64_t>(low);
    }
    std::int64_t at(std::uint64_t part, std::uint64_t parts) const {
      const std::uint64_t offset = width() / parts * part + width() % parts * part / parts;
      return static_cast<std::int64_t>(static_cast<std::uint64_t>(low) + offset);
    }
  };
  const double slack = 4 * kEps * radius_ + 2 * pivot_min_;
  const std::int64_t outside = ordinal(radius_ + slack);
  std::vector<Bracket> brackets(from_top.size(), {-outside, outside});
  const std::size_t targets = from_top.size();
  const std::size_t shifts = targets < kShifts ? kShifts / targets : 1;
  std::vector<double> xs(targets * shifts);
  while (std::any_of(brackets.begin(), brackets.end(),
                     [](const Bracket& b) { return b.width() > 1; })) {
    for (std::size_t t = 0; t < targets; ++t)
      for (std::size_t s = 0; s < shifts; ++s)
        xs[t * shifts + s] = from_ordinal(brackets[t].at(s + 1, shifts + 1));
    const std::vector<Index> above = counts_above(xs);
    for (std::size_t t = 0; t < targets; ++t) {
      Bracket& bracket = brackets[t];
      if (bracket.width() <= 1) continue;
      std::size_t below = 0;  // shifts that have enough eigenvalues above them
      while (below < shifts && above[t * shifts + below] >= from_top[t]) ++below;
      const std::int64_t low = bracket.at(below, shifts + 1);
      if (below < shifts) bracket.high = bracket.at(below + 1, shifts + 1);
      bracket.low = low;
    }
  }
  std::vector<double> values;
  for (const Bracket& bracket : brackets) values.push_back(from_ordinal(bracket.high));
  return values;
}

void Tridiagonal::eigenvectors(const std::vector<double>& values, double* z) const {
  // dstein wants room for n - 1 off-diagonals, and a pointer that is not null.
  std::vector<double> e = e_;
  e.resize(d_.size());
  const auto count = static_cast<Index>(values.size());
  if (lapack::stein(size(), d_.data(), e.data(), count, values.data(), z)) return;
  // Inverse iteration fails where parts that no coupling joins share an eigenvalue: take all
  // vectors then, and those of the values wanted.
  const Index n = size();
  std::vector<double> all(d_), every(d_.size() * d_.size());
  e = e_;
  e.resize(d_.size());
  lapack::steqr(n, all.data(), e.data(), every.data());
  auto at = all.begin();
  for (Index j = 0; j < count; ++j, ++at) {
    const double value = values[static_cast<std::size_t>(j)];
    const auto last = all.end() - (count - j - 1);  // one is left for each value to come
    at = std::min_element(
        at, last, [=](double x, double y) { return std::fabs(x - value) < std::fabs(y - value); });
    std::copy_n(every.begin() + (at - all.begin()) * n, n, z + j * n);
  }
}

}  // namespace immucond
