#pragma once

#include <cmath>

#include "immucond/numeric.hpp"

namespace immucond {

/// An unevaluated sum hi + lo, |lo| <= ulp(hi) / 2: about 106 bits.
struct DoubleDouble {
  double hi = 0.0, lo = 0.0;
  IMMUCOND_EVERYWHERE double value() const { return hi + lo; }
};

/// a + b exactly (Knuth).
IMMUCOND_EVERYWHERE DoubleDouble two_sum(double a, double b) {
  const double sum = a + b, b_part = sum - a;
  return {sum, (a - (sum - b_part)) + (b - b_part)};
}

/// a b exactly.
IMMUCOND_EVERYWHERE DoubleDouble two_product(double a, double b) {
  const double product = a * b;
  return {product, std::fma(a, b, -product)};
}

IMMUCOND_EVERYWHERE DoubleDouble operator+(DoubleDouble x, DoubleDouble y) {
  const DoubleDouble sum = two_sum(x.hi, y.hi);
  const double lo = sum.lo + (x.lo + y.lo);
  return two_sum(sum.hi, lo);
}

IMMUCOND_EVERYWHERE DoubleDouble operator-(DoubleDouble x) { return {-x.hi, -x.lo}; }

IMMUCOND_EVERYWHERE DoubleDouble operator*(DoubleDouble x, double y) {
  const DoubleDouble product = two_product(x.hi, y);
  return two_sum(product.hi, product.lo + x.lo * y);
}

IMMUCOND_EVERYWHERE DoubleDouble operator*(DoubleDouble x, DoubleDouble y) {
  const DoubleDouble product = two_product(x.hi, y.hi);
  return two_sum(product.hi, product.lo + (x.hi * y.lo + x.lo * y.hi));
}

/// x / y by one Newton step from the quotient of the leading parts: a Rayleigh quotient
/// x^T A x / x^T x to twice the working precision.
IMMUCOND_EVERYWHERE DoubleDouble quotient(DoubleDouble x, DoubleDouble y) {
  const double first = x.hi / y.hi;
  return two_sum(first, (x + -(y * first)).value() / y.hi);
}

}  // namespace immucond
