#pragma once

#include <cmath>

#include "immucond/double_double.hpp"
#include "immucond/numeric.hpp"

// The rules: what counts as zero, what as equal, which digits a Gram matrix carries, and what the
// built-in regularizers make of a spectrum. The host and the device include them, and Python calls
// them through _core; nothing else states them.
//
// Singular values sigma_1 >= ... >= sigma_p, of which the first k are nonzero; F = sum sigma_i^2.

namespace immucond {

/// The spacing of float32 numbers at 1; that of a half-precision format is larger.
inline constexpr double kSingleEps = 0x1p-23;

// ---- rounding ----

/// What orthogonal reductions of n rows leave in each singular value, relative to the largest: the
/// usual sqrt(n) growth with a margin of four, and no less than small matrices show. The same for
/// entries that were computed at another precision.
IMMUCOND_EVERYWHERE double reduction_noise(Index n, double eps = kEps) {
  return 4.0 * eps * std::sqrt(static_cast<double>(n > 16 ? n : 16));
}

/// What QR of features leaves: of more than 128 columns LAPACK goes by blocks, and the products of
/// these add up hundreds of rows in one go. Constant columns, whose rounding has one sign, were
/// seen to leave 106 eps, up to 600 columns.
IMMUCOND_EVERYWHERE double qr_noise(Index columns, double eps = kEps) {
  return reduction_noise(columns > 128 && columns < 1024 ? 1024 : columns, eps);
}

/// Rows of a Gram matrix that are summed in one go: few, so that equal rows, whose rounding has one
/// sign, leave little; many against the columns, so that adding the sums up costs little.
IMMUCOND_EVERYWHERE Index summed_rows(Index columns) {
  return 8 * columns > 1024 ? 8 * columns : 1024;
}

/// What the sums of a Gram matrix leave in each eigenvalue, relative to the largest.
IMMUCOND_EVERYWHERE double summation_noise(Index rows, Index columns) {
  const Index most = summed_rows(columns);
  return reduction_noise(rows < most ? rows : most);
}

/// The same where the sums of all blocks are added up as they are, without keeping their rounding.
IMMUCOND_EVERYWHERE double plain_summation_noise(Index rows, Index columns) {
  const Index most = summed_rows(columns);
  return reduction_noise((rows < most ? rows : most) + rows / most);
}

/// What these sums come to at worst, relative to the trace, whoever chose the rows: each product
/// and each sum in one go rounds by u ||x_i|| ||x_j|| at most (Higham 2002, Sec. 3.1). With a
/// margin for the sum of the blocks.
IMMUCOND_EVERYWHERE double worst_summation(Index rows, Index columns) {
  const Index most = summed_rows(columns);
  return (static_cast<double>(rows < most ? rows : most) + 8) * (kEps / 2);
}

/// The skew, relative to the largest entry, that rounding explains; more than 2^-6 is no rounding,
/// at any precision.
IMMUCOND_EVERYWHERE double largest_skew(Index n, double eps) {
  return std::fmin(0x1p-6, reduction_noise(n, eps));
}

/// How far below zero, relative to the largest, rounding may move an eigenvalue of a positive
/// semidefinite matrix; more than a quarter is no rounding, at any precision.
IMMUCOND_EVERYWHERE double largest_negative(Index n, double eps) {
  return std::fmin(0.25, 10 * reduction_noise(n, std::fmax(kEps, eps)));
}

// ---- rank ----

/// What the entries are, which decides what their rounding leaves: a matrix; features (N x m), one
/// row a sample; the Gram matrix of features, summed in float64; a matrix made of such a one.
enum class Data : int { matrix, features, gram, product };

/// What is known of the entries. The rank k is `rank` where that is positive, or else the number of
/// singular values of *what was given* above `rtol` times the largest and above what rounding the
/// entries once may have added, `rounded` ||A||_F. `precision`: a quarter of what the entries'
/// rounding comes to in norm, relative to the largest singular value.
struct Rule {
  Index rank = 0;
  double rtol = 0.0, precision = kEps, rounded = 0.0;
};

/// Half-precision entries were computed in float32 and rounded once, by at most eps / 2 of each:
/// their rounding comes to eps / 2 where that of sums comes to 4 eps.
inline constexpr double kRoundedOnce = 0x1p-3;

IMMUCOND_EVERYWHERE double default_rtol(Index rows, Index columns, double eps, Data data);

/// r with ||E|| <= r ||A||_F for what rounding each entry once added, on top of what float32 had
/// accumulated; 0 for entries that are not half-precision ones.
IMMUCOND_EVERYWHERE double half_rounding(Index rows, Index columns, double eps, Data data) {
  if (data == Data::product || !(eps > kSingleEps)) return 0.0;
  return eps / 2 + default_rtol(rows, columns, kSingleEps, data);
}

/// The relative tolerance on singular values that decides rank: max(shape) eps for a matrix, as in
/// numpy.linalg.matrix_rank; 4 sqrt(m) eps for features, whose noise does not grow with N, and no
/// less than QR in float64 leaves of a column that depends on others; for a Gram matrix its square,
/// and no less than what a block of the sum leaves. In half precision the most that rounding once
/// comes to, with ||A||_F <= sqrt(min(shape)) sigma_1.
IMMUCOND_EVERYWHERE double default_rtol(Index rows, Index columns, double eps, Data data) {
  if (data == Data::gram) {
    const double features = default_rtol(rows, columns, eps, Data::features);
    return std::fmax(features * features, reduction_noise(summed_rows(columns)));
  }
  const Index longer = rows > columns ? rows : columns, shorter = rows > columns ? columns : rows;
  if (const double rounded = half_rounding(rows, columns, eps, data); rounded > 0.0)
    return std::sqrt(static_cast<double>(shorter)) * rounded;
  if (data != Data::features) return static_cast<double>(longer) * eps;
  return std::fmax(4.0 * std::sqrt(static_cast<double>(columns)) * eps, qr_noise(columns));
}

/// The rule for entries of these sizes computed at this precision. rank = 0: not known; rtol < 0:
/// the default, of which one beyond 1/2 (of a matrix with millions of columns) would leave nothing.
IMMUCOND_EVERYWHERE Rule rank_rule(Index rows, Index columns, double eps, Data data, Index rank,
                                   double rtol) {
  Rule rule{rank, rtol, eps, 0.0};
  if (const double rounded = half_rounding(rows, columns, eps, data); rounded > 0.0) {
    rule.precision *= kRoundedOnce;
    if (rank == 0 && rtol < 0.0) rule.rounded = rounded;
  }
  if (rtol < 0.0) {
    const double accumulated = rule.rounded > 0.0 ? kSingleEps : eps;
    rule.rtol = std::fmin(0.5, default_rtol(rows, columns, accumulated, data));
  }
  return rule;
}

/// What a singular value must exceed to count; `floor` is the norm of what rounding once may have
/// added, since a matrix of rank k has, rounded, no more than k singular values above it (Weyl).
IMMUCOND_EVERYWHERE double cut(double rtol, double sigma_max, double floor) {
  return std::fmax(rtol * sigma_max, floor);
}

/// That floor for a matrix with these squares, F.
IMMUCOND_EVERYWHERE double matrix_floor(const Rule& rule, double squares) {
  return rule.rounded > 0.0 ? rule.rounded * std::sqrt(squares) : 0.0;
}

/// That floor for the eigenvalues of Z^T Z with this trace, ||Z||_F^2.
IMMUCOND_EVERYWHERE double gram_floor(const Rule& rule, double trace) {
  return rule.rounded * rule.rounded * trace;
}

/// The tolerance on the eigenvalues of Z^T Z for one on the singular values of Z: its square, above
/// the noise of the Gram matrix.
IMMUCOND_EVERYWHERE double gram_rtol(const Rule& rule, double noise) {
  return std::fmax(rule.rtol * rule.rtol, noise);
}

/// Beyond this relative error in its smallest eigenvalue a Gram matrix is given up for a QR of the
/// features.
inline constexpr double kGramTolerance = 1e-6;

/// Whether a Gram matrix of order n with this relative noise shows the rank k of the features, and
/// carries the digits of its smallest nonzero eigenvalue.
IMMUCOND_EVERYWHERE bool gram_carries(const Rule& rule, double sigma_max, double sigma_min,
                                      Index rank, Index n, double noise, double floor) {
  const bool rank_seen =
      rule.rank > 0 || rule.rtol * rule.rtol >= noise || floor >= noise * sigma_max || rank == n;
  return rank_seen && noise * sigma_max < kGramTolerance * sigma_min;
}

// ---- ties ----

/// How far the data's own rounding and the method's `noise` may move the singular values near
/// sigma: closer ones are tied. `features`: sigma is an eigenvalue of Z^T Z, and the precision that
/// of Z's entries.
///
/// Rounding of about r sigma_1 in norm, whatever the size, moves a singular value of what was given
/// by as much: of Z^T Z an eigenvalue by (sqrt(sigma) + r sqrt(sigma_1))^2 - sigma.
IMMUCOND_EVERYWHERE double tie_width(double sigma, double sigma_max, double noise, double precision,
                                     bool features) {
  const double r = 4 * precision, step = r * sigma_max;
  const double moved = features ? 2 * std::sqrt(sigma) * r * std::sqrt(sigma_max) + r * step : step;
  return noise + moved;
}

/// Neighbours closer than so many tie widths are left to methods that count eigenvalues.
inline constexpr double kClear = 32.0;

/// Whether an end is simple for certain: so far from its neighbour, which is known up to `error`.
IMMUCOND_EVERYWHERE bool clearly_simple(double distance, double width, double error) {
  return distance > kClear * width + error;
}

// ---- regularizers ----

/// What a regularizer sees of a spectrum: p sigma_1^2 - F and F - k sigma_k^2 come without
/// cancellation.
struct Spectrum {
  Index p = 0, rank = 0;
  double sigma_max = 0.0, sigma_min = 0.0, below_max = 0.0, above_min = 0.0;
  bool all_tied = false;  // all nonzero singular values are equal, to rounding
};

/// count sigma^2 - squares.
IMMUCOND_EVERYWHERE double excess(double sigma, Index count, DoubleDouble squares) {
  return (two_product(sigma, sigma) * static_cast<double>(count) + -squares).value();
}

IMMUCOND_EVERYWHERE Spectrum spectrum_of(Index p, Index rank, double sigma_max, double sigma_min,
                                         DoubleDouble squares, bool all_tied) {
  if (all_tied) sigma_min = sigma_max;  // what differs is rounding
  const double below = excess(sigma_max, p, squares), above = -excess(sigma_min, rank, squares);
  return {p,       rank, sigma_max, sigma_min, below > 0.0 ? below : 0.0, above > 0.0 ? above : 0.0,
          all_tied};
}

/// How many singular values p counts, beside a number of them: all there are, or the nonzero ones.
inline constexpr Index kAllValues = 0, kNonzeroValues = -1;

IMMUCOND_EVERYWHERE Index counted(Index p, Index all, Index rank) {
  return p == kAllValues ? all : p == kNonzeroValues ? rank : p;
}

/// A spectral regularizer r(sigma_1, sigma_k, F) at one spectrum: its value, and the coefficients
/// of
///
///     grad_S r = alpha u_1 v_1^T + beta u_k v_k^T + gamma S,
///
/// in the spectrum's own units.
struct Coefficients {
  double value = 0.0, alpha = 0.0, beta = 0.0, gamma = 0.0;
};

/// The regularizers that come with the library; `none` where pairs alone are wanted.
enum class BuiltIn : int { none, r_well, r_ill, kappa, log_kappa };

/// The degree of homogeneity: r(c S) = c^degree r(S).
IMMUCOND_EVERYWHERE int degree_of(BuiltIn regularizer) {
  return regularizer == BuiltIn::r_well ? 2 : regularizer == BuiltIn::r_ill ? -2 : 0;
}

/// Infinite where r is, and where a coefficient overflows.
IMMUCOND_EVERYWHERE Coefficients coefficients(BuiltIn regularizer, const Spectrum& s) {
  const double p = static_cast<double>(s.p), k = static_cast<double>(s.rank);
  switch (regularizer) {
    case BuiltIn::r_well:
      return {s.below_max / (2 * p), s.sigma_max, 0.0, -1.0 / p};
    case BuiltIn::r_ill: {
      const double D = s.above_min / (2 * k), square = D * D;
      return {1.0 / D, 0.0, s.sigma_min / square, -1.0 / (k * square)};
    }
    case BuiltIn::kappa: {
      const double ratio = s.sigma_max / s.sigma_min;
      return {ratio, 1.0 / s.sigma_min, -ratio / s.sigma_min, 0.0};
    }
    case BuiltIn::log_kappa:
      return {std::log1p((s.sigma_max - s.sigma_min) / s.sigma_min), 1.0 / s.sigma_max,
              -1.0 / s.sigma_min, 0.0};
    case BuiltIn::none:
      break;
  }
  return {};
}

}  // namespace immucond
