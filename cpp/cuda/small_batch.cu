#include "block_team.cuh"
#include "device.hpp"
#include "small_batch.hpp"

namespace immucond::cuda {
namespace {

template <class T>
__global__ void __launch_bounds__(8 * kWarp) small_problems(const SmallProblems<T> problems) {
  extern __shared__ double shared[];
  small_problem(BlockTeam{}, problems, static_cast<int>(blockIdx.x), shared);
}

}  // namespace

template <class T>
void solve_small(const SmallProblems<T>& problems, std::int64_t count, void* stream) {
  const Launch launch =
      small_launch(problems.kind, count, problems.input.rows, problems.input.cols);
  if (launch.blocks == 0) return;
  check(cudaFuncSetAttribute(small_problems<T>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(launch.shared_bytes)),
        "cudaFuncSetAttribute");
  small_problems<T>
      <<<static_cast<unsigned>(launch.blocks), static_cast<unsigned>(launch.threads),
         static_cast<std::size_t>(launch.shared_bytes), static_cast<cudaStream_t>(stream)>>>(
          problems);
  check(cudaGetLastError(), "small_problems");
}

template void solve_small(const SmallProblems<double>&, std::int64_t, void*);
template void solve_small(const SmallProblems<float>&, std::int64_t, void*);
template void solve_small(const SmallProblems<Half>&, std::int64_t, void*);
template void solve_small(const SmallProblems<BFloat16>&, std::int64_t, void*);

}  // namespace immucond::cuda
