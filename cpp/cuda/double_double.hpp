#pragma once

#include "team.hpp"

namespace immucond::cuda {

/// An unevaluated sum hi + lo of about 106 bits, as in immucond/compensated.hpp, for the device.
struct DoubleDouble {
  double hi = 0.0, lo = 0.0;
};

IMMUCOND_DEVICE DoubleDouble two_sum(double a, double b) {
  const double sum = a + b, b_part = sum - a;
  return {sum, (a - (sum - b_part)) + (b - b_part)};
}

IMMUCOND_DEVICE DoubleDouble two_product(double a, double b) {
  const double product = a * b;
  return {product, fma(a, b, -product)};
}

IMMUCOND_DEVICE DoubleDouble add(DoubleDouble x, DoubleDouble y) {
  const DoubleDouble sum = two_sum(x.hi, y.hi);
  return two_sum(sum.hi, sum.lo + (x.lo + y.lo));
}

/// count sigma^2 - squares, which cancels where singular values are close.
IMMUCOND_DEVICE double excess(double sigma, int count, DoubleDouble squares) {
  const DoubleDouble square = two_product(sigma, sigma);
  const DoubleDouble product = two_product(square.hi, static_cast<double>(count));
  const DoubleDouble all = two_sum(product.hi, product.lo + square.lo * static_cast<double>(count));
  const DoubleDouble difference = add(all, {-squares.hi, -squares.lo});
  return difference.hi + difference.lo;
}

template <class Team>
IMMUCOND_DEVICE DoubleDouble warp_sum(const Team& team, DoubleDouble x) {
  for (int mask = kWarp / 2; mask > 0; mask /= 2)
    x = add(x, {team.exchange(x.hi, mask), team.exchange(x.lo, mask)});
  return x;
}

}  // namespace immucond::cuda
