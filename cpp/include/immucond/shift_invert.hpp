#pragma once

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

  /// Whether all eigenvalues but one lie beyond the middle between an end and its neighbour, which
  /// is returned: where sign (A - middle I) + weight v v^T, v the end's vector, has a Cholesky
  /// factor. For by interlacing the second eigenvalue from an end of A is no further out than the
  /// first one of A plus a semidefinite matrix of rank one. It does not matter where v comes from.
  std::optional<double> isolated(const EndFound& end, double sign);

  /// The matrix as it was.
  void restore();

  InverseGramOperator inverse() const { return {a_, n_}; }

 private:
  bool factor(double shift, double sign, double weight, const double* v);

  double* a_;
  Index n_;
  std::vector<double> diagonal_;
  bool used_ = false;
};

/// Takes what a factorization proved for what is known of the neighbour: it lies no further out
/// than `middle`. False where the rounding of the proof reaches the end.
bool keep_proof(EndFound& end, double middle, double noise);

/// One end of A by inverses shifted to just outside of where it is seen, nearer each time. An end
/// further out, which the factorization then meets, proves that what was seen is not the end: at
/// the bottom the search begins anew, from zero and from random vectors. Nothing where it stalls,
/// or where the end is not separated.
std::optional<EndFound> invert_end(ShiftedFactor& A, End end, RitzPairs near, Index random,
                                   double tolerance);

}  // namespace immucond
