#pragma once

#include <cstdint>

namespace immucond::cuda {

/// Steps `first` to `last` - 1 of band Lanczos (Ruhe 1979) with full reorthogonalization: A V_k =
/// V_{k+width} T. Step j multiplies column j of V (n x (most + width), by columns; the first
/// `width` are orthonormal) and appends column j + width; its coefficients go to column j of T
/// ((most + width) x most, by columns, `rows` apart, zero before). `work` holds
/// n + rows + vector_blocks(n) numbers. Nothing is waited for.
void lanczos(std::int64_t n, const double* A, double* V, int width, int first, int last, double* T,
             int rows, double* work, void* stream);

/// Sums of squares and largest magnitudes of x by parts: 3 numbers a part, see lanczos_step.hpp.
inline constexpr int kParts = 256;
void measure(std::int64_t count, const double* x, double* out, void* stream);

}  // namespace immucond::cuda
