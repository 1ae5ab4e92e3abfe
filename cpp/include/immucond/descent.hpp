#pragma once

#include <functional>
#include <vector>

#include "immucond/numeric.hpp"

namespace immucond {

/// A quadratic along the eigenvectors of its Hessian: eigenvalues h > 0 and the error e there.
struct Quadratic {
  const double* curvature;  // k
  const double* error;      // k
  Index k;
};

/// Excess loss sum h e^2 and squared distance sum e^2 by step, the start included.
struct Trajectory {
  std::vector<double> excess;
  std::vector<double> distance;
};

/// Gradient descent, `e <- (1 - eta h) e`: by exact line search,
/// `eta = sum h^2 e^2 / sum h^3 e^2`, or with a constant step where it is not 0. It ends after
/// `steps`, at an excess of at most `stop`, or where no gradient is left. `pause` is called now and
/// then, and may throw.
Trajectory descend(const Quadratic& quadratic, double step, Index steps, double stop,
                   const std::function<void()>& pause);

}  // namespace immucond
