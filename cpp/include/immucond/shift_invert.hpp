#pragma once

#include <cmath>
#include <optional>
#include <vector>

#include "immucond/ends.hpp"
#include "immucond/lanczos.hpp"
#include "immucond/operator.hpp"

namespace immucond {

/// Products after which an iteration is given up: by then a reduction is cheaper.
inline constexpr Index kMostProducts = 400;

/// The eigenvalue at one end, its neighbour, and the vectors of both (n x 2).
struct EndFound {
  double value = 0.0, next = 0.0, next_error = 0.0;
  std::vector<double> vectors;
  double middle() const { return value + (next - value) / 2; }
};
EndFound end_of(RitzPairs pairs);

/// Ritz pairs of sign (A - shift I)^-1 as those of A: an error rho of theta is one of
/// rho / (theta (theta - rho)) in shift + sign / theta.
RitzPairs unshifted(RitzPairs pairs, double shift, double sign);

/// Cholesky factors of shifted matrices, made in the upper triangle of a symmetric matrix
/// (n x n, column-major), whose lower triangle stays.
class ShiftedFactor {
 public:
  ShiftedFactor(double* a, Index n);

  /// sign (A - shift I) = R^T R; false where that is not definite.
  bool factor(double shift, double sign) { return factor(shift, sign, 0.0, nullptr); }

  /// Whether all eigenvalues but one lie beyond the middle between an end and its neighbour: where
  /// sign (A - middle I) + weight v v^T, v the end's vector, has a Cholesky factor. For by
  /// interlacing the second eigenvalue from an end of A is no further out than the first one of A
  /// plus a semidefinite matrix of rank one. It does not matter where v and the middle come from.
  bool isolates(const EndFound& end, double sign);

  /// One end of A, and that it is the end, by the one factor that `isolates` makes where both are
  /// seen well enough: -sign (A - middle I)^-1 has the end at its top, alone above zero. Nothing
  /// where that fails or stalls.
  std::optional<EndFound> settle(const EndFound& near, double sign, double tolerance);

  /// The matrix as it was.
  void restore();

  InverseGramOperator inverse() const { return {a_, n_}; }

 private:
  bool factor(double shift, double sign, double weight, const double* v);
  static double weight(const EndFound& end) { return 3 * std::fabs(end.value - end.middle()); }

  double* a_;
  Index n_;
  std::vector<double> diagonal_;
  bool used_ = false;
};

/// Takes what a factorization proved for what is known of the neighbour: it lies no further out
/// than `middle`. False where the rounding of the proof reaches the end.
bool keep_proof(EndFound& end, double middle, double noise);

/// The bottom of A and its neighbour, told apart by inverses shifted to just below where it is
/// seen, nearer each time. Where the factorization meets a lower end the search begins anew, from
/// zero and from random vectors. Nothing where it stalls, or where the end is not separated.
std::optional<EndFound> approach_bottom(ShiftedFactor& A, RitzPairs near, Index random,
                                        double tolerance);

}  // namespace immucond
