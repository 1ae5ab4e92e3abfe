#include "immucond/gram.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "immucond/blas_threads.hpp"
#include "immucond/compensated.hpp"
#include "immucond/spectrum.hpp"
#include "immucond/symmetric.hpp"

namespace immucond {
namespace {

constexpr Index kFeatureBlockDoubles = Index{1} << 20;  // 8 MiB of features at a time
constexpr Index kColumnPanel = 128;

/// K's rounding reaches h_jj with a weight of at most (sum_i |theta_ij| sqrt(k_ii))^2; where h_jj
/// is at least this share of it, nine digits of h_jj are left in the worst case.
constexpr double kSafeShare = 1e-6;

/// The largest diagonal entry, or the first that is not finite.
double largest_diagonal(const double* a, Index n) {
  double largest = 0.0;
  for (Index j = 0; j < n; ++j) {
    const double entry = a[j * (n + 1)];
    if (!std::isfinite(entry)) return entry;
    largest = std::max(largest, entry);
  }
  return largest;
}

/// Whether squares and products of the entries behind this diagonal stayed in float64's range.
bool in_range(double largest) { return largest > 1e-200 && largest < 1e200; }

/// Whether sums of squares with this largest one are right, whatever other products come to: none
/// has overflown, and what underflowed is nothing beside it.
bool sums_in_range(double largest) { return largest > 1e-280 && std::isfinite(largest); }

/// The sum of A^T A over blocks of rows, with the rounding of that sum kept beside it: its error is
/// that of one block, however many there are. Only upper triangles, until `finish`.
class GramSum {
 public:
  GramSum(double* out, Index n) : out_(out), n_(n) {}

  void add(const Dense& a) {
    const bool first = blocks_++ == 0;
    if (blocks_ == 2) {
      block_.resize(size(n_ * n_));
      rest_.resize(size(n_ * n_));
    }
    double* to = first ? out_ : block_.data();
    lapack::syrk('U', a.op == 'T' ? 'N' : 'T', n_, a.rows, 1.0, a.data, a.ld, 0.0, to, n_);
    for (Index j = 0; j < n_ && !first; ++j)
      add_compensated(block_.data() + j * n_, j + 1, out_ + j * n_, rest_.data() + j * n_);
  }

  void finish() {
    for (Index j = 0; j < n_ && blocks_ > 1; ++j)
      for (Index i = 0; i <= j; ++i) out_[i + j * n_] += rest_[size(i + j * n_)];
    mirror_upper(out_, n_);
  }

