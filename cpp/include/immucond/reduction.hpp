#pragma once

#include "immucond/numeric.hpp"

namespace immucond {

/// A = Q T Q^T for symmetric A (n x n, column-major; its lower triangle is read): T's diagonal to
/// d, what is beside it to e. The reflectors of Q are left where LAPACK's dsytrd leaves them, below
/// A's diagonal and in tau; e and tau have n - 1 entries.
void tridiagonalize(Index n, double* a, Index lda, double* d, double* e, double* tau);

/// C <- Q C with Q from `tridiagonalize`.
void apply_reflectors(Index n, Index columns, double* a, Index lda, const double* tau, double* c,
                      Index ldc);

}  // namespace immucond
