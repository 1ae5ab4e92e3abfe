#include "immucond/symmetric.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "immucond/spectrum.hpp"

namespace immucond {
namespace {

double epsilon_of(Dtype dtype) {
  return dtype == Dtype::f16 ? 0x1p-10 : dtype == Dtype::f32 ? kSingleEps : kEps;
}

}  // namespace

MatrixView SymmetricMatrix::view() const {
  constexpr Index step = sizeof(double);
  return {data.data(), Dtype::f64, n, n, n * step, step, name};
}

SymmetricMatrix read_symmetric(const MatrixView& view, double precision) {
  if (view.rows != view.cols)
    throw std::invalid_argument(std::string(view.name) + " must be square, and has shape (" +
                                std::to_string(view.rows) + ", " + std::to_string(view.cols) + ")");
  SymmetricMatrix matrix;
  matrix.name = view.name;
  matrix.n = view.rows;
  matrix.exponent = scale_exponent(view);
  const MatrixView unit = scaled(view, matrix.exponent);
  matrix.data.resize(size(matrix.n * matrix.n));
  // Read along the rows or columns as they lie: the symmetric part is the same.
  const bool by_rows = std::abs(view.col_stride) < std::abs(view.row_stride);
  copy_to(by_rows ? unit.transposed() : unit, matrix.data.data());
  const double skew = asymmetry(matrix.data.data(), matrix.n);
  if (skew > 0.0) {
    const double eps = precision > 0.0 ? precision : epsilon_of(view.dtype);
    const double allowed = largest_skew(matrix.n, eps);
    if (skew > allowed)
      throw std::invalid_argument(
          std::string(view.name) + " must be symmetric, and max|A - A^T| is " +
          format(std::ldexp(skew, matrix.exponent)) + ", where rounding explains " +
          format(std::ldexp(allowed, matrix.exponent)));
    matrix.exact = false;
    double* a = matrix.data.data();
    for (Index j = 0; j < matrix.n; ++j)
      for (Index i = 0; i < j; ++i)
        a[i + j * matrix.n] = 0.5 * (a[i + j * matrix.n] + a[j + i * matrix.n]);
    mirror_upper(a, matrix.n);
  }
  return matrix;
}

}  // namespace immucond
