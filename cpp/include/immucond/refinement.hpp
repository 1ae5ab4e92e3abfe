#pragma once

#include <optional>
#include <vector>

#include "immucond/compensated.hpp"
#include "immucond/decomposition.hpp"

namespace immucond {

struct RefinedPair {
  double sigma, bound;
  std::vector<double> vector;
};

/// The smallest eigenpair of H = A^T A, A (N x n) of full column rank, refined from an approximate
/// vector: inverse iteration in double-double with the QR factor R of A as the preconditioner. A
/// step costs one product by H.
///
/// With r = H v - lambda v at the Rayleigh quotient lambda, and H = R^T R up to a relative error
/// that the caller keeps small, x = R v / ||R v|| is an approximate eigenvector of R^-T R^-1 at 1 /
/// lambda with the residual rho / lambda, rho = ||R^-T r|| / (sqrt(lambda) ||v||). So lambda is
/// right to a relative rho, and by Temple and Kato to rho^2 / (1 - lambda / next), where `next` is
/// a lower bound of the next eigenvalue: forming H loses nothing, since r is never larger than it
/// must be where R is large.
///
/// Empty where that does not bring more than the vector had.
std::optional<RefinedPair> refine_smallest(const GramProduct& H, Index rows, const Triangle& R,
                                           const std::vector<double>& vector, double next);

}  // namespace immucond
