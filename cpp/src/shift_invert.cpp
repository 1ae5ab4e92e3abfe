#include "immucond/shift_invert.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "immucond/lapack.hpp"
#include "immucond/matrix_view.hpp"

namespace immucond {
namespace {

/// Solves that cost as much as another factorization, nearer to the end.
constexpr Index kProductsAShift = 40;
constexpr int kMostShifts = 3;

}  // namespace

EndFound end_of(RitzPairs pairs) {
  return {pairs.values[0], pairs.values[1], pairs.residuals[1], std::move(pairs.vectors)};
}

RitzPairs unshifted(RitzPairs pairs, double shift, double sign) {
  for (std::size_t i = 0; i < pairs.values.size(); ++i) {
    const double theta = pairs.values[i], rho = pairs.residuals[i];
    pairs.values[i] = shift + sign / theta;
    pairs.residuals[i] =
        rho < theta ? rho / (theta * (theta - rho)) : std::numeric_limits<double>::infinity();
  }
  return pairs;
}

ShiftedFactor::ShiftedFactor(double* a, Index n) : a_(a), n_(n), diagonal_(size(n)) {
  for (Index i = 0; i < n; ++i) diagonal_[size(i)] = a[i * (n + 1)];
}

std::optional<double> ShiftedFactor::isolated(const EndFound& end, double sign) {
  const double middle = end.value + (end.next - end.value) / 2;
  const double weight = 3 * std::fabs(end.value - middle);
  if (!factor(middle, sign, weight, end.vectors.data())) return std::nullopt;
  return middle;
}

void ShiftedFactor::restore() {
  if (!used_) return;
  mirror_lower(a_, n_);
  for (Index i = 0; i < n_; ++i) a_[i * (n_ + 1)] = diagonal_[size(i)];
  used_ = false;
}

bool ShiftedFactor::factor(double shift, double sign, double weight, const double* v) {
  restore();
  used_ = true;
  for (Index j = 0; j < n_; ++j) {
    double* column = a_ + j * n_;
    column[j] -= shift;
    if (sign < 0.0)
      for (Index i = 0; i <= j; ++i) column[i] = -column[i];
    if (v != nullptr)
      for (Index i = 0; i <= j; ++i) column[i] += weight * v[j] * v[i];
  }
  return lapack::potrf(n_, a_, n_);
}

bool keep_proof(EndFound& end, double middle, double noise) {
  end.next_error = std::max(end.next_error, std::fabs(middle - end.next) + noise);
  return std::fabs(end.value - middle) > kClear * noise;
}

std::optional<EndFound> invert_end(ShiftedFactor& A, End end, RitzPairs near, Index random,
                                   double tolerance) {
  const double sign = end == End::max ? -1.0 : 1.0;
  for (int attempt = 1; attempt <= kMostShifts; ++attempt) {
    const double value = near.values[0], margin = 2 * near.residuals[0];
    double shift = value - sign * (margin + 16 * tolerance * std::fabs(value));
    // Half-way to zero is no gain over zero, which tells whether a matrix is definite.
    if (end == End::min && shift < value / 2) shift = 0.0;
    if (!A.factor(shift, sign)) {
      if (end == End::max || shift == 0.0 || !A.factor(shift = 0.0, sign)) return std::nullopt;
      near.vectors.clear();
      random = 2;
    }
    const InverseGramOperator inverse = A.inverse();
    Lanczos lanczos(inverse, near.vectors, random);
    const bool last = attempt == kMostShifts;
    const bool done = lanczos.converge(tolerance, last ? kMostProducts : kProductsAShift);
    if (done && !lanczos.separated(tolerance)) return std::nullopt;
    near = unshifted(lanczos.largest(2), shift, sign);
    if (done) return end_of(std::move(near));
  }
  return std::nullopt;
}

}  // namespace immucond
