#pragma once

#include <cstdint>

#include "launch.hpp"

namespace immucond::cuda {

/// One launch on the current device, asynchronously on `stream` (a cudaStream_t): nothing is
/// allocated and nothing waited for, so a graph may capture it.
template <class T>
void solve_small(const SmallProblems<T>& problems, std::int64_t count, void* stream);

extern template void solve_small(const SmallProblems<double>&, std::int64_t, void*);
extern template void solve_small(const SmallProblems<float>&, std::int64_t, void*);
extern template void solve_small(const SmallProblems<Half>&, std::int64_t, void*);
extern template void solve_small(const SmallProblems<BFloat16>&, std::int64_t, void*);

}  // namespace immucond::cuda
