#include "immucond/shift_invert.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "immucond/lapack.hpp"
#include "immucond/matrix_view.hpp"

namespace immucond {
namespace {

/// Solves that cost as much as another factorization, nearer to the end.
constexpr Index kProductsAShift = 40;
constexpr int kMostShifts = 3;

/// sign (A - shift I)^-1 for M = sign (A - shift I) + weight v v^T with a Cholesky factor, by the
/// formula of Sherman and Morrison: M^-1 + c z z^T, z = M^-1 v; times -1.
class SplitInverse final : public Operator {
 public:
  SplitInverse(InverseGramOperator inverse, const double* v, double weight)
      : inverse_(inverse), z_(static_cast<std::size_t>(inverse.size())) {
    inverse_.apply(v, z_.data());
    factor_ = weight / (1.0 - weight * std::inner_product(z_.begin(), z_.end(), v, 0.0));
  }
  /// Whether an eigenvalue lies beyond the shift: one does, or none.
  bool indefinite() const { return factor_ < 0.0; }
  Index size() const override { return inverse_.size(); }
  void apply(const double* x, double* y) const override {
    inverse_.apply(x, y);
    const double along = factor_ * std::inner_product(z_.begin(), z_.end(), x, 0.0);
    for (std::size_t i = 0; i < z_.size(); ++i) y[i] = -(y[i] + along * z_[i]);
  }

 private:
  InverseGramOperator inverse_;
  std::vector<double> z_;
  double factor_;
};

}  // namespace

EndFound end_of(RitzPairs pairs) {
  return {pairs.values[0], pairs.values[1], pairs.residuals[1], std::move(pairs.vectors)};
}

RitzPairs unshifted(RitzPairs pairs, double shift, double sign) {
  for (std::size_t i = 0; i < pairs.values.size(); ++i) {
    const double theta = pairs.values[i], rho = pairs.residuals[i], size = std::fabs(theta);
    pairs.values[i] = shift + sign / theta;
    pairs.residuals[i] =
        rho < size ? rho / (size * (size - rho)) : std::numeric_limits<double>::infinity();
  }
  return pairs;
}

ShiftedFactor::ShiftedFactor(double* a, Index n) : a_(a), n_(n), diagonal_(size(n)) {
  for (Index i = 0; i < n; ++i) diagonal_[size(i)] = a[i * (n + 1)];
}

bool ShiftedFactor::isolates(const EndFound& end, double sign) {
  return factor(end.middle(), sign, weight(end), end.vectors.data());
}

std::optional<EndFound> ShiftedFactor::settle(const EndFound& near, double sign, double tolerance) {
  if (!isolates(near, sign)) return std::nullopt;
  const SplitInverse inverse({a_, n_}, near.vectors.data(), weight(near));
  if (!inverse.indefinite()) return std::nullopt;
  Lanczos lanczos(inverse, near.vectors, 0);
  if (!lanczos.converge_across(tolerance, kMostProducts)) return std::nullopt;
  RitzPairs pairs = lanczos.across();
  if (!(pairs.values[0] > 0.0 && pairs.values.back() < 0.0)) return std::nullopt;
  return end_of(unshifted(std::move(pairs), near.middle(), -sign));
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

std::optional<EndFound> approach_bottom(ShiftedFactor& A, RitzPairs near, Index random,
                                        double tolerance) {
  for (int attempt = 1; attempt <= kMostShifts; ++attempt) {
    double shift = 0.0;
    if (!near.values.empty()) {
      const double value = near.values[0];
      shift = value - (2 * near.residuals[0] + 16 * tolerance * std::fabs(value));
      // Half-way to zero is no gain over zero, which tells whether a matrix is definite.
      if (shift < value / 2) shift = 0.0;
    }
    if (!A.factor(shift, 1.0)) {
      if (shift == 0.0 || !A.factor(shift = 0.0, 1.0)) return std::nullopt;
      near.vectors.clear();
    }
    const InverseGramOperator inverse = A.inverse();
    Lanczos lanczos(inverse, near.vectors, near.vectors.empty() ? 2 : random);
    const Index most = attempt == kMostShifts ? kMostProducts : kProductsAShift;
    const bool apart = lanczos.tell_apart(tolerance, most);
    near = unshifted(lanczos.largest(2), shift, 1.0);
    if (apart) return end_of(std::move(near));
  }
  return std::nullopt;
}

}  // namespace immucond
