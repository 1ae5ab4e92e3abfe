#include "gram_plan.hpp"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>

namespace immucond::cuda {
namespace {

constexpr std::int64_t kBlockBytes = std::int64_t{64} << 20;
constexpr std::int64_t kDouble = sizeof(double);

}  // namespace

int blas_int(std::int64_t size) {
  if (size > std::numeric_limits<int>::max())
    throw std::length_error("a size of " + std::to_string(size) +
                            " does not fit cuBLAS's 32-bit integers");
  return static_cast<int>(size);
}

std::int64_t rows_of_block(std::int64_t rows, std::int64_t doubles) {
  return std::clamp<std::int64_t>(kBlockBytes / (doubles * kDouble), 1, rows);
}

GramPlan plan_gram(const DeviceMatrix& X, bool narrow) {
  blas_int(X.cols);
  GramPlan plan;
  const bool one_row = X.rows == 1, one_column = X.cols == 1;
  const bool by_rows = (one_column || X.col_stride == 1) && (one_row || X.row_stride >= X.cols);
  const bool by_columns = (one_row || X.row_stride == 1) && (one_column || X.col_stride >= X.rows);
  const std::int64_t most = std::numeric_limits<int>::max();
  plan.transposed = !by_rows;
  plan.leading = by_rows ? (one_row ? X.cols : X.row_stride) : (one_column ? X.rows : X.col_stride);
  const bool fits = X.rows <= most && plan.leading <= most;
  plan.direct = (narrow || X.dtype == Dtype::f64) && (by_rows || by_columns) && fits;
  if (plan.direct) {
    plan.block_rows = X.rows;
    return plan;
  }
  plan.transposed = false;
  plan.leading = X.cols;
  plan.block_rows = rows_of_block(X.rows, X.cols);
  plan.workspace_bytes = plan.block_rows * X.cols * kDouble;
  return plan;
}

}  // namespace immucond::cuda
