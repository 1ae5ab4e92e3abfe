#pragma once

#include "immucond/matrix_view.hpp"

namespace immucond {

/// out (d x d) = X^T X for X (N x d): half the flops of a product by symmetry, accumulated in
/// float64 whatever the input, symmetric to the bit. Not finite where X is not, or overflows. Its
/// rounding is that of a block of rows and does not grow with N.
void gram(const MatrixView& X, double* out);

/// gram, and what its diagonal tells of the input: std::invalid_argument naming the place of a NaN
/// or infinity in X, std::overflow_error where the squares are too large.
void checked_gram(const MatrixView& X, double* out);

/// gram of A, or of 2^-exponent A where A's squares leave the range of float64; A becomes what was
/// used. Returns the exponent, and the largest diagonal entry in `largest`. Throws as checked_gram
/// does for input that is not finite.
int gram_in_range(MatrixView& A, double* out, double& largest);

/// H (m x m) = theta^T K theta for theta (d x m) and symmetric K (d x d), symmetric to the bit.
void hessian(const MatrixView& theta, const MatrixView& K, double* H);

/// out (m x m) = A^T B for A, B (d x m; B column-major, ld = d) where the product is known to be
/// symmetric: only the upper half is computed.
void symmetric_product(const Dense& a, const double* b, double* out);

enum class FeatureRoute { automatic, features, gram };

/// H (m x m) = (X theta)^T (X theta) without ever holding X theta. Through the features
/// 2 N d m + N m^2 flops, through the Gram matrix N d^2 + 2 d^2 m + d m^2. `automatic` takes the
/// cheaper one, and goes back to the features where the sums of theta^T K theta cancel.
void feature_hessian(const MatrixView& X, const MatrixView& theta, FeatureRoute route, double* H);

}  // namespace immucond
