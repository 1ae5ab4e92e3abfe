#include "gram.hpp"

#include <algorithm>
#include <stdexcept>

#include "libraries.hpp"

namespace immucond::cuda {
namespace {

constexpr std::int64_t kDouble = sizeof(double);

struct Rows {
  const double* data;
  int leading;
};

/// Rows `first` on of X in float64: where they lie so already, else converted in `workspace`.
Rows rows_of(const DeviceMatrix& X, std::int64_t first, std::int64_t count, double* workspace,
             void* stream) {
  if (const GramPlan plan = plan_gram(X, false); plan.direct && !plan.transposed)
    return {static_cast<const double*>(X.data) + first * plan.leading, blas_int(plan.leading)};
  widen_rows(X, first, count, workspace, stream);
  return {workspace, blas_int(X.cols)};
}

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
      const Rows rows = rows_of(X, first, count, workspace, stream);
      dsyrk(stream, false, d, blas_int(count), 1.0, rows.data, rows.leading, first == 0 ? 0.0 : 1.0,
            out, d);
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
    const Rows rows = rows_of(X, first, count, workspace, stream);
    // By columns: (X theta)^T (m x count) = theta^T (m x d) X^T (d x count).
    dgemm(stream, false, width, count, d, 1.0, theta, width, rows.data, rows.leading, 0.0, features,
          width);
    dsyrk(stream, false, width, count, 1.0, features, width, first == 0 ? 0.0 : 1.0, out, width);
  }
  mirror_lower(m, out, stream);
}

std::int64_t times_workspace(const DeviceMatrix& A, std::int64_t columns) {
  return rows_of_block(A.rows, A.cols + columns) * (A.cols + columns) * kDouble;
}

void times(const DeviceMatrix& A, double scale, const double* B, const Destination& out,
           double* workspace, void* stream) {
  const std::int64_t block = rows_of_block(A.rows, A.cols + out.cols);
  double* product = workspace + block * A.cols;
  const int n = blas_int(A.cols), width = blas_int(out.cols);
  for (std::int64_t first = 0; first < A.rows; first += block) {
    const int count = blas_int(std::min(block, A.rows - first));
    const Rows rows = rows_of(A, first, count, workspace, stream);
    // By columns: (A B)^T (width x count) = B^T (width x n) A^T (n x count).
    dgemm(stream, true, width, count, n, scale, B, n, rows.data, rows.leading, 0.0, product, width);
    store_rows(product, first, count, out, stream);
  }
}

}  // namespace immucond::cuda
