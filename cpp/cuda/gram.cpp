#include "gram.hpp"

#include <algorithm>
#include <stdexcept>

#include "libraries.hpp"

namespace immucond::cuda {
namespace {

constexpr std::int64_t kDouble = sizeof(double);

}  // namespace

void gram(const DeviceMatrix& X, double* out, double* workspace, void* stream) {
  const GramPlan plan = plan_gram(X, false);
  const int d = blas_int(X.cols), ld = blas_int(plan.leading);
  if (plan.direct) {
    dsyrk(stream, plan.transposed, d, blas_int(X.rows), 1.0, static_cast<const double*>(X.data), ld,
          0.0, out, d);
  } else {
    for (std::int64_t first = 0; first < X.rows; first += plan.block_rows) {
      const std::int64_t count = std::min(plan.block_rows, X.rows - first);
      widen_rows(X, first, count, workspace, stream);
      dsyrk(stream, false, d, blas_int(count), 1.0, workspace, d, first == 0 ? 0.0 : 1.0, out, d);
    }
  }
  mirror_lower(X.cols, out, stream);
}

void narrow_gram(const DeviceMatrix& X, float* out, void* stream) {
  const GramPlan plan = plan_gram(X, true);
  if (X.dtype == Dtype::f64 || !plan.direct)
    throw std::invalid_argument(
        "X must hold float32, float16 or bfloat16 by rows or by columns for a Gram matrix in "
        "float32; make it contiguous, or ask for float64");
  const int d = blas_int(X.cols);
  const Narrow dtype = X.dtype == Dtype::f32   ? Narrow::f32
                       : X.dtype == Dtype::f16 ? Narrow::f16
                                               : Narrow::bf16;
  narrow_gram(stream, dtype, plan.transposed, d, blas_int(X.rows), X.data, blas_int(plan.leading),
              0.0f, out, d);
}

std::int64_t feature_hessian_workspace(const DeviceMatrix& X, std::int64_t m) {
  // A block of X in float64, and the same rows of X theta.
  return rows_of_block(X.rows, X.cols + m) * (X.cols + m) * kDouble;
}

void feature_hessian(const DeviceMatrix& X, const double* theta, std::int64_t m, double* out,
                     double* workspace, void* stream) {
  const std::int64_t block = rows_of_block(X.rows, X.cols + m);
  double* features = workspace + block * X.cols;
  const int d = blas_int(X.cols), width = blas_int(m);
  for (std::int64_t first = 0; first < X.rows; first += block) {
    const int count = blas_int(std::min(block, X.rows - first));
    widen_rows(X, first, count, workspace, stream);
    // By columns: (X theta)^T (m x count) = theta^T (m x d) X^T (d x count).
    dgemm(stream, false, false, width, count, d, 1.0, theta, width, workspace, d, 0.0, features,
          width);
    dsyrk(stream, false, width, count, 1.0, features, width, first == 0 ? 0.0 : 1.0, out, width);
  }
  mirror_lower(m, out, stream);
}

std::int64_t feature_gradient_workspace(const DeviceMatrix& A) {
  return rows_of_block(A.rows, 2 * A.cols) * 2 * A.cols * kDouble;
}

void feature_gradient(const DeviceMatrix& A, const double* G, void* out, bool wide,
                      std::int64_t row_stride, std::int64_t col_stride, double* workspace,
                      void* stream) {
  const std::int64_t block = rows_of_block(A.rows, 2 * A.cols);
  double* product = workspace + block * A.cols;
  const int n = blas_int(A.cols);
  for (std::int64_t first = 0; first < A.rows; first += block) {
    const int count = blas_int(std::min(block, A.rows - first));
    widen_rows(A, first, count, workspace, stream);
    // By columns: (2 A G)^T = 2 G A^T.
    dgemm(stream, false, false, n, count, n, 2.0, G, n, workspace, n, 0.0, product, n);
    store_rows(product, first, count, A.cols, out, wide, row_stride, col_stride, stream);
  }
}

}  // namespace immucond::cuda
