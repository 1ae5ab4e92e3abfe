#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "immucond/choose.hpp"

namespace immucond {

/// Both extreme singular triplets, each with a certified bound on |sigma - true sigma|: a residual
/// in double-double, and where a gap isolates the end its Rayleigh quotient and residual^2 / gap
/// (Temple-Kato).
struct ExtremePairs {
  double sigma_max = 0.0, sigma_min = 0.0, frobenius = 0.0;  // infinite or 0 beyond float64's range
  double unit_max = 0.0, unit_min = 0.0;  // the same sigmas in units of 2^exponent
  int exponent = 0;
  double gap_max = 0.0, gap_min = 0.0, bound_max = 0.0, bound_min = 0.0;
  bool simple_max = true, simple_min = true;
  bool determined = true, determined_min = true;  // sigma_min in units of 2^exponent, and itself
  Index rank = 0;
  std::vector<double> u_max, v_max, u_min, v_min;
  std::vector<double> next_max, next_min;  // right vectors of the neighbours, where they are known
  const char* method = "";
};

ExtremePairs psd_extreme_pairs(const MatrixView& H, const Given& given);
ExtremePairs extreme_pairs(const MatrixView& S, const Given& given);
ExtremePairs feature_extreme_pairs(const MatrixView& Z, const Given& given);

/// Rows that are known by their QR factor R: how many, what rounding lost in making R relative to
/// their largest singular value, and (x, e) -> 2^-2e A^T (A x).
struct Factored {
  Index count;
  double lost;
  std::function<DoubleDoubleVector(const DoubleDoubleVector&, int)> product;
};
/// Pairs of H = A^T A for such rows A (N x m, N >= m), R (m x m), the small end refined by the
/// rows.
ExtremePairs triangle_extreme_pairs(const MatrixView& R, const Factored& rows, const Given& given);

/// sigma, and a bound on its error.
struct Certificate {
  double sigma, bound;
};

/// From an approximate eigenvector's Rayleigh quotient and residual norm; `below`: what may lie
/// below the last nonzero singular value.
Certificate certify(const Ends& s, End end, double rayleigh, double residual,
                    std::optional<double> below);

/// Everything but the vectors, from certificates in units of 2^exponent.
ExtremePairs assemble(const Decomposition& decomposition, const Certificate& top,
                      const Certificate& bottom, int exponent);

/// The certified pairs of a problem that is decomposed already; those of 2^exponent (A + A^T) / 2
/// for A = `unit`, which is `symmetric` where it is so to the bit.
ExtremePairs certified_psd(const MatrixView& unit, bool symmetric, int exponent,
                           const Decomposition& decomposition);
ExtremePairs certified_general(const MatrixView& S, const Decomposition& decomposition);
ExtremePairs certified_features(const FeatureProblem& problem);

}  // namespace immucond
