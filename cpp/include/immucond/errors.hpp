#pragma once

#include <cstdio>
#include <stdexcept>
#include <string>

namespace immucond {

// Bad arguments are std::invalid_argument, unrepresentable results std::overflow_error; these two
// have no standard counterpart.

/// A LAPACK routine that the caller could not have made fail reported a failure.
struct LapackError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// SciPy's capsule table lacks a routine, or has it with another signature.
struct MissingRoutine : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// A number as messages show it: four significant digits.
inline std::string format(double x) {
  char text[32];
  std::snprintf(text, sizeof text, "%.4g", x);
  return text;
}

}  // namespace immucond
