#pragma once

#include <memory>
#include <vector>

#include "immucond/decomposition.hpp"
#include "immucond/symmetric.hpp"

namespace immucond {

// The ends of a spectrum without a reduction: Lanczos where an end is separated as it stands, and
// Lanczos on a shifted inverse where it is not (Ericsson and Ruhe 1980). All return null where that
// does not apply or stalls, with their argument as it was: ends that are not simple, a rank that is
// not clear. The direct methods always do.

/// H = R^T R by Cholesky: the top by Lanczos on H, the bottom by Lanczos on (H - tau I)^-1, tau a
/// little below the smallest eigenvalue as far as it is known. With vectors to start from, and up
/// to orders where a factorization is the cheaper way, the top comes from (tau I - H)^-1 likewise,
/// and that both shifted matrices have Cholesky factors proves that nothing has crossed an end.
std::unique_ptr<Decomposition> iterate_psd(SymmetricMatrix& H, const Given& given);

/// H of known or evident rank k < n: P^T H P = R^T R by pivoted Cholesky, and then the definite
/// R R^T (k x k), whose spectrum is H's up to the trace of what the factorization leaves.
std::unique_ptr<Decomposition> iterate_semidefinite(const SymmetricMatrix& H, const Given& given);

/// Upper triangular R (n x n, column-major) of full rank: Lanczos on R^T R and on its inverse,
/// which keeps the digits of the smallest singular value that forming R^T R would lose.
std::unique_ptr<Decomposition> iterate_triangle(const std::vector<double>& r, Index n,
                                                const Given& given);

/// A general `a` (rows x cols, rows >= cols, column-major; `swapped`: the transpose of the matrix
/// meant) by its QR factorization.
std::unique_ptr<Decomposition> iterate_general(const std::vector<double>& a, Index rows, Index cols,
                                               bool swapped, const Given& given);

}  // namespace immucond
