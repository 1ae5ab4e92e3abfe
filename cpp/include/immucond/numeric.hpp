#pragma once

#include <cstddef>
#include <cstdio>
#include <stdexcept>
#include <string>

// Marks what a CUDA device calls as well as the host: no state, no allocation, no exception.
#ifdef __CUDACC__
#define IMMUCOND_EVERYWHERE __host__ __device__ inline
#else
#define IMMUCOND_EVERYWHERE inline
#endif

namespace immucond {

using Index = std::ptrdiff_t;

/// The spacing of float64 numbers at 1.
inline constexpr double kEps = 0x1p-52;

inline std::size_t size(Index n) { return static_cast<std::size_t>(n); }

/// ||x||, also where the squares leave the range of float64.
double norm(const double* x, Index n, Index stride = 1);
/// x / ||x||, in place; a zero vector stays.
void normalize(double* x, Index n, Index stride = 1);

/// A number as messages show it: four significant digits.
inline std::string format(double x) {
  char text[32];
  std::snprintf(text, sizeof text, "%.4g", x);
  return text;
}

// Bad arguments are std::invalid_argument, unrepresentable results std::overflow_error; these three
// have no standard counterpart.

/// A LAPACK routine that the caller could not have made fail reported a failure.
struct LapackError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// SciPy's capsule table lacks a routine, or has it with another signature.
struct MissingRoutine : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// All nonzero singular values are equal, and what was asked for is infinite there.
struct DegenerateSpectrum : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

}  // namespace immucond
