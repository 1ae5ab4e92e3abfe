#include "immucond/gram.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "immucond/symmetric.hpp"

namespace immucond {
namespace {

constexpr Index kFeatureBlockDoubles = Index{1} << 20;  // 8 MiB of features at a time
constexpr Index kColumnPanel = 128;

/// K's rounding reaches h_jj with a weight of at most (sum_i |theta_ij| sqrt(k_ii))^2; where h_jj is
/// at least this share of it, nine digits of h_jj are left in the worst case.
constexpr double kSafeShare = 1e-6;

bool finite_diagonal(const double* a, Index n) {
  bool finite = true;
  for (Index j = 0; j < n; ++j) finite = finite && std::isfinite(a[j * (n + 1)]);
  return finite;
}

/// Adds A^T A to the upper triangle of `out`.
void accumulate_gram(const Dense& a, double beta, double* out) {
  lapack::syrk('U', a.op == 'T' ? 'N' : 'T', a.cols, a.rows, 1.0, a.data, a.ld, beta, out, a.cols);
}

void through_features(const MatrixView& X, const Dense& theta, double* H) {
  const Index m = theta.cols;
  RowBlocks blocks(X, std::clamp<Index>(kFeatureBlockDoubles / m, 64, 8192));
  std::vector<double> features;
  double beta = 0.0;
  for (Dense block{}; blocks.next(block); beta = 1.0) {
    features.resize(static_cast<std::size_t>(std::max<Index>(block.rows * m, 1)));
    multiply(1.0, block, theta, 0.0, features.data(), block.rows);
    accumulate_gram({features.data(), block.rows, m, block.rows, 'N'}, beta, H);
  }
  mirror_upper(H, m);
}

void through_gram(const Dense& K, const Dense& theta, double* H) {
  std::vector<double> product(static_cast<std::size_t>(theta.rows * theta.cols));
  multiply(1.0, K, theta, 0.0, product.data(), theta.rows);
  symmetric_product(theta.data, product.data(), theta.rows, theta.cols, H);
}

bool safe_through_gram(const double* K, const Dense& theta, const double* H) {
  const Index d = theta.rows;
  for (Index j = 0; j < theta.cols; ++j) {
    double spread = 0.0, largest = 0.0;
    for (Index i = 0; i < d; ++i) {
      const double weight = std::fabs(theta.data[i + j * d]);
      spread += weight * std::sqrt(K[i * (d + 1)]);
      largest = std::max(largest, weight);
    }
    // Written so that overflow, underflow and NaN all count as unsafe; a zero column is exact.
    if (largest > 0.0 && !(std::sqrt(H[j * (theta.cols + 1)]) > std::sqrt(kSafeShare) * spread))
      return false;
  }
  return true;
}

/// theta in column-major storage with ld = d.
Dense columns_of(const MatrixView& theta, std::vector<double>& storage) {
  storage.resize(static_cast<std::size_t>(theta.rows * theta.cols));
  copy_to(theta, storage.data());
  return {storage.data(), theta.rows, theta.cols, theta.rows, 'N'};
}

}  // namespace

void gram(const MatrixView& X, double* out) {
  const lapack::SingleThreadScope scope(static_cast<double>(X.rows) * static_cast<double>(X.cols) *
                                            static_cast<double>(X.cols) <
                                        lapack::kSingleThreadFlops);
  RowBlocks blocks(X);
  double beta = 0.0;
  for (Dense block{}; blocks.next(block); beta = 1.0) accumulate_gram(block, beta, out);
  mirror_upper(out, X.cols);
}

void symmetric_product(const double* a, const double* b, Index d, Index m, double* out) {
  for (Index j = 0; j < m; j += kColumnPanel) {
    const Index panel = std::min(kColumnPanel, m - j);
    multiply(1.0, {a, j + panel, d, d, 'T'}, {b + j * d, d, panel, d, 'N'}, 0.0, out + j * m, m);
  }
  mirror_upper(out, m);
}

void hessian(const MatrixView& theta, const MatrixView& K, double* H) {
  const double d = static_cast<double>(theta.rows), m = static_cast<double>(theta.cols);
  const lapack::SingleThreadScope scope(2 * d * d * m + d * m * m < lapack::kSingleThreadFlops);
  const SymmetricMatrix k = read_symmetric(K);
  std::vector<double> storage;
  through_gram({k.data.data(), k.n, k.n, k.n, 'N'}, columns_of(theta, storage), H);
  scale_by_power(H, theta.cols * theta.cols, k.exponent, "theta^T gram theta");
}

void feature_hessian(const MatrixView& X, const MatrixView& theta, FeatureRoute route, double* H) {
  const double rows = static_cast<double>(X.rows), d = static_cast<double>(X.cols),
               m = static_cast<double>(theta.cols);
  const double by_features = 2 * rows * d * m + rows * m * m;
  const double by_gram = rows * d * d + 2 * d * d * m + d * m * m;
  const lapack::SingleThreadScope scope(std::min(by_features, by_gram) < lapack::kSingleThreadFlops);
  std::vector<double> storage;
  const Dense map = columns_of(theta, storage);
  if (route == FeatureRoute::gram || (route == FeatureRoute::automatic && by_gram < by_features)) {
    std::vector<double> K(static_cast<std::size_t>(X.cols * X.cols));
    gram(X, K.data());
    through_gram({K.data(), X.cols, X.cols, X.cols, 'N'}, map, H);
    if (route == FeatureRoute::gram || safe_through_gram(K.data(), map, H)) return;
  }
  through_features(X, map, H);
}

void check_finite(const double* product, Index n, const MatrixView& a, const MatrixView* b,
                  const char* what) {
  if (finite_diagonal(product, n)) return;
  require_finite(a);
  if (b != nullptr) require_finite(*b);
  throw std::overflow_error(std::string(what) + " is not representable in float64: the entries of " +
                            a.name + (b != nullptr ? std::string(" and ") + b->name : "") +
                            " are so large that sums of their products pass 1.8e308");
}

}  // namespace immucond
