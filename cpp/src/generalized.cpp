#include "immucond/generalized.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

#include "immucond/blas_threads.hpp"
#include "immucond/compensated.hpp"

namespace immucond {
namespace {

/// x / sqrt(x^T B x) in place of w, with the quotient x^T A x / x^T B x and the bound on its error.
struct Quotient {
  double value, residual;
};

/// A and B as their accurate products with vectors.
template <class ProductA, class ProductB>
Quotient finish(ProductA A, ProductB B, const std::vector<double>& r, Index n,
                std::vector<double>& x) {
  lapack::trsv('N', n, r.data(), n, x.data());
  std::vector<double> length(x);
  lapack::trmv('N', n, r.data(), n, length.data());
  const double scale = norm(length.data(), n);
  for (double& entry : x) entry /= scale;
  const DoubleDoubleVector ax = A(x.data()), bx = B(x.data());
  DoubleDouble top, bottom;
  for (Index i = 0; i < n; ++i) {
    const double entry = x[size(i)];
    top = top + ax[i] * entry;
    bottom = bottom + bx[i] * entry;
  }
  const DoubleDouble value = quotient(top, bottom);
  std::vector<double> t(x.size());
  for (Index i = 0; i < n; ++i) t[size(i)] = (ax[i] + -(value * bx[i])).value();
  lapack::trsv('T', n, r.data(), n, t.data());
  const double left = std::sqrt(bottom.hi);  // R's rounding, which kappa(B) magnifies
  for (double& entry : x) entry /= left;
  return {value.value(), norm(t.data(), n) / left};
}

/// An upper bound on the condition number of B = R^T R, in Frobenius norms: no vector can hide from
/// it, as one may from an iteration.
double condition_bound(const SymmetricMatrix& B, std::vector<double> r) {
  const Index n = B.n;
  if (!lapack::trtri(n, r.data(), n)) return std::numeric_limits<double>::infinity();
  for (Index j = 0; j < n; ++j)
    std::fill(r.begin() + j * (n + 1) + 1, r.begin() + (j + 1) * n, 0.0);
  lapack::lauum(n, r.data(), n);
  mirror_upper(r.data(), n);
  return std::sqrt(sum_of_squares(B.data.data(), n * n).value() *
                   sum_of_squares(r.data(), n * n).value());
}

}  // namespace

ExtremePairs generalized_extreme_pairs(const MatrixView& A, const MatrixView& B,
                                       const Given& given) {
  SymmetricMatrix a = read_symmetric(A, given.rule.precision),
                  b = read_symmetric(B, given.rule.precision);
  const Index n = a.n;
  if (b.n != n)
    throw std::invalid_argument(std::string(A.name) + " and " + B.name +
                                " must have the same shape, and have " + std::to_string(n) +
                                " and " + std::to_string(b.n) + " rows");
  const int exponent = a.exponent - b.exponent;
  const SymmetricMatrix b_unit = b;
  // As the caller has them: what was read is rounded where it is not symmetric to the bit.
  const auto a_product = [unit = scaled(A, a.exponent), symmetric = a.exact](const double* x) {
    return accurate_symmetric_product(unit, symmetric, x);
  };
  const auto b_product = [unit = scaled(B, b.exponent), symmetric = b.exact](const double* x) {
    return accurate_symmetric_product(unit, symmetric, x);
  };
  const blas::Phase phase(blas::Work::product, 3.0 * static_cast<double>(n * n * n));
  std::vector<double>& r = b.data;
  const auto indefinite = [&](const std::string& why) {
    return std::invalid_argument(std::string(B.name) + " must be positive definite" + why +
                                 "; restrict both matrices to its range, or add to its diagonal");
  };
  if (!lapack::potrf(n, r.data(), n)) throw indefinite(", and has no Cholesky factor");
  // R^T R is B up to rounding of its norm, which must leave every direction of B.
  const double kappa = condition_bound(b_unit, r);
  const double noise = reduction_noise(n) * kappa;
  if (!(noise < 0.1)) throw indefinite(", and its condition number is about " + format(kappa));
  lapack::trsm('R', 'N', n, n, r.data(), n, a.data.data(), n);
  lapack::trsm('L', 'T', n, n, r.data(), n, a.data.data(), n);
  for (Index j = 0; j < n; ++j)
    for (Index i = 0; i < j; ++i) {
      double& upper = a.data[size(i + j * n)];
      upper = 0.5 * (upper + a.data[size(j + i * n)]);
    }
  mirror_upper(a.data.data(), n);
  const int unit = scale_exponent(a.view());
  rescale(a.data.data(), n * n, -unit);
  a.exponent = exponent + unit;
  a.name = A.name;
  Given of_m = given;
  of_m.forming = noise;
  std::string why;
  const auto decomposition = decompose_psd(
      std::move(a), of_m,
      std::max({given.rule.rtol, of_m.forming, noise * given.rule.precision / kEps}), why);
  if (!decomposition) throw std::invalid_argument(std::string(A.name) + why);
  auto [max, min] = decomposition->both();
  const auto certified = [&](End end, std::vector<double>& x) {
    Quotient q = finish(a_product, b_product, r, n, x);
    q.value = std::ldexp(q.value, -unit);
    // R's own rounding changes norms by a factor near one.
    q.residual = std::ldexp(2 * q.residual, -unit);
    const Ends& s = decomposition->ends();
    return certify(s, end, q.value, q.residual, s.below_min);
  };
  const Certificate top = certified(End::max, max.right), bottom = certified(End::min, min.right);
  ExtremePairs pairs = assemble(*decomposition, top, bottom, exponent + unit);
  const auto scaled_back = [&](std::vector<double>& x) {
    // x^T B x = 1 for the caller's B = 2^exponent b.
    const double half = std::ldexp(b_unit.exponent % 2 == 0 ? 1.0 : std::sqrt(2.0),
                                   (b_unit.exponent - (b_unit.exponent % 2 != 0)) / 2);
    for (double& entry : x) entry /= half;
    fix_signs(x, n);
  };
  scaled_back(max.right);
  scaled_back(min.right);
  pairs.u_max = pairs.v_max = std::move(max.right);
  pairs.u_min = pairs.v_min = std::move(min.right);
  return pairs;
}

}  // namespace immucond
