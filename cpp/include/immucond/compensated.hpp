#pragma once

#include <functional>
#include <vector>

#include "immucond/double_double.hpp"
#include "immucond/matrix_view.hpp"

namespace immucond {

/// sum of a_i^2 in twice the working precision.
DoubleDouble sum_of_squares(const double* a, Index n);

/// sum + rest <- sum + rest + x entrywise, in twice the working precision.
void add_compensated(const double* x, Index n, double* sum, double* rest);

/// A vector in double-double.
struct DoubleDoubleVector {
  std::vector<double> hi, lo;
  explicit DoubleDoubleVector(Index n = 0)
      : hi(static_cast<std::size_t>(n)), lo(static_cast<std::size_t>(n)) {}
  DoubleDouble operator[](Index i) const {
    return {hi[static_cast<std::size_t>(i)], lo[static_cast<std::size_t>(i)]};
  }
};

/// A x with about 106 bits (Ogita, Rump, Oishi 2005: Dot2), A read once.
DoubleDoubleVector accurate_product(const MatrixView& A, const double* x);

/// (A + A^T) x / 2, likewise; A x where A is symmetric to the bit.
DoubleDoubleVector accurate_symmetric_product(const MatrixView& A, bool symmetric, const double* x);

/// A^T (A x), and A^T y where y is given, likewise in one pass over A's rows.
DoubleDoubleVector accurate_gram_product(const MatrixView& A, const double* x);
DoubleDoubleVector accurate_gram_product(const MatrixView& A, const DoubleDoubleVector& x);
DoubleDoubleVector accurate_transposed_product(const MatrixView& A, const double* y);

/// x -> A^T (A x), as accurate, of an A that need not be at hand.
using GramProduct = std::function<DoubleDoubleVector(const DoubleDoubleVector&)>;

}  // namespace immucond
