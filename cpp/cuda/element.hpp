#pragma once

#include <cstring>

#include "team.hpp"

namespace immucond::cuda {

// Entries as they lie in memory, read exactly as float64.

struct Half {
  std::uint16_t bits;
};
struct BFloat16 {
  std::uint16_t bits;
};

IMMUCOND_EVERYWHERE float as_float(std::uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

IMMUCOND_EVERYWHERE double widen(double x) { return x; }
IMMUCOND_EVERYWHERE double widen(float x) { return static_cast<double>(x); }
IMMUCOND_EVERYWHERE double widen(BFloat16 x) {
  return static_cast<double>(as_float(static_cast<std::uint32_t>(x.bits) << 16));
}
IMMUCOND_EVERYWHERE double widen(Half x) {
  const std::uint32_t bits = x.bits, sign = (bits & 0x8000u) << 16, rest = (bits & 0x7fffu) << 13;
  // As float32 with the exponent's bias 112 too small; all ones is infinity or NaN in both.
  if ((bits & 0x7c00u) == 0x7c00u) return static_cast<double>(as_float(sign | 0x7f800000u | rest));
  return static_cast<double>(as_float(sign | rest)) * 0x1p112;
}

/// What gradients by entries of type T are stored in: at least float32.
template <class T>
struct GradientOf {
  using type = float;
};
template <>
struct GradientOf<double> {
  using type = double;
};

/// A stack of matrices with any strides, counted in entries.
template <class T>
struct Stack {
  const T* data = nullptr;
  std::int64_t stack_stride = 0, row_stride = 0, col_stride = 0;
  int rows = 0, cols = 0;

  IMMUCOND_EVERYWHERE double at(int index, int row, int col) const {
    return widen(data[index * stack_stride + row * row_stride + col * col_stride]);
  }
};

}  // namespace immucond::cuda
