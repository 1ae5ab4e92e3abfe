#pragma once

#include "element.hpp"
#include "gram_plan.hpp"

namespace immucond::cuda {

/// out (d x d, float64) = X^T X, accumulated in float64, on the stream. `workspace` as planned.
void gram(const DeviceMatrix& X, double* out, double* workspace, void* stream);

/// The same in float32 from the tensor cores, for float32 (rounded to TF32), float16 and bfloat16
/// that lie by rows or columns.
void narrow_gram(const DeviceMatrix& X, float* out, void* stream);

/// out (m x m) = (X theta)^T (X theta) for theta (d x m, float64, row-major), by blocks of rows of
/// X theta that stay in `workspace`.
std::int64_t feature_hessian_workspace(const DeviceMatrix& X, std::int64_t m);
void feature_hessian(const DeviceMatrix& X, const double* theta, std::int64_t m, double* out,
                     double* workspace, void* stream);

/// out = 2 A G for A (X or its transpose: one sample's or one feature's entries a row, n columns)
/// and symmetric G (n x n): the gradient by features, shaped as A with these strides, in float64 or
/// float32 (`wide` false), by blocks of rows.
std::int64_t feature_gradient_workspace(const DeviceMatrix& A);
void feature_gradient(const DeviceMatrix& A, const double* G, void* out, bool wide,
                      std::int64_t row_stride, std::int64_t col_stride, double* workspace,
                      void* stream);

// ---- kernels ----

/// out (count x cols, row-major) = rows `first` on of X in float64.
void widen_rows(const DeviceMatrix& X, std::int64_t first, std::int64_t count, double* out,
                void* stream);

/// The other way: rows `first` on of out = a (count x cols, row-major).
void store_rows(const double* a, std::int64_t first, std::int64_t count, std::int64_t cols,
                void* out, bool wide, std::int64_t row_stride, std::int64_t col_stride,
                void* stream);

/// a (n x n, column-major): the upper triangle becomes the lower one's.
void mirror_lower(std::int64_t n, double* a, void* stream);

/// out (n x n) = scale (alpha u u^T + beta w w^T + gamma H), symmetric to the bit where H is: the
/// epilogue of every gradient. out may be H.
void rank_two(std::int64_t n, double scale, double alpha, const double* u, double beta,
              const double* w, double gamma, const double* H, double* out, void* stream);

}  // namespace immucond::cuda
