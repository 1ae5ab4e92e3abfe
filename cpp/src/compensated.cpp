#include "immucond/compensated.hpp"

#include <algorithm>
#include <cstdlib>

#include "immucond/multiversion.hpp"

namespace immucond {
namespace {

constexpr Index kLanes = 16;

/// a . b, with the rounding errors of products and sums summed beside it.
IMMUCOND_MULTIVERSION DoubleDouble dot2(const double* a, const double* b, Index n) {
  double hi[kLanes] = {}, lo[kLanes] = {};
  const Index main = n - n % kLanes;
  for (Index i = 0; i < main; i += kLanes)
    for (Index lane = 0; lane < kLanes; ++lane) {
      const DoubleDouble product = two_product(a[i + lane], b[i + lane]);
      const DoubleDouble sum = two_sum(hi[lane], product.hi);
      hi[lane] = sum.hi;
      lo[lane] += sum.lo + product.lo;
    }
  // Side by side: one lane after the other would take longer than a short row.
  for (Index half = kLanes / 2; half >= 4; half /= 2)
    for (Index lane = 0; lane < half; ++lane) {
      const DoubleDouble sum = two_sum(hi[lane], hi[lane + half]);
      hi[lane] = sum.hi;
      lo[lane] += lo[lane + half] + sum.lo;
    }
  DoubleDouble total;
  for (Index lane = 0; lane < 4; ++lane) total = total + DoubleDouble{hi[lane], lo[lane]};
  for (Index i = main; i < n; ++i) total = total + two_product(a[i], b[i]);
  return total;
}

/// y <- y + x (w_hi + w_lo) in double-double.
IMMUCOND_MULTIVERSION void axpy2(DoubleDouble w, const double* x, Index n, double* y_hi,
                                 double* y_lo) {
  for (Index j = 0; j < n; ++j) {
    const DoubleDouble product = two_product(x[j], w.hi);
    const DoubleDouble sum = two_sum(y_hi[j], product.hi);
    y_hi[j] = sum.hi;
    y_lo[j] += sum.lo + (product.lo + x[j] * w.lo);
  }
}

/// Products read the caller's array where they can: a scale that overflows nothing is taken off the
/// matrix and put on the result.
double take_scale(MatrixView& A) {
  const double scale = A.scale;
  if (scale < 0x1p-300 || scale > 0x1p300) return 1.0;
  A.scale = 1.0;
  return scale;
}

void multiply(DoubleDoubleVector& y, double power_of_two) {
  for (double& x : y.hi) x *= power_of_two;
  for (double& x : y.lo) x *= power_of_two;
}

/// visit(row index, row) for every row, contiguous and in float64.
template <class Visit>
void for_each_row(const MatrixView& A, Visit visit) {
  RowBlocks blocks(A, 0, /*row_major=*/true);
  for (Dense block{}; blocks.next(block);)
    for (Index i = 0; i < block.rows; ++i) visit(blocks.first_row() + i, block.data + i * block.ld);
}

/// sum over rows of row_i weight(i, row_i), times scale^degree of A, where the weights have
/// `degree` one less.
template <class Weight>
DoubleDoubleVector weighted_rows(MatrixView A, int degree, Weight weight) {
  const double scale = take_scale(A);
  DoubleDoubleVector y(A.cols);
  for_each_row(A, [&](Index i, const double* row) {
    axpy2(weight(i, row), row, A.cols, y.hi.data(), y.lo.data());
  });
  for (int i = 0; i < degree; ++i) multiply(y, scale);
  return y;
}

}  // namespace

IMMUCOND_MULTIVERSION void add_compensated(const double* x, Index n, double* sum, double* rest) {
  for (Index i = 0; i < n; ++i) {
    const DoubleDouble total = two_sum(sum[i], x[i]);
    sum[i] = total.hi;
    rest[i] += total.lo;
  }
}

DoubleDouble sum_of_squares(const double* a, Index n) { return dot2(a, a, n); }

DoubleDoubleVector accurate_product(const MatrixView& A, const double* x) {
  MatrixView matrix = A;
  const double scale = take_scale(matrix);
  DoubleDoubleVector y(A.rows);
  for_each_row(matrix, [&](Index i, const double* row) {
    const DoubleDouble value = dot2(row, x, A.cols);
    y.hi[size(i)] = value.hi;
    y.lo[size(i)] = value.lo;
  });
  multiply(y, scale);
  return y;
}

DoubleDoubleVector accurate_symmetric_product(const MatrixView& A, bool symmetric,
                                              const double* x) {
  // Along the rows, whichever way they lie.
  const bool by_columns = std::abs(A.row_stride) < std::abs(A.col_stride);
  const MatrixView rows = by_columns ? A.transposed() : A;
  DoubleDoubleVector y = accurate_product(rows, x);
  if (symmetric) return y;
  const DoubleDoubleVector transposed = accurate_transposed_product(rows, x);
  for (Index i = 0; i < A.rows; ++i) {
    const DoubleDouble mean = (y[i] + transposed[i]) * 0.5;
    y.hi[size(i)] = mean.hi;
    y.lo[size(i)] = mean.lo;
  }
  return y;
}

DoubleDoubleVector accurate_gram_product(const MatrixView& A, const double* x) {
  return weighted_rows(A, 2, [&](Index, const double* row) { return dot2(row, x, A.cols); });
}

DoubleDoubleVector accurate_gram_product(const MatrixView& A, const DoubleDoubleVector& x) {
  if (std::all_of(x.lo.begin(), x.lo.end(), [](double lo) { return lo == 0.0; }))
    return accurate_gram_product(A, x.hi.data());
  return weighted_rows(A, 2, [&](Index, const double* row) {
    return dot2(row, x.hi.data(), A.cols) + dot2(row, x.lo.data(), A.cols);
  });
}

DoubleDoubleVector accurate_transposed_product(const MatrixView& A, const double* y) {
  return weighted_rows(A, 1, [&](Index i, const double*) { return DoubleDouble{y[i], 0.0}; });
}

}  // namespace immucond
