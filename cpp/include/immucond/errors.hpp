#pragma once

#include <cstdio>
#include <stdexcept>
#include <string>

namespace immucond {

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

/// A number as messages show it: four significant digits.
inline std::string format(double x) {
  char text[32];
  std::snprintf(text, sizeof text, "%.4g", x);
  return text;
}

}  // namespace immucond
