#include "immucond/descent.hpp"

#include <algorithm>
#include <limits>

namespace immucond {
namespace {

constexpr Index kBetweenPauses = Index{1} << 22;  // terms: some milliseconds
constexpr double kSmallest = std::numeric_limits<double>::min();

/// Sums in the lanes of a vector register, in one order on every machine.
constexpr Index kLanes = 4;
struct Sum {
  double lane[kLanes] = {};
  double total() const { return (lane[0] + lane[1]) + (lane[2] + lane[3]); }
};

}  // namespace

Trajectory descend(const Quadratic& quadratic, double step, Index steps, double stop,
                   const std::function<void()>& pause) {
  // The energies h e^2 are all it takes: every sum is a moment of theirs. Zeros fill the lanes.
  const Index k = (quadratic.k + kLanes - 1) / kLanes * kLanes;
  std::vector<double> energy(size(k)), inverse(size(k)), curvature(size(k));
  for (std::size_t i = 0; i < size(quadratic.k); ++i) {
    curvature[i] = quadratic.curvature[i];
    inverse[i] = 1.0 / curvature[i];
    energy[i] = curvature[i] * quadratic.error[i] * quadratic.error[i];
  }
  const double* h = curvature.data();
  const double* per_h = inverse.data();
  double* e = energy.data();
  Trajectory taken;
  const Index often = std::max(Index{1}, kBetweenPauses / std::max(k, Index{1}));
  for (Index t = 0; t <= steps; ++t) {
    Sum excess, distance, second, third;
    for (Index i = 0; i < k; i += kLanes)
      for (Index l = 0; l < kLanes; ++l) {
        const double along = h[i + l] * e[i + l];
        excess.lane[l] += e[i + l];
        distance.lane[l] += per_h[i + l] * e[i + l];
        second.lane[l] += along;
        third.lane[l] += h[i + l] * along;
      }
    taken.excess.push_back(excess.total());
    taken.distance.push_back(distance.total());
    if (taken.excess.back() <= stop || (step == 0.0 && third.total() == 0.0)) break;
    const double eta = step != 0.0 ? step : second.total() / third.total();
    for (Index i = 0; i < k; ++i) {
      const double factor = 1.0 - eta * h[i];
      const double left = e[i] * (factor * factor);
      // A subnormal number has lost its digits, and takes a hundred times as long.
      e[i] = left < kSmallest ? 0.0 : left;
    }
    if (t % often == often - 1) pause();
  }
  return taken;
}

}  // namespace immucond
