#pragma once

#include <functional>

#include "immucond/lapack.hpp"

namespace immucond {

/// work(0), ..., work(count - 1) on as many threads as the BLAS has, each with the BLAS at one: for
/// many small problems. Rethrows the first index's exception, after all have ended.
void parallel_for(Index count, const std::function<void(Index)>& work);

}  // namespace immucond
