#pragma once

#include <stdexcept>

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

}  // namespace immucond
