#pragma once

#include <memory>
#include <vector>

#include "immucond/decomposition.hpp"

namespace immucond {

/// A = U diag(sigma) V^T (rows x cols, column-major, rows >= cols, entries of order one) by
/// one-sided Jacobi rotations: every singular value to high relative accuracy, where the columns'
/// scales are what makes them differ (Demmel and Veselic 1992; Drmac and Veselic 2008). `swapped`:
/// A is the transpose of the matrix meant, in units of 2^exponent.
std::unique_ptr<Decomposition> rotate_general(std::vector<double> a, Index rows, Index cols,
                                              bool swapped, const Given& given, int exponent,
                                              const char* name);

}  // namespace immucond
