#pragma once

#include <stdexcept>
#include <string>
#include <vector>

namespace immucond::cuda {

/// cuBLAS and cuSOLVER as one table of function pointers, found at run time in libraries that are
/// there already: no headers, nothing to link. Every entry: (name, signature); in a signature
/// `h` is a handle, `i` int, `p` an address; all return a status, 0 for success.
#define IMMUCOND_CUBLAS(X)               \
  X(cublasCreate_v2, "p")                \
  X(cublasSetStream_v2, "hp")            \
  X(cublasDsyrk_v2, "hiiiippippi")       \
  X(cublasDgemm_v2, "hiiiiippipippi")    \
  X(cublasGemmEx, "hiiiiippiipiippiiii") \
  X(cublasDsymv_v2, "hiippipippi")
#define IMMUCOND_CUSOLVER(X)                 \
  X(cusolverDnCreate, "p")                   \
  X(cusolverDnSetStream, "hp")               \
  X(cusolverDnDpotrf_bufferSize, "hiipip")   \
  X(cusolverDnDpotrf, "hiipipip")            \
  X(cusolverDnDpotri_bufferSize, "hiipip")   \
  X(cusolverDnDpotri, "hiipipip")            \
  X(cusolverDnDsyevd_bufferSize, "hiiipipp") \
  X(cusolverDnDsyevd, "hiiipippip")

/// No library with all the entries was found.
struct MissingLibrary : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// A call of cuBLAS or cuSOLVER failed.
struct LibraryError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Takes each library from the first of its candidates (sonames or paths) that is loaded already,
/// or else that loads; once a process. Throws MissingLibrary with the reasons, and binds nothing.
struct Bound {
  std::string cublas, cusolver;
};
Bound bind_libraries(const std::vector<std::string>& cublas,
                     const std::vector<std::string>& cusolver);
bool libraries_bound();

// The routines on the current device and the stream, matrices column-major. Every thread has
// handles of its own, which outlive it for the next one. Scalars are the host's.

/// The lower triangle of C (n x n) = alpha op(A) op(A)^T + beta C; `transposed`: A is k x n.
void dsyrk(void* stream, bool transposed, int n, int k, double alpha, const double* a, int lda,
           double beta, double* c, int ldc);
/// C (m x n) = alpha op(A) B + beta C; `transposed`: A is k x m.
void dgemm(void* stream, bool transposed, int m, int n, int k, double alpha, const double* a,
           int lda, const double* b, int ldb, double beta, double* c, int ldc);
/// y = A x for symmetric A, of which the lower triangle is read.
void dsymv(void* stream, int n, const double* a, int lda, const double* x, double* y);

enum class Narrow { f32, f16, bf16 };
/// C (n x n, float32) = A A^T by tensor cores, float32 accumulation; `transposed`: A is k x n.
/// float32 entries are rounded to TF32.
void narrow_gram(void* stream, Narrow dtype, bool transposed, int n, int k, const void* a, int lda,
                 float beta, float* c, int ldc);

/// Doubles of workspace that `potrf` and `potri`, and that `syevd`, ask for.
int inverse_workspace(int n, double* a, int lda);
int syevd_workspace(int n, double* a, int lda, double* w);
/// The inverse of a positive definite A in its lower triangle; info[0] is not 0 where A is not
/// definite, info[1] where its factor is singular.
void inverse(void* stream, int n, double* a, int lda, double* work, int lwork, int* info);
/// All eigenvalues, ascending, to w; eigenvectors to the columns of A.
void syevd(void* stream, int n, double* a, int lda, double* w, double* work, int lwork, int* info);

}  // namespace immucond::cuda
