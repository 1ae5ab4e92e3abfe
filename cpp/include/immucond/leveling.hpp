#pragma once

#include "immucond/numeric.hpp"

namespace immucond {

/// Rotates pairs of the n rows (of `width` entries) in place, until the Hessian of these features,
/// H (n x n, symmetric), has a constant diagonal: at most n - 1 rotations, O(n (n + width)) in all.
void level(double* rows, const double* H, Index n, Index width);

}  // namespace immucond
