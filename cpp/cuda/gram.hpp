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

/// Where a result goes: in float64, or in float32 (`wide` false), any strides.
struct Destination {
  void* data = nullptr;
  bool wide = true;
  std::int64_t cols = 0, row_stride = 0, col_stride = 0;
};

/// out = scale A B for A (features or their transpose, n columns) and B (n x out.cols, by columns),
/// by blocks of rows: the gradient 2 A G by features, the vectors A w of the longer side.
std::int64_t times_workspace(const DeviceMatrix& A, std::int64_t columns);
void times(const DeviceMatrix& A, double scale, const double* B, const Destination& out,
           double* workspace, void* stream);

// ---- kernels ----

/// out (count x cols, row-major) = rows `first` on of X in float64.
void widen_rows(const DeviceMatrix& X, std::int64_t first, std::int64_t count, double* out,
                void* stream);

/// The other way: rows `first` on of out = a (count x out.cols, row-major).
void store_rows(const double* a, std::int64_t first, std::int64_t count, const Destination& out,
                void* stream);

/// a (n x n, column-major): the upper triangle becomes the lower one's.
void mirror_lower(std::int64_t n, double* a, void* stream);

/// out (n x n) = alpha u u^T + beta w w^T + gamma H, symmetric to the bit where H is: the
/// epilogue of every gradient. out may be H.
void rank_two(std::int64_t n, double alpha, const double* u, double beta, const double* w,
              double gamma, const double* H, double* out, void* stream);

}  // namespace immucond::cuda
