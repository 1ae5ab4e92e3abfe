#pragma once

#include <cstdint>

namespace immucond::cuda {

enum class Dtype : int { f64, f32, f16, bf16 };

/// A matrix in device memory, strides counted in entries.
struct DeviceMatrix {
  const void* data = nullptr;
  Dtype dtype = Dtype::f64;
  std::int64_t rows = 0, cols = 0, row_stride = 0, col_stride = 0;
};

/// How the Gram matrix of X (N x d) is computed: by one product on the memory of X, as BLAS sees it
/// (columns), or by blocks of rows converted to float64.
struct GramPlan {
  bool direct = false, transposed = false;  // the memory holds X (else X^T) by columns
  std::int64_t leading = 0, block_rows = 0, workspace_bytes = 0;
};

/// Pure: what a matrix needs, on any machine. Throws std::length_error beyond BLAS's integers.
/// `narrow`: a product in the entries' own dtype.
GramPlan plan_gram(const DeviceMatrix& X, bool narrow);

/// A size as cuBLAS takes it; std::length_error beyond 32 bits.
int blas_int(std::int64_t size);

/// How many rows of so many doubles fill a buffer of 64 MiB; at least one, at most `rows`.
std::int64_t rows_of_block(std::int64_t rows, std::int64_t doubles);

}  // namespace immucond::cuda
