#include "immucond/refinement.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace immucond {
namespace {

constexpr int kMostSteps = 30;
/// R stands for A up to this relative error in every direction; norms are then good to a factor 2.
constexpr double kTrustedFactor = 0.1;

DoubleDouble dot(const DoubleDoubleVector& x, const DoubleDoubleVector& y) {
  DoubleDouble sum;
  for (Index i = 0; i < static_cast<Index>(x.hi.size()); ++i) sum = sum + x[i] * y[i];
  return sum;
}

}  // namespace

std::optional<RefinedPair> refine_smallest(const GramProduct& H, Index rows, const Triangle& R,
                                           const std::vector<double>& vector, double next) {
  const Ends& ends = R.decomposition->ends();
  const Index n = static_cast<Index>(vector.size());
  if (ends.rank < n || R.noise > kTrustedFactor * ends.sigma_min) return std::nullopt;
  const auto* factor = static_cast<const double*>(R.unit.data);
  DoubleDoubleVector v(n);
  v.hi = vector;
  RefinedPair best{0.0, std::numeric_limits<double>::infinity(), {}};
  double last = std::numeric_limits<double>::infinity();
  for (int step = 0; step < kMostSteps; ++step) {
    const DoubleDoubleVector y = H(v);
    const DoubleDouble vv = dot(v, v), vy = dot(v, y);
    const DoubleDouble lambda = quotient(vy, vv);
    std::vector<double> t(vector.size());
    for (Index i = 0; i < n; ++i) t[size(i)] = (y[i] + -(lambda * v[i])).value();
    lapack::trsv('T', n, factor, n, t.data());
    const double computed = norm(t.data(), n) / std::sqrt(lambda.hi * vv.hi);
    // What double-double leaves of r, which R^-T magnifies by kappa(H) at most.
    const double floor = 8 * kEps * kEps * std::sqrt(static_cast<double>(rows + n)) *
                         ends.sigma_max * ends.sigma_max / lambda.hi;
    const double rho = 2 * computed + floor;
    const double isolated = 1 - lambda.hi / next;
    const double relative = isolated > rho ? std::min(rho, rho * (rho / isolated)) : rho;
    const double bound = (relative + kEps) * lambda.hi;
    if (!(lambda.hi > 0.0) || !std::isfinite(bound)) break;
    if (bound < best.bound) best = {lambda.value(), bound, v.hi};
    if (relative < kEps || computed > 0.9 * last) break;
    last = computed;
    lapack::trsv('N', n, factor, n, t.data());
    for (Index i = 0; i < n; ++i) {
      const auto at = size(i);
      const DoubleDouble moved = v[i] + DoubleDouble{-t[at], 0.0};
      v.hi[at] = moved.hi;
      v.lo[at] = moved.lo;
    }
  }
  if (!std::isfinite(best.bound)) return std::nullopt;
  normalize(best.vector.data(), n);
  return best;
}

}  // namespace immucond
