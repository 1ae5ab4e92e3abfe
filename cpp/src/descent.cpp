#include "immucond/descent.hpp"

#include <algorithm>
#include <limits>

namespace immucond {
namespace {

constexpr Index kBetweenPauses = Index{1} << 22;  // terms: some milliseconds

constexpr double kSmallest = std::numeric_limits<double>::min();

struct Moments {
  double excess = 0.0, distance = 0.0, second = 0.0, third = 0.0;
};

}  // namespace

Trajectory descend(const Quadratic& quadratic, double step, Index steps, double stop,
                   const std::function<void()>& pause) {
  const double* h = quadratic.curvature;
  const Index k = quadratic.k;
  // The energies h e^2 are all it takes: every sum is a moment of theirs.
  std::vector<double> energy(size(k)), inverse(size(k));
  for (Index i = 0; i < k; ++i) {
    energy[size(i)] = h[i] * quadratic.error[i] * quadratic.error[i];
    inverse[size(i)] = 1.0 / h[i];
  }
  Trajectory taken;
  const Index often = std::max(Index{1}, kBetweenPauses / std::max(k, Index{1}));
  for (Index t = 0; t <= steps; ++t) {
    Moments sum;
    for (Index i = 0; i < k; ++i) {
      const double at = energy[size(i)], along = h[i] * at;
      sum.excess += at;
      sum.distance += inverse[size(i)] * at;
      sum.second += along;
      sum.third += h[i] * along;
    }
    taken.excess.push_back(sum.excess);
    taken.distance.push_back(sum.distance);
    if (sum.excess <= stop || (step == 0.0 && sum.third == 0.0)) break;
    const double eta = step != 0.0 ? step : sum.second / sum.third;
    for (Index i = 0; i < k; ++i) {
      const double factor = 1.0 - eta * h[i];
      energy[size(i)] *= factor * factor;
      // A subnormal number has lost its digits, and takes a hundred times as long.
      if (energy[size(i)] < kSmallest) energy[size(i)] = 0.0;
    }
    if (t % often == often - 1) pause();
  }
  return taken;
}

}  // namespace immucond
