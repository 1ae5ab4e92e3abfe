#include "immucond/leveling.hpp"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <numeric>
#include <vector>

namespace immucond {
namespace {

/// (x, y) <- (c x + s y, c y - s x)
void rotate(double c, double s, double* x, double* y, Index n) {
  for (Index i = 0; i < n; ++i) {
    const double turned = c * x[i] + s * y[i];
    y[i] = c * y[i] - s * x[i];
    x[i] = turned;
  }
}

Index pop(std::vector<Index>& from) {
  const Index last = from.back();
  from.pop_back();
  return last;
}

}  // namespace

// A row leaves once its diagonal entry is the mean; the other one carries the surplus into the next
// rotation. So of the rotated Hessian only the carrier's row, `met`, is ever needed.
void level(double* rows, const double* H, Index n, Index width) {
  const auto entry = [&](Index i) { return H[i * (n + 1)]; };
  double mean = 0.0;
  for (Index i = 0; i < n; ++i) mean += entry(i) / static_cast<double>(n);
  std::vector<Index> order(size(n)), above, below;  // furthest from the mean last
  std::iota(order.begin(), order.end(), Index{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](Index i, Index j) { return entry(i) < entry(j); });
  std::copy_if(order.begin(), order.end(), std::back_inserter(above),
               [&](Index i) { return entry(i) > mean; });
  std::copy_if(order.rbegin(), order.rend(), std::back_inserter(below),
               [&](Index i) { return entry(i) <= mean; });
  if (above.empty()) return;

  Index carry = pop(above);
  double value = entry(carry);
  std::vector<double> met(H + carry * n, H + (carry + 1) * n);
  while (!below.empty() || !above.empty()) {
    const bool down = (value > mean && !below.empty()) || above.empty();
    const Index fresh = pop(down ? below : above);
    const double* row = H + fresh * n;
    const double p = value - mean, q = entry(fresh) - mean, b = met[size(fresh)];
    if (p == 0.0) {
      carry = fresh;
      value = entry(fresh);
      met.assign(row, row + n);
      continue;
    }
    // (c x + s y)^T H (c x + s y) = mean:  p + 2 b t + q t^2 = 0,  t = s / c = -p / r. Where r = 0,
    // y is level, to the rounding of the mean, and leaves in place of x.
    const double r = b + std::copysign(std::sqrt(std::max(0.0, b * b - p * q)), b);
    const double length = std::hypot(r, p);
    const double c = std::fabs(r) / length, s = -std::copysign(p, p * r) / length;
    rotate(c, s, rows + carry * width, rows + fresh * width, width);
    for (Index i = 0; i < n; ++i) met[size(i)] = c * row[i] - s * met[size(i)];
    carry = fresh;
    value += q;
  }
}

}  // namespace immucond
