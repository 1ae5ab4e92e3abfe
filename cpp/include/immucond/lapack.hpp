#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "immucond/numeric.hpp"

namespace immucond {

/// BLAS and LAPACK as one table of function pointers, taken at run time from SciPy's capsules:
/// nothing to link, and one BLAS for everything in the process that uses SciPy's.
namespace lapack {

/// Every routine the core calls: (name, signature). In a signature `c` is char *, `i` the BLAS
/// integer *, `d` double *; all routines return void.
#define IMMUCOND_ROUTINES(X)      \
  X(dgemm, "cciiiddididdi")       \
  X(dsyrk, "cciiddiddi")          \
  X(dgemv, "ciiddididdi")         \
  X(dsymv, "ciddididdi")          \
  X(dtrmv, "cccididi")            \
  X(dtrsv, "cccididi")            \
  X(dtrsm, "cccciiddidi")         \
  X(dpotrf, "cidii")              \
  X(dpstrf, "cidiiiddi")          \
  X(dtrtri, "ccidii")             \
  X(dlauum, "cidii")              \
  X(dsytrd, "cididdddii")         \
  X(dormtr, "ccciididdidii")      \
  X(dgebrd, "iididddddii")        \
  X(dormbr, "ccciiididdidii")     \
  X(dstein, "iddidiididiii")      \
  X(dsteqr, "cidddidi")           \
  X(dgeqrf, "iididdii")           \
  X(dormqr, "cciiididdidii")      \
  X(dtpqrt, "iiiididididi")       \
  X(dtpmqrt, "cciiiiidididididi") \
  X(dgejsv, "cccccciididdididiii")

enum class Routine : int {
#define IMMUCOND_ENUM(name, signature) name,
  IMMUCOND_ROUTINES(IMMUCOND_ENUM)
#undef IMMUCOND_ENUM
      count
};

/// One entry of SciPy's `__pyx_capi__`: the routine's name, its C signature as Cython prints it,
/// and its address.
struct Capsule {
  std::string name;
  std::string signature;
  void* address;
};

/// Fill the table. Throws MissingRoutine, and leaves the table as it was, unless every routine is
/// there with the expected signature and one width of integer throughout.
void bind(const std::vector<Capsule>& capsules);

/// 32 or 64: the width of the BLAS integers in use.
int integer_bits();

/// How often each routine was called since the module was loaded.
std::vector<std::pair<std::string, std::uint64_t>> call_counts();

// The routines, by value and with 64-bit sizes whatever the table's width. A size that does not
// fit the table's integers is a std::length_error, a non-zero `info` a LapackError.

void gemm(char transa, char transb, Index m, Index n, Index k, double alpha, const double* a,
          Index lda, const double* b, Index ldb, double beta, double* c, Index ldc);
void syrk(char uplo, char trans, Index n, Index k, double alpha, const double* a, Index lda,
          double beta, double* c, Index ldc);
/// y = alpha op(A) x + beta y, A m x n.
void gemv(char trans, Index m, Index n, double alpha, const double* a, Index lda, const double* x,
          double beta, double* y);
/// y = A x for symmetric A, of which the triangle `uplo` is read.
void symv(char uplo, Index n, const double* a, Index lda, const double* x, double* y);
/// x <- op(R) x, and x <- op(R)^-1 x, for upper triangular R (n x n).
void trmv(char trans, Index n, const double* r, Index ldr, double* x);
void trsv(char trans, Index n, const double* r, Index ldr, double* x);
/// B (m x n) <- B op(R)^-1 ('R') or op(R)^-1 B ('L') for upper triangular R.
void trsm(char side, char trans, Index m, Index n, const double* r, Index ldr, double* b,
          Index ldb);
/// A = R^T R, R in the upper triangle; false where A is not positive definite.
bool potrf(Index n, double* a, Index lda);
/// P^T A P = R^T R to `tolerance` (absolute, of the diagonal), R in the first rows of the upper
/// triangle; returns its number of rows. Column j of P^T A P is column pivots[j] of A.
Index pstrf(Index n, double* a, Index lda, double tolerance, std::vector<Index>& pivots);
/// R <- R^-1, and R <- R R^T in the upper triangle, for upper triangular R (n x n); trtri is false
/// where R has a zero on its diagonal.
bool trtri(Index n, double* r, Index ldr);
void lauum(Index n, double* r, Index ldr);
/// A = Q T Q^T (lower triangle): T's diagonals to d and e, the reflectors stay in A and tau.
void sytrd(Index n, double* a, Index lda, double* d, double* e, double* tau);
/// C <- Q C with Q from sytrd.
void ormtr(Index n, Index columns, double* a, Index lda, const double* tau, double* c, Index ldc);
/// A = Q B P^T, m >= n: B upper bidiagonal, diagonals to d and e.
void gebrd(Index m, Index n, double* a, Index lda, double* d, double* e, double* tauq,
           double* taup);
/// C <- Q C with Q (m x m) from gebrd of an m x n matrix.
void ormbr_q(Index m, Index n, Index columns, double* a, Index lda, const double* tauq, double* c,
             Index ldc);
/// C <- P C with P (n x n) from gebrd.
void ormbr_p(Index n, Index columns, double* a, Index lda, const double* taup, double* c,
             Index ldc);
/// Eigenvectors of a symmetric tridiagonal matrix for eigenvalues w (ascending), by inverse
/// iteration, to the columns of z (n x count); false where some do not converge.
bool stein(Index n, const double* d, const double* e, Index count, const double* w, double* z);
/// All eigenvalues (to d, ascending) and eigenvectors of a symmetric tridiagonal matrix.
void steqr(Index n, double* d, double* e, double* z);
/// A = Q R; R to the upper triangle.
void geqrf(Index m, Index n, double* a, Index lda, double* tau);
/// C <- Q C with Q from geqrf of an m x k matrix.
void ormqr(Index m, Index k, Index columns, double* a, Index lda, const double* tau, double* c,
           Index ldc);
/// Q^T [A; B] = [R; 0] for upper triangular A and B (n x n): R to A, the reflectors to B and t
/// (triangle_block(n) x n), at a fifth of what geqrf takes for 2 n rows.
void tpqrt(Index n, double* a, double* b, double* t);
Index triangle_block(Index n);
/// [x; y] <- Q [x; y] with Q from tpqrt.
void tpmqrt(Index n, const double* b, const double* t, double* x, double* y);

/// A = U diag(sigma) V^T by one-sided Jacobi, m >= n, sigma descending, U m x n; A is overwritten.
void gejsv(Index m, Index n, double* a, Index lda, double* sigma, double* u, double* v);

}  // namespace lapack
}  // namespace immucond
