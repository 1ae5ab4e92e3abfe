#include "immucond/matrix_view.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

#include "immucond/multiversion.hpp"

namespace immucond {
namespace {

// Packed blocks aim at a few MiB, to stay in cache until the BLAS has used them, but hold enough
// rows to make a rank-k update worthwhile; the buffer never exceeds the 32 MiB promised.
constexpr Index kCacheDoubles = Index{4} << 17;
constexpr Index kBufferDoubles = Index{32} << 17;
constexpr Index kUsefulRows = 512;
constexpr Index kTile = 32;
constexpr Index kMaxBlasSize = std::numeric_limits<std::int32_t>::max();

struct Half {
  std::uint16_t bits;
};

template <class T>
inline double widen(T value) {
  return static_cast<double>(value);
}

/// (-1)^s 2^(max(e,1)-25) (m + 1024 [e > 0]), by 64-bit integer operations only: vectorizes, and
/// does not depend on the processor's denormals-are-zero mode.
template <>
inline double widen(Half h) {
  const std::uint64_t bits = h.bits, exponent = (bits >> 10) & 31u;
  const std::uint64_t mantissa = (bits & 1023u) | (exponent != 0 ? 1024u : 0u);
  const std::uint64_t power = (exponent != 0 ? exponent : 1u) + 1023u - 25u;
  constexpr std::uint64_t two52 = 0x4330000000000000u;  // 2^52 + mantissa, then - 2^52
  const double magnitude =
      (std::bit_cast<double>(two52 | mantissa) - 0x1p52) * std::bit_cast<double>(power << 52);
  const std::uint64_t not_a_number = mantissa == 1024u ? 0u : 0x0008000000000000u;
  const std::uint64_t special = exponent == 31u ? 0x7ff0000000000000u | not_a_number : 0u;
  const std::uint64_t sign = (bits & 0x8000u) << 48;
  return std::bit_cast<double>(std::bit_cast<std::uint64_t>(magnitude) | special | sign);
}

// Multi-versioned functions cannot be templates, so each element type has its own.
#define IMMUCOND_WIDEN_ROW(name, type)                                                      \
  IMMUCOND_MULTIVERSION void name(const type* in, Index count, double scale, double* out) { \
    for (Index j = 0; j < count; ++j) out[j] = scale * widen(in[j]);                        \
  }
IMMUCOND_WIDEN_ROW(widen_f16, Half)
IMMUCOND_WIDEN_ROW(widen_f32, float)
IMMUCOND_WIDEN_ROW(widen_f64, double)
IMMUCOND_WIDEN_ROW(widen_u8, std::uint8_t)
IMMUCOND_WIDEN_ROW(widen_i8, std::int8_t)
IMMUCOND_WIDEN_ROW(widen_u16, std::uint16_t)
IMMUCOND_WIDEN_ROW(widen_i16, std::int16_t)
IMMUCOND_WIDEN_ROW(widen_u32, std::uint32_t)
IMMUCOND_WIDEN_ROW(widen_i32, std::int32_t)
IMMUCOND_WIDEN_ROW(widen_u64, std::uint64_t)
IMMUCOND_WIDEN_ROW(widen_i64, std::int64_t)
#undef IMMUCOND_WIDEN_ROW

template <class T>
struct RowWidener {
  void (*widen_row)(const T*, Index, double, double*);
};

/// Calls visit(widener of the element type).
template <class Visit>
void with_type(Dtype dtype, Visit visit) {
  switch (dtype) {
    case Dtype::f16:
      return visit(RowWidener<Half>{widen_f16});
    case Dtype::f32:
      return visit(RowWidener<float>{widen_f32});
    case Dtype::f64:
      return visit(RowWidener<double>{widen_f64});
    case Dtype::boolean:
    case Dtype::u8:
      return visit(RowWidener<std::uint8_t>{widen_u8});
    case Dtype::i8:
      return visit(RowWidener<std::int8_t>{widen_i8});
    case Dtype::u16:
      return visit(RowWidener<std::uint16_t>{widen_u16});
    case Dtype::i16:
      return visit(RowWidener<std::int16_t>{widen_i16});
    case Dtype::u32:
      return visit(RowWidener<std::uint32_t>{widen_u32});
    case Dtype::i32:
      return visit(RowWidener<std::int32_t>{widen_i32});
    case Dtype::u64:
      return visit(RowWidener<std::uint64_t>{widen_u64});
    case Dtype::i64:
      return visit(RowWidener<std::int64_t>{widen_i64});
  }
}

const char* address(const MatrixView& view, Index row, Index col) {
  return static_cast<const char*>(view.data) + row * view.row_stride + col * view.col_stride;
}

bool aligned(const MatrixView& view, Index size) {
  return reinterpret_cast<std::uintptr_t>(view.data) % static_cast<std::uintptr_t>(size) == 0 &&
         view.row_stride % size == 0 && view.col_stride % size == 0;
}

template <class T>
double read(const char* at) {
  T value;
  std::copy_n(at, sizeof(T), reinterpret_cast<char*>(&value));  // the array may be unaligned
  return widen(value);
}

/// out[i * ld + j] = A[row + i, j] for `rows` rows.
void pack(const MatrixView& view, Index row, Index rows, double* out, Index ld) {
  with_type(view.dtype, [&]<class T>(RowWidener<T> widener) {
    constexpr Index size = sizeof(T);
    if (view.col_stride == size && aligned(view, size)) {
      for (Index i = 0; i < rows; ++i)
        widener.widen_row(reinterpret_cast<const T*>(address(view, row + i, 0)), view.cols,
                          view.scale, out + i * ld);
      return;
    }
    // Any other layout by tiles, so that both sides stay within a few cache lines.
    for (Index i0 = 0; i0 < rows; i0 += kTile)
      for (Index j0 = 0; j0 < view.cols; j0 += kTile)
        for (Index i = i0; i < std::min(rows, i0 + kTile); ++i)
          for (Index j = j0; j < std::min(view.cols, j0 + kTile); ++j)
            out[i * ld + j] = view.scale * read<T>(address(view, row + i, j));
  });
}

using Tile = double[kTile][kTile];

/// visit(i0, j0, rows, cols, tile) for every tile on or above the diagonal of the n x n
/// column-major matrix, transposed into `tile`: tile[i][j] = a(i0 + i, j0 + j). Both the matrix's
/// triangles are then gone through in runs, which a stride of a power of two would otherwise make
/// collide in cache.
template <class Visit>
void for_each_tile_pair(const double* a, Index n, Visit visit) {
  Tile tile;
  for (Index j0 = 0; j0 < n; j0 += kTile) {
    const Index cols = std::min(kTile, n - j0);
    for (Index i0 = 0; i0 <= j0; i0 += kTile) {
      const Index rows = std::min(kTile, n - i0);
      for (Index j = 0; j < cols; ++j)
        for (Index i = 0; i < rows; ++i) tile[i][j] = a[i0 + i + (j0 + j) * n];
      visit(i0, j0, rows, cols, tile);
    }
  }
}

IMMUCOND_MULTIVERSION double max_abs(const double* a, Index count) {
  // Side by side, for one chain of comparisons would wait for each. They would drop NaN; sums of
  // a * 0 keep it (and turn infinity into it).
  constexpr Index kLanes = 16;
  double largest[kLanes] = {}, poison[kLanes] = {};
  const auto take = [&](Index lane, double x) {
    const double magnitude = std::fabs(x);
    largest[lane] = largest[lane] < magnitude ? magnitude : largest[lane];
    poison[lane] += x * 0.0;
  };
  Index i = 0;
  for (; i + kLanes <= count; i += kLanes)
    for (Index lane = 0; lane < kLanes; ++lane) take(lane, a[i + lane]);
  for (; i < count; ++i) take(0, a[i]);
  double found = 0.0, sum = 0.0;
  for (Index lane = 0; lane < kLanes; ++lane) {
    found = std::max(found, largest[lane]);
    sum += poison[lane];
  }
  return found + sum;
}

/// The caller's own storage, where it is float64 in a layout that the BLAS can read.
std::optional<Dense> direct(const MatrixView& view) {
  constexpr Index size = sizeof(double);
  if (view.dtype != Dtype::f64 || view.scale != 1.0 || !aligned(view, size)) return std::nullopt;
  const auto* data = static_cast<const double*>(view.data);
  const Index row_step = view.rows == 1 ? std::max<Index>(1, view.cols) : view.row_stride / size;
  const Index col_step = view.cols == 1 ? std::max<Index>(1, view.rows) : view.col_stride / size;
  if ((col_step == 1 || view.cols == 1) && row_step >= view.cols && row_step <= kMaxBlasSize)
    return Dense{data, view.rows, view.cols, row_step, 'T'};
  if ((row_step == 1 || view.rows == 1) && col_step >= view.rows && col_step <= kMaxBlasSize)
    return Dense{data, view.rows, view.cols, col_step, 'N'};
  return std::nullopt;
}

[[noreturn]] void throw_not_finite(const MatrixView& view, Index row, Index col, double value) {
  if (view.flipped) std::swap(row, col);
  throw std::invalid_argument(std::string(view.name) + " must be finite, and holds " +
                              (std::isnan(value) ? "NaN" : "infinity") + " at row " +
                              std::to_string(row) + ", column " + std::to_string(col));
}

}  // namespace

Index item_size(Dtype dtype) {
  Index size = 0;
  with_type(dtype, [&]<class T>(RowWidener<T>) { size = sizeof(T); });
  return size;
}

void multiply(double alpha, const Dense& a, const Dense& b, double beta, double* c, Index ldc) {
  lapack::gemm(a.op, b.op, a.rows, b.cols, a.cols, alpha, a.data, a.ld, b.data, b.ld, beta, c, ldc);
}

RowBlocks::RowBlocks(const MatrixView& view, Index max_rows, bool row_major) : view_(view) {
  direct_ = direct(view);
  if (direct_ && row_major && direct_->op != 'T') direct_.reset();
  Index fitting = view.rows;
  if (!direct_) {
    by_rows_ = row_major || std::abs(view.col_stride) <= std::abs(view.row_stride);
    const Index wanted = std::max(kUsefulRows, kCacheDoubles / view.cols);
    fitting = std::clamp<Index>(kBufferDoubles / view.cols, 1, wanted);
  }
  if (max_rows > 0) fitting = std::min(fitting, max_rows);
  block_rows_ = std::min({fitting, view.rows, kMaxBlasSize});
  if (!direct_) buffer_.resize(size(block_rows_ * view.cols));
}

bool RowBlocks::next(Dense& block) {
  if (at_ >= view_.rows) return false;
  const Index rows = std::min(block_rows_, view_.rows - at_);
  first_row_ = at_;
  at_ += rows;
  if (direct_) {
    block = *direct_;
    block.data += first_row_ * (block.op == 'T' ? block.ld : 1);
    block.rows = rows;
  } else if (by_rows_) {
    pack(view_, first_row_, rows, buffer_.data(), view_.cols);
    block = {buffer_.data(), rows, view_.cols, view_.cols, 'T'};
  } else {
    MatrixView part = view_.transposed();
    part.data = address(part, 0, first_row_);
    part.cols = rows;
    pack(part, 0, part.rows, buffer_.data(), rows);
    block = {buffer_.data(), rows, view_.cols, rows, 'N'};
  }
  return true;
}

Dense whole(const MatrixView& view, std::vector<double>& storage) {
  if (const auto block = direct(view)) return *block;
  storage.resize(size(view.rows * view.cols));
  copy_to(view, storage.data());
  return {storage.data(), view.rows, view.cols, view.rows, 'N'};
}

void copy_to(const MatrixView& view, double* out, Index ld) {
  const MatrixView columns = view.transposed();
  pack(columns, 0, columns.rows, out, ld == 0 ? columns.cols : ld);
}

MatrixView row_range(const MatrixView& view, Index first, Index count) {
  MatrixView range = view;
  range.data = address(view, first, 0);
  range.rows = count;
  return range;
}

int scale_exponent(const MatrixView& view) {
  double largest = 0.0;
  RowBlocks blocks(view, 1024);
  for (Dense block{}; blocks.next(block);) {
    const Index lines = block.op == 'T' ? block.rows : block.cols;
    const Index length = block.op == 'T' ? block.cols : block.rows;
    const bool dense = block.ld == length;  // then all lines are one
    const Index pieces = dense ? 1 : lines, count = dense ? lines * length : length;
    for (Index piece = 0; piece < pieces; ++piece) {
      const double* entries = block.data + piece * block.ld;
      const double piece_max = max_abs(entries, count);
      if (std::isnan(piece_max)) {
        for (Index at = 0; at < count; ++at) {
          if (std::isfinite(entries[at])) continue;
          const Index line = piece + at / length, i = at % length;
          const Index row = blocks.first_row() + (block.op == 'T' ? line : i);
          throw_not_finite(view, row, block.op == 'T' ? i : line, entries[at]);
        }
      }
      largest = std::max(largest, piece_max);
    }
  }
  int exponent = 0;
  if (largest > 0.0) std::frexp(largest, &exponent);
  return std::max(exponent, -1022);  // 2^1074 is not a double
}

MatrixView scaled(const MatrixView& view, int exponent) {
  MatrixView result = view;
  result.scale = view.scale * std::ldexp(1.0, -exponent);
  return result;
}

double asymmetry(const double* a, Index n) {
  constexpr Index kLanes = 8;
  double largest[kLanes] = {};  // side by side, as in max_abs
  const auto take = [&](Index lane, double x) {
    const double magnitude = std::fabs(x);
    largest[lane] = largest[lane] < magnitude ? magnitude : largest[lane];
  };
  for_each_tile_pair(a, n, [&](Index i0, Index j0, Index rows, Index cols, const Tile& upper) {
    for (Index i = 0; i < rows; ++i) {
      const double* lower = a + j0 + (i0 + i) * n;
      Index j = 0;
      for (; j + kLanes <= cols; j += kLanes)
        for (Index lane = 0; lane < kLanes; ++lane)
          take(lane, upper[i][j + lane] - lower[j + lane]);
      for (; j < cols; ++j) take(0, upper[i][j] - lower[j]);
    }
  });
  return *std::max_element(largest, largest + kLanes);
}

void mirror_upper(double* a, Index n) {
  for_each_tile_pair(a, n, [&](Index i0, Index j0, Index rows, Index cols, const Tile& upper) {
    for (Index i = 0; i < rows; ++i) {
      double* lower = a + j0 + (i0 + i) * n;
      for (Index j = i0 == j0 ? i : 0; j < cols; ++j) lower[j] = upper[i][j];
    }
  });
}

void mirror_lower(double* a, Index n) {
  Tile tile;
  for (Index j0 = 0; j0 < n; j0 += kTile) {
    const Index cols = std::min(kTile, n - j0);
    for (Index i0 = 0; i0 <= j0; i0 += kTile) {
      const Index rows = std::min(kTile, n - i0);
      for (Index i = 0; i < rows; ++i)
        for (Index j = 0; j < cols; ++j) tile[j][i] = a[j0 + j + (i0 + i) * n];
      for (Index j = 0; j < cols; ++j)
        for (Index i = 0; i < (i0 == j0 ? j : rows); ++i) a[i0 + i + (j0 + j) * n] = tile[j][i];
    }
  }
}

void require_representable(const double* a, Index count, const char* what) {
  if (!std::isfinite(max_abs(a, count)))
    throw std::overflow_error(std::string(what) +
                              " is not representable in float64: it has entries beyond 1.8e308");
}

void rescale(double* a, Index count, int exponent) {
  if (exponent == 0) return;
  // In two factors: 2^exponent alone may overflow where the product does not.
  const double half = std::ldexp(1.0, std::clamp(exponent / 2, -1000, 1000));
  const double rest = std::ldexp(1.0, std::clamp(exponent - exponent / 2, -1000, 1000));
  for (Index i = 0; i < count; ++i) a[i] = a[i] * half * rest;
}

void scale_by_power(double* a, Index count, int exponent, const char* what) {
  rescale(a, count, exponent);
  require_representable(a, count, what);
}

}  // namespace immucond
