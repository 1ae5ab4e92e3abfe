#pragma once

#include <vector>

#include "immucond/matrix_view.hpp"

namespace immucond {

/// A symmetric matrix as 2^exponent times entries of order one, column-major.
struct SymmetricMatrix {
  Index n = 0;
  int exponent = 0;
  bool exact = true;  // false where it is only the symmetric part of what was given
  std::vector<double> data;
  const char* name = "";

  MatrixView view() const;
};

/// Reads a square, finite matrix that is symmetric to the rounding of the precision in which it was
/// computed (by default its dtype's), relative to its largest entry, and takes its symmetric part;
/// std::invalid_argument, naming the argument, where it is not.
SymmetricMatrix read_symmetric(const MatrixView& view, double precision = 0.0);

}  // namespace immucond
