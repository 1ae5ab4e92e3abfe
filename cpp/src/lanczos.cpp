#include "immucond/lanczos.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <string>

#include "immucond/numeric.hpp"
#include "immucond/reduction.hpp"
#include "immucond/tridiagonal.hpp"

namespace immucond {
namespace {

constexpr Index kCapacity = 256;
constexpr Index kKeptLargest = 48, kKeptSmallest = 16;  // at a restart
/// A mixture of two unresolved neighbours at the distance D has a residual of D w, w the smaller
/// part, and its value an error of D w^2: where D is so many tolerances, far below rounding.
constexpr double kSeparated = 1e4;
/// The neighbour is known to this part of its distance from the end: a larger value that hides in
/// it would stand out.
constexpr double kNeighbour = 1e-6;
/// The same where a shift shall stand between the two.
constexpr double kApart = 0.1;

}  // namespace

struct Lanczos::Small {
  Index k = 0;
  std::vector<double> values;     // descending
  std::vector<double> vectors;    // k x values.size()
  std::vector<double> residuals;  // of the Ritz pairs they stand for
};

Lanczos::Lanczos(const Operator& A, const std::vector<double>& given, Index random,
                 std::uint64_t seed)
    : A_(A),
      n_(A.size()),
      capacity_(std::min(n_, kCapacity)),
      basis_(size(n_ * capacity_)),
      projection_(size(capacity_ * capacity_)),
      product_(size(n_)),
      coefficients_(size(capacity_)),
      correction_(size(capacity_)),
      generator_(seed) {
  for (std::size_t at = 0; at < given.size() && size_ < n_; at += size(n_)) {
    std::copy_n(given.data() + at, n_, product_.data());
    const double length = norm(product_.data(), n_);
    if (orthogonalize(product_.data(), coefficients_.data()) > kEps * length)
      append(product_.data());
  }
  for (Index i = 0; i < random && size_ < n_; ++i) append_random();
}

/// w <- w - V (V^T w), twice is enough (Kahan and Parlett); returns the norm of what is left, and
/// V^T w in `coefficients`.
double Lanczos::orthogonalize(double* w, double* coefficients) {
  std::fill_n(coefficients, size_, 0.0);
  if (size_ == 0) return norm(w, n_);
  for (int pass = 0; pass < 2; ++pass) {
    lapack::gemv('T', n_, size_, 1.0, basis_.data(), n_, w, 0.0, correction_.data());
    lapack::gemv('N', n_, size_, -1.0, basis_.data(), n_, correction_.data(), 1.0, w);
    for (Index i = 0; i < size_; ++i) coefficients[i] += correction_[size(i)];
  }
  return norm(w, n_);
}

void Lanczos::append(double* w) {
  const double length = norm(w, n_);
  double* v = basis_.data() + size_ * n_;
  for (Index i = 0; i < n_; ++i) v[i] = w[i] / length;
  ++size_;
}

void Lanczos::append_random() {
  std::normal_distribution<double> normal;
  double length = 0.0;
  do {
    for (double& x : product_) x = normal(generator_);
    length = orthogonalize(product_.data(), correction_.data());
  } while (length < 1e-8);
  append(product_.data());
}

void Lanczos::step() {
  const Index j = processed_++;
  double* w = product_.data();
  A_.apply(basis_.data() + j * n_, w);
  ++products_;
  const double length = norm(w, n_);
  const double left = orthogonalize(w, coefficients_.data());
  double* column = projection_.data() + j * capacity_;
  std::copy_n(coefficients_.data(), size_, column);
  if (size_ == n_) return;
  if (left > 10 * kEps * length) {
    column[size_] = left;
    append(w);
  } else {
    append_random();  // the space was invariant: go on with another
  }
}

Lanczos::Small Lanczos::decompose(Index from_top, Index from_bottom) const {
  Small small;
  const Index k = small.k = processed_;
  std::vector<double> a(size(k * k)), d(size(k)), e(size(k)), tau(size(k));
  for (Index j = 0; j < k; ++j)
    for (Index i = j; i < k; ++i) a[size(i + j * k)] = projection_[size(i + j * capacity_)];
  tridiagonalize(k, a.data(), k, d.data(), e.data(), tau.data());
  e.resize(size(k - 1));
  const Tridiagonal T(std::move(d), std::move(e));
  std::vector<Index> positions;  // descending, so that the values ascend
  for (Index i = k; i > std::max(k - from_bottom, from_top); --i) positions.push_back(i);
  for (Index i = std::min(from_top, k); i >= 1; --i) positions.push_back(i);
  std::vector<double> ascending = T.eigenvalues(positions);
  std::sort(ascending.begin(), ascending.end());
  const Index count = static_cast<Index>(ascending.size());
  std::vector<double> z(size(k * count));
  if (T.radius() > 0.0)
    T.eigenvectors(ascending, z.data());
  else
    for (Index i = 0; i < count; ++i) z[size(i * (k + 1))] = 1.0;
  apply_reflectors(k, count, a.data(), k, tau.data(), z.data(), k);
  small.vectors.resize(z.size());
  for (Index i = 0; i < count; ++i) {
    const double* column = z.data() + (count - 1 - i) * k;
    std::copy_n(column, k, small.vectors.data() + i * k);
    small.values.push_back(ascending[size(count - 1 - i)]);
    // A V s - theta V s = (the basis vectors beyond k) (their rows of the projection) s.
    double squares = 0.0;
    for (Index r = k; r < size_; ++r) {
      double sum = 0.0;
      for (Index j = 0; j < k; ++j) sum += projection_[size(r + j * capacity_)] * column[j];
      squares += sum * sum;
    }
    small.residuals.push_back(std::sqrt(squares));
  }
  return small;
}

/// Asks `done` of the two largest values, or of the largest and the smallest, now and then: it says
/// yes, no, or nothing yet.
template <class Done>
bool Lanczos::multiply_until(Index most, Index from_bottom, Done done) {
  Index check = 3 * size_;
  while (true) {
    // A basis that spans the space is gone through to the exact end.
    while (processed_ < size_ && (size_ == n_ || (processed_ < check && size_ < capacity_))) step();
    if (const std::optional<bool> answer = done(decompose(2 - from_bottom, from_bottom)))
      return *answer;
    if (products_ >= most) return false;
    if (size_ == capacity_) restart();
    check = processed_ + std::max<Index>(4, processed_ / 6);
  }
}

bool Lanczos::converge(double tolerance, Index most, Index across) {
  return multiply_until(most, across, [&](const Small& small) -> std::optional<bool> {
    const double scale = tolerance * std::fabs(small.values[0]);
    const bool end = small.residuals[0] <= scale;
    const bool neighbour =
        small.values.size() < 2 ||
        small.residuals[1] <= std::max(scale, kNeighbour * (small.values[0] - small.values[1]));
    return end && neighbour ? std::optional(true) : std::nullopt;
  });
}

bool Lanczos::tell_apart(double tolerance, Index most) {
  return multiply_until(most, 0, [&](const Small& small) -> std::optional<bool> {
    if (small.values.size() < 2) return false;
    const double distance = small.values[0] - small.values[1];
    const double unknown = std::max(small.residuals[0], small.residuals[1]);
    const double scale = tolerance * std::fabs(small.values[0]);
    if (unknown <= scale && distance <= kSeparated * scale) return false;
    return unknown <= kApart * distance ? std::optional(true) : std::nullopt;
  });
}

bool Lanczos::separated(double tolerance) const {
  const std::vector<double> values = decompose(2, 0).values;
  return values.size() < 2 || values[0] - values[1] > kSeparated * tolerance * std::fabs(values[0]);
}

void Lanczos::multiply(Index products) {
  for (Index i = 0; i < products && processed_ < size_ && (size_ == n_ || size_ < capacity_); ++i)
    step();
}

RitzPairs Lanczos::lift(const Small& small, Index first, Index count, bool ascending) const {
  RitzPairs pairs;
  pairs.vectors.resize(size(n_ * count));
  for (Index i = 0; i < count; ++i) {
    const Index from = ascending ? first + count - 1 - i : first + i;
    pairs.values.push_back(small.values[size(from)]);
    pairs.residuals.push_back(small.residuals[size(from)]);
    lapack::gemv('N', n_, small.k, 1.0, basis_.data(), n_, small.vectors.data() + from * small.k,
                 0.0, pairs.vectors.data() + i * n_);
  }
  return pairs;
}

RitzPairs Lanczos::largest(Index count) const {
  return lift(decompose(count, 0), 0, std::min(count, processed_), false);
}

RitzPairs Lanczos::smallest(Index count) const {
  return lift(decompose(0, count), 0, std::min(count, processed_), true);
}

RitzPairs Lanczos::across() const {
  return lift(decompose(1, 1), 0, std::min<Index>(2, processed_), false);
}

/// Keeps the Ritz vectors of both ends and the pending vectors: T becomes diagonal, bordered by the
/// couplings.
void Lanczos::restart() {
  const Small small = decompose(kKeptLargest, kKeptSmallest);
  const Index k = small.k, kept = static_cast<Index>(small.values.size()), pending = size_ - k;
  spare_.resize(basis_.size());
  lapack::gemm('N', 'N', n_, kept, k, 1.0, basis_.data(), n_, small.vectors.data(), k, 0.0,
               spare_.data(), n_);
  std::copy_n(basis_.data() + k * n_, pending * n_, spare_.data() + kept * n_);
  std::vector<double> couplings(size(pending * kept));
  for (Index i = 0; i < kept; ++i)
    for (Index r = 0; r < pending; ++r)
      for (Index j = 0; j < k; ++j)
        couplings[size(r + i * pending)] +=
            projection_[size(k + r + j * capacity_)] * small.vectors[size(j + i * k)];
  std::fill(projection_.begin(), projection_.end(), 0.0);
  for (Index i = 0; i < kept; ++i) {
    double* column = projection_.data() + i * capacity_;
    column[i] = small.values[size(i)];
    std::copy_n(couplings.data() + i * pending, pending, column + kept);
  }
  basis_.swap(spare_);
  processed_ = kept;
  size_ = kept + pending;
}

OnePair largest_pair(const Operator& A, const std::vector<double>& start, double tolerance,
                     double error, std::uint64_t seed) {
  constexpr Index most = 5000;
  const Index n = A.size();
  Lanczos lanczos(A, start, 2, seed);
  if (!lanczos.converge(std::max(tolerance, error), most))
    throw LapackError("Lanczos did not converge within " + std::to_string(most) +
                      " products; a larger tol needs fewer");
  const RitzPairs pairs = lanczos.largest(2), low = lanczos.smallest(1);
  const double negative = low.values[0] + low.residuals[0];
  constexpr double zero = 4 * std::numeric_limits<double>::min();
  if (negative < -std::max(zero, error * std::fabs(pairs.values[0])))
    throw std::invalid_argument(
        "the operator must be positive semidefinite, and has an eigenvalue of at most " +
        format(negative) + " beside " + format(pairs.values[0]));
  OnePair one;
  const auto column = [&](Index i) {
    const double* from = pairs.vectors.data() + i * n;
    return std::vector<double>(from, from + n);
  };
  one.vector = column(0);
  std::vector<double> product(size(n));
  A.apply(one.vector.data(), product.data());
  const double quotient =
      std::inner_product(product.begin(), product.end(), one.vector.begin(), 0.0);
  for (Index i = 0; i < n; ++i) product[size(i)] -= quotient * one.vector[size(i)];
  const double rounding = error * std::fabs(quotient);
  const double residual = norm(product.data(), n) + rounding;
  one.value = quotient;
  one.bound = residual;
  if (pairs.values.size() < 2) return one;
  one.neighbour = column(1);
  one.next = pairs.values[1];
  const double gap = one.value - one.next - pairs.residuals[1] - rounding;
  if (residual < gap && lanczos.separated(std::max(tolerance, error)))
    one.bound = std::min(residual, residual * (residual / gap) + rounding);
  return one;
}

}  // namespace immucond
