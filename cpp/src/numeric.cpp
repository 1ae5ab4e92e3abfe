#include "immucond/numeric.hpp"

#include <algorithm>
#include <cmath>

namespace immucond {

double norm(const double* x, Index n, Index stride) {
  double squares = 0.0;
  for (Index i = 0; i < n; ++i) squares += x[i * stride] * x[i * stride];
  if (squares > 1e-280 && squares < 1e280) return std::sqrt(squares);
  // Squares that left the range, or had nothing to leave.
  double largest = 0.0;
  for (Index i = 0; i < n; ++i) largest = std::max(largest, std::fabs(x[i * stride]));
  if (largest == 0.0 || !std::isfinite(largest)) return largest;
  squares = 0.0;
  for (Index i = 0; i < n; ++i) squares += (x[i * stride] / largest) * (x[i * stride] / largest);
  return largest * std::sqrt(squares);
}

void normalize(double* x, Index n, Index stride) {
  const double length = norm(x, n, stride);
  if (length > 0.0)
    for (Index i = 0; i < n; ++i) x[i * stride] /= length;
}

}  // namespace immucond
