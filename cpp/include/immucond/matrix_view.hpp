#pragma once

#include <optional>
#include <utility>
#include <vector>

#include "immucond/lapack.hpp"

namespace immucond {

enum class Dtype { f16, f32, f64, boolean, i8, u8, i16, u16, i32, u32, i64, u64 };

Index item_size(Dtype dtype);

/// A matrix the caller owns: any element type that float64 holds exactly, any strides (in bytes;
/// negative and zero too). `name` is the argument's name, for messages.
struct MatrixView {
  const void* data = nullptr;
  Dtype dtype = Dtype::f64;
  Index rows = 0, cols = 0;
  Index row_stride = 0, col_stride = 0;
  const char* name = "";
  bool flipped = false;  // the transpose of the argument: messages give its own rows and columns
  double scale = 1.0;    // elements are read as scale * element; a power of two, so exact

  MatrixView transposed() const {
    MatrixView view = *this;
    std::swap(view.rows, view.cols);
    std::swap(view.row_stride, view.col_stride);
    view.flipped = !flipped;
    return view;
  }
};

/// A float64 matrix in column-major storage (`op` 'N') or the transpose of one ('T').
struct Dense {
  const double* data;
  Index rows, cols;  // of the matrix meant
  Index ld;          // of the storage
  char op;
};

/// C (column-major, ldc) = alpha A B + beta C.
void multiply(double alpha, const Dense& a, const Dense& b, double beta, double* c, Index ldc);

/// The matrix by blocks of rows, in float64. A block is a part of the caller's array where that is
/// float64 with a BLAS-compatible stride, else a converted copy in a buffer of at most 32 MiB.
class RowBlocks {
 public:
  /// max_rows = 0: as many rows a block as the buffer (or the BLAS) takes.
  /// row_major: blocks are stored row by row, whatever the input's layout.
  explicit RowBlocks(const MatrixView& view, Index max_rows = 0, bool row_major = false);

  /// False at the end; else `block` is the next block and `first_row` its position.
  bool next(Dense& block);
  Index first_row() const { return first_row_; }

 private:
  MatrixView view_;
  std::optional<Dense> direct_;
  bool by_rows_ = true;
  Index block_rows_, at_ = 0, first_row_ = 0;
  std::vector<double> buffer_;
};

/// The whole matrix as one block; `storage` is filled only where a copy is needed.
Dense whole(const MatrixView& view, std::vector<double>& storage);

/// Copy to column-major float64; ld = 0: contiguous.
void copy_to(const MatrixView& view, double* out, Index ld = 0);

/// `count` rows from `first` on. (Messages count rows from there: for matrices known to be finite.)
MatrixView row_range(const MatrixView& view, Index first, Index count);

/// The exponent e with 2^(e-1) <= max|a_ij| < 2^e (at least -1022), 0 for a zero matrix. Throws
/// std::invalid_argument, naming the argument and the place, at NaN or infinity.
int scale_exponent(const MatrixView& view);

/// The matrix 2^-exponent A as a view.
MatrixView scaled(const MatrixView& view, int exponent);

/// max |a_ij - a_ji| of an n x n matrix.
double asymmetry(const double* a, Index n);

/// Copy the upper triangle of the n x n column-major matrix to the lower one, or the other way.
void mirror_upper(double* a, Index n);
void mirror_lower(double* a, Index n);

/// Throws std::overflow_error, naming `what`, where an entry is not finite.
void require_representable(const double* a, Index count, const char* what);

/// a[i] <- 2^exponent a[i].
void rescale(double* a, Index count, int exponent);
/// rescale, and require_representable.
void scale_by_power(double* a, Index count, int exponent, const char* what);

}  // namespace immucond
