#include "block_team.cuh"
#include "device.hpp"
#include "lanczos.hpp"
#include "lanczos_step.hpp"
#include "launch.hpp"
#include "libraries.hpp"

namespace immucond::cuda {
namespace {

template <class Body>
__global__ void run_blocks(const Body body) {
  __shared__ double scratch[2 * kVectorThreads / kWarp];
  body(BlockTeam{}, static_cast<int>(blockIdx.x), static_cast<int>(gridDim.x), scratch);
}

struct Grid {
  int n;
  const double* A;
  void* stream;

  void multiply(const double* v, double* w) const { dsymv(stream, n, A, n, v, w); }
  int blocks(std::int64_t size) const { return vector_blocks(size); }

  template <class Body>
  void run(int blocks, const Body& body) const {
    run_blocks<<<static_cast<unsigned>(blocks), kVectorThreads, 0,
                 static_cast<cudaStream_t>(stream)>>>(body);
    check(cudaGetLastError(), "lanczos");
  }
};

}  // namespace

void lanczos(std::int64_t n, const double* A, double* V, int width, int first, int last, double* T,
             int rows, double* work, void* stream) {
  const Grid grid{static_cast<int>(n), A, stream};
  lanczos_steps(grid, n, V, width, first, last, T, rows, work);
}

void measure(std::int64_t count, const double* x, double* out, void* stream) {
  Grid{0, nullptr, stream}.run(kParts, Measure{count, x, out});
}

}  // namespace immucond::cuda
