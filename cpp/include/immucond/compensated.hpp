#pragma once

#include <cmath>
#include <vector>

#include "immucond/matrix_view.hpp"

namespace immucond {

/// An unevaluated sum hi + lo, |lo| <= ulp(hi) / 2: about 106 bits.
struct DoubleDouble {
  double hi = 0.0, lo = 0.0;
  double value() const { return hi + lo; }
};

/// a + b exactly (Knuth).
inline DoubleDouble two_sum(double a, double b) {
  const double sum = a + b, b_part = sum - a;
  return {sum, (a - (sum - b_part)) + (b - b_part)};
}

/// a b exactly.
inline DoubleDouble two_product(double a, double b) {
  const double product = a * b;
  return {product, std::fma(a, b, -product)};
}

inline DoubleDouble operator+(DoubleDouble x, DoubleDouble y) {
  DoubleDouble sum = two_sum(x.hi, y.hi);
  const double lo = sum.lo + (x.lo + y.lo);
  return two_sum(sum.hi, lo);
}

inline DoubleDouble operator-(DoubleDouble x) { return {-x.hi, -x.lo}; }

inline DoubleDouble operator*(DoubleDouble x, double y) {
  const DoubleDouble product = two_product(x.hi, y);
  return two_sum(product.hi, product.lo + x.lo * y);
}

inline DoubleDouble operator*(DoubleDouble x, DoubleDouble y) {
  const DoubleDouble product = two_product(x.hi, y.hi);
  return two_sum(product.hi, product.lo + (x.hi * y.lo + x.lo * y.hi));
}

/// sum of a_i^2 in twice the working precision.
DoubleDouble sum_of_squares(const double* a, Index n);

/// sum + rest <- sum + rest + x entrywise, in twice the working precision.
void add_compensated(const double* x, Index n, double* sum, double* rest);

/// A vector in double-double.
struct DoubleDoubleVector {
  std::vector<double> hi, lo;
  explicit DoubleDoubleVector(Index n = 0)
      : hi(static_cast<std::size_t>(n)), lo(static_cast<std::size_t>(n)) {}
  DoubleDouble operator[](Index i) const {
    return {hi[static_cast<std::size_t>(i)], lo[static_cast<std::size_t>(i)]};
  }
};

/// A x with about 106 bits (Ogita, Rump, Oishi 2005: Dot2), A read once.
DoubleDoubleVector accurate_product(const MatrixView& A, const double* x);

/// A^T (A x), and A^T y where y is given, likewise in one pass over A's rows.
DoubleDoubleVector accurate_gram_product(const MatrixView& A, const double* x);
DoubleDoubleVector accurate_gram_product(const MatrixView& A, const DoubleDoubleVector& x);
DoubleDoubleVector accurate_transposed_product(const MatrixView& A, const double* y);

}  // namespace immucond
