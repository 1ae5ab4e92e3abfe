#pragma once

#include <vector>

#include "immucond/lapack.hpp"

namespace immucond {

/// A symmetric tridiagonal matrix T (n x n), whose eigenvalues are asked for by their position from
/// the top: 1 is the largest. Eigenvalues come by bisection on Sturm counts: each is accurate to a
/// few eps ||T|| (and, for a zero diagonal, relative to itself), whatever the others do.
class Tridiagonal {
 public:
  Tridiagonal() = default;
  Tridiagonal(std::vector<double> diagonal, std::vector<double> off_diagonal);

  Index size() const { return static_cast<Index>(d_.size()); }
  /// An upper bound on every |eigenvalue| (Gershgorin).
  double radius() const { return radius_; }

  /// For each x the number of eigenvalues above it.
  std::vector<Index> counts_above(const std::vector<double>& xs) const;
  Index count_above(double x) const { return counts_above({x})[0]; }

  /// The eigenvalues at some positions, found side by side.
  std::vector<double> eigenvalues(const std::vector<Index>& from_top) const;

  /// Eigenvectors for `values` (ascending), orthonormal, to the columns of z (n x count).
  void eigenvectors(const std::vector<double>& values, double* z) const;

 private:
  std::vector<double> d_, e_, left_;  // left_: |e| beside each row's left neighbour, 0 in the first
  double radius_ = 0.0, pivot_min_ = 0.0;
};

}  // namespace immucond
