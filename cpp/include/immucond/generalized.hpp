#pragma once

#include "immucond/extreme.hpp"

namespace immucond {

/// The extreme eigenpairs A x = lambda B x of symmetric positive semidefinite A and definite B:
/// those of M = R^-T A R^-1, B = R^T R, with x = R^-1 w and x^T B x = 1. Certified by the residual
/// r = A x - lambda B x in double-double: some eigenvalue is within ||R^-T r|| / ||R x||.
ExtremePairs generalized_extreme_pairs(const MatrixView& A, const MatrixView& B,
                                       const Given& given);

}  // namespace immucond
