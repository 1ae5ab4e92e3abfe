#pragma once

#include <memory>
#include <string>

#include "immucond/compensated.hpp"
#include "immucond/decomposition.hpp"
#include "immucond/symmetric.hpp"

// Which method a matrix takes: an iteration where it pays and its ends are clear, else a reduction;
// for features the Gram matrix where that carries their digits, else a QR.

namespace immucond {

/// Of a positive semidefinite H. Null where it is not, to `tolerance` (or the rounding of its
/// entries) relative to its largest eigenvalue, with `why` saying so.
std::unique_ptr<Decomposition> decompose_psd(SymmetricMatrix H, const Given& given,
                                             double tolerance, std::string& why);

/// Of a general S. A symmetric S whose eigenvalues are its singular values, as far as those count,
/// takes the way of decompose_psd.
std::unique_ptr<Decomposition> decompose(const MatrixView& S, const Given& given);

/// H = Z^T Z through the tall one, A, of Z and Z^T: the nonzero spectra of Z^T Z and Z Z^T agree.
/// Vectors live in the smaller space.
struct FeatureProblem {
  MatrixView A;       // N x m or m x N, scaled by 2^-exponent where its squares need it
  bool dual = false;  // A is Z^T
  int exponent = 0;
  SymmetricMatrix gram;                          // A^T A
  std::unique_ptr<Decomposition> decomposition;  // of A^T A
  double summing = 0.0;  // how far its sums may have moved an eigenvalue of `gram`, at worst
  // Where A is the QR factor of other rows: how many these are (else A's own number), what rounding
  // took in making it, relative to their largest singular value, and their x -> H x.
  Index rows = 0;
  double lost = 0.0;
  GramProduct product;
};
FeatureProblem decompose_features(const MatrixView& Z, const Given& given, double lost = 0.0);

}  // namespace immucond
