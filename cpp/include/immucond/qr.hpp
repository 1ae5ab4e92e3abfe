#pragma once

#include <memory>
#include <vector>

#include "immucond/decomposition.hpp"
#include "immucond/symmetric.hpp"

namespace immucond {

/// A = Q R for a tall A (N x m, N >= m): leaves of a few hundred rows are reduced by themselves,
/// and then the triangles in pairs (Demmel, Grigori, Hoemmen, Langou 2012). A row goes through
/// log2(N / leaf) reductions, so what rounding leaves in R does not grow with N: one reduction of
/// equal rows leaves N eps, and a chain of them no less.
class TallQr {
 public:
  /// Without `keep_q`, only R is kept, and no more than log2(N / leaf) triangles are held.
  TallQr(const MatrixView& A, bool keep_q);

  /// R (m x m, column-major, zeros below) in units of 2^exponent, of order one.
  const std::vector<double>& r() const { return r_; }
  int exponent() const { return exponent_; }
  /// Q y (N) for y (m): orthonormal columns to rounding, whatever the condition of A.
  std::vector<double> apply_q(const std::vector<double>& y) const;

 private:
  /// A reduction: of the rows from first_row on, or of the triangles of two others.
  struct Node {
    Index rows, first_row, upper, lower;
    std::vector<double> reflectors, factors;
  };
  std::vector<double> reduce(Index rows, Index first, std::vector<double> block);
  void spread(Node& node, const double* y, double* out) const;

  Index rows_, cols_;
  bool keep_q_;
  int exponent_ = 0;
  std::vector<double> r_;
  mutable std::vector<Node> nodes_;  // the root last; dormqr changes and restores reflectors
};

/// out (m x m, row-major) = R of A (N x m), N >= m. std::overflow_error where an entry is too
/// large.
void triangle(const MatrixView& A, double* out);

/// out (m x m, row-major) = R of the rows of two upper triangles (m x m each).
void joined_triangles(const MatrixView& upper, const MatrixView& lower, double* out);

/// The decomposition of R in A = Q R, told as that of A^T A = R^T R (n x n), which `gram` holds for
/// its Frobenius norm: the singular values of R are not squared before they are found. Vectors are
/// the right ones. `lost`: what rounding took before, in making A, relative to its largest singular
/// value. std::overflow_error, naming `name`, where the smallest square underflows.
std::unique_ptr<Decomposition> square_of_triangle(TallQr qr, std::unique_ptr<Decomposition> factor,
                                                  const SymmetricMatrix& gram, double lost,
                                                  const char* name);

}  // namespace immucond
