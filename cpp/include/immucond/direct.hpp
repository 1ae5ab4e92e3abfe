#pragma once

#include <memory>
#include <string>
#include <vector>

#include "immucond/decomposition.hpp"
#include "immucond/symmetric.hpp"

namespace immucond {

/// H = Q T Q^T (n x n) by one tridiagonal reduction, then the ends of T by bisection and their
/// vectors by inverse iteration. Null where H is not positive semidefinite to `tolerance` (or the
/// rounding of its entries) relative to its largest eigenvalue, with `why` saying so.
std::unique_ptr<Decomposition> reduce_psd(SymmetricMatrix H, const Given& given, double tolerance,
                                          std::string& why);

/// A = Q B P^T (rows x cols, column-major, rows >= cols, entries of order one) by one bidiagonal
/// reduction; the ends from the Golub-Kahan tridiagonal matrix of B (2 cols x 2 cols). `swapped`: A
/// is the transpose of the matrix meant, in units of 2^exponent.
std::unique_ptr<Decomposition> reduce_general(std::vector<double> a, Index rows, Index cols,
                                              bool swapped, const Given& given, int exponent,
                                              const char* name);

}  // namespace immucond