 private:
  double* out_;
  Index n_;
  Index blocks_ = 0;
  std::vector<double> block_, rest_;
};

void through_features(const MatrixView& X, const Dense& theta, double* H) {
  const Index m = theta.cols;
  RowBlocks blocks(X, std::clamp<Index>(kFeatureBlockDoubles / m, 64, 8192));
  std::vector<double> features;
  GramSum sum(H, m);
  for (Dense block{}; blocks.next(block);) {
    features.resize(size(block.rows * m));
    multiply(1.0, block, theta, 0.0, features.data(), block.rows);
    sum.add({features.data(), block.rows, m, block.rows, 'N'});
  }
  sum.finish();
}

void through_gram(const Dense& K, const Dense& theta, double* H) {
  std::vector<double> product(size(theta.rows * theta.cols));
  multiply(1.0, K, theta, 0.0, product.data(), theta.rows);
  symmetric_product(theta, product.data(), H);
}

bool safe_through_gram(const double* K, Index rows, const Dense& theta, const double* H) {
  const Index d = theta.rows;
  // Squares that underflow round by more than their share, each of them.
  const double lost = static_cast<double>(rows) * std::numeric_limits<double>::min();
  for (Index j = 0; j < theta.cols; ++j) {
    double spread = 0.0, largest = 0.0;
    for (Index i = 0; i < d; ++i) {
      const Index at = theta.op == 'N' ? i + j * theta.ld : j + i * theta.ld;
      const double weight = std::fabs(theta.data[at]);
      spread += weight * std::sqrt(std::max(K[i * (d + 1)], lost));
      largest = std::max(largest, weight);
    }
    // Written so that overflow, underflow and NaN all count as unsafe; a zero column is exact.
    if (largest > 0.0 && !(std::sqrt(H[j * (theta.cols + 1)]) > std::sqrt(kSafeShare) * spread))
      return false;
  }
  return true;
}

}  // namespace

void gram(const MatrixView& X, double* out) {
  const blas::Phase phase(
      blas::Work::product,
      static_cast<double>(X.rows) * static_cast<double>(X.cols) * static_cast<double>(X.cols));
  RowBlocks blocks(X, summed_rows(X.cols));
  GramSum sum(out, X.cols);
  for (Dense block{}; blocks.next(block);) sum.add(block);
  sum.finish();
}

void symmetric_product(const Dense& a, const double* b, double* out) {
  const Index d = a.rows, m = a.cols;
  for (Index j = 0; j < m; j += kColumnPanel) {
    const Index panel = std::min(kColumnPanel, m - j);
    const Dense leading{a.data, j + panel, d, a.ld, a.op == 'N' ? 'T' : 'N'};
    multiply(1.0, leading, {b + j * d, d, panel, d, 'N'}, 0.0, out + j * m, m);
  }
  mirror_upper(out, m);
}

void hessian(const MatrixView& theta, const MatrixView& K, double* H) {
  const double d = static_cast<double>(theta.rows), m = static_cast<double>(theta.cols);
  const blas::Phase phase(blas::Work::product, 2 * d * d * m + d * m * m);
  const SymmetricMatrix k = read_symmetric(K);
  // theta is read where it lies unless its scale could take a product out of range.
  int exponent = scale_exponent(theta);
  if (std::abs(exponent) < 300) exponent = 0;
  std::vector<double> storage;
  through_gram({k.data.data(), k.n, k.n, k.n, 'N'}, whole(scaled(theta, exponent), storage), H);
  scale_by_power(H, theta.cols * theta.cols, 2 * exponent + k.exponent, "theta^T gram theta");
}

namespace {
void feature_hessian_in_range(const MatrixView& X, const MatrixView& theta, FeatureRoute route,
                              double* H) {
  std::vector<double> storage;
  const Dense map = whole(theta, storage);
  if (route == FeatureRoute::features) return through_features(X, map, H);
  std::vector<double> K(size(X.cols * X.cols));
  gram(X, K.data());
  through_gram({K.data(), X.cols, X.cols, X.cols, 'N'}, map, H);
  if (route == FeatureRoute::automatic && !safe_through_gram(K.data(), X.rows, map, H))
    through_features(X, map, H);
}
}  // namespace

void feature_hessian(const MatrixView& X, const MatrixView& theta, FeatureRoute route, double* H) {
  const double rows = static_cast<double>(X.rows), d = static_cast<double>(X.cols),
               m = static_cast<double>(theta.cols);
  const double by_features = 2 * rows * d * m + rows * m * m;
  const double by_gram = rows * d * d + 2 * d * d * m + d * m * m;
  const blas::Phase phase(blas::Work::product, std::min(by_features, by_gram));
  if (route == FeatureRoute::automatic && by_features <= by_gram) route = FeatureRoute::features;
  feature_hessian_in_range(X, theta, route, H);
  if (in_range(largest_diagonal(H, theta.cols))) return;
  // Entries of both out of range whose products are not: at order one, small ones would be lost.
  if (route != FeatureRoute::features)
    feature_hessian_in_range(X, theta, FeatureRoute::features, H);
  if (sums_in_range(largest_diagonal(H, theta.cols))) return;
  // NaN or infinity in the input, or a product out of range: look, and bring both to order one.
  const int x_exponent = scale_exponent(X), theta_exponent = scale_exponent(theta);
  feature_hessian_in_range(scaled(X, x_exponent), scaled(theta, theta_exponent), route, H);
  scale_by_power(H, theta.cols * theta.cols, 2 * (x_exponent + theta_exponent),
                 "(X theta)^T (X theta)");
}

int gram_in_range(MatrixView& A, double* out, double& largest) {
  gram(A, out);
  largest = largest_diagonal(out, A.cols);
  if (in_range(largest)) return 0;
  const int exponent = scale_exponent(A);
  A = scaled(A, exponent);
  gram(A, out);
  largest = largest_diagonal(out, A.cols);
  return exponent;
}

void checked_gram(const MatrixView& X, double* out) {
  gram(X, out);
  if (std::isfinite(largest_diagonal(out, X.cols))) return;
  scale_exponent(X);
  throw std::overflow_error(std::string("X^T X is not representable in float64: entries of ") +
                            X.name + " are so large that a sum of their squares passes 1.8e308");
}

}  // namespace immucond
