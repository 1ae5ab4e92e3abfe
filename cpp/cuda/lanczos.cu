#include "block_team.cuh"
#include "device.hpp"
#include "lanczos.hpp"
#include "lanczos_step.hpp"
#include "launch.hpp"
#include "libraries.hpp"

namespace immucond::cuda {
namespace {

constexpr int kWarps = kVectorThreads / kWarp;

__global__ void project_blocks(std::int64_t n, const double* V, const double* w, double* c,
                               double* total, bool again) {
  __shared__ double scratch[kWarps];
  project(BlockTeam{}, static_cast<int>(blockIdx.x), n, V, w, c, total, again, scratch);
}

__global__ void subtract_blocks(std::int64_t n, int size, const double* V, const double* c,
                                double* w, double* squares) {
  __shared__ double scratch[kWarps];
  subtract(BlockTeam{}, static_cast<int>(blockIdx.x), n, size, V, c, w, squares, scratch);
}

__global__ void append_blocks(std::int64_t n, const double* squares, const double* w, double* v,
                              double* norm) {
  append(BlockTeam{}, static_cast<int>(blockIdx.x), static_cast<int>(gridDim.x), n, squares, w, v,
         norm);
}

__global__ void measure_blocks(std::int64_t count, const double* x, double* out) {
  __shared__ double scratch[2 * kWarps];
  measure(BlockTeam{}, static_cast<int>(blockIdx.x), static_cast<int>(gridDim.x), count, x, out,
          scratch);
}

}  // namespace

void lanczos(std::int64_t n, const double* A, double* V, int width, int first, int last, double* T,
             int rows, double* work, void* stream) {
  double *w = work, *c = work + n, *squares = c + rows;
  const auto on = static_cast<cudaStream_t>(stream);
  const auto blocks = static_cast<unsigned>(vector_blocks(n));
  for (int j = first; j < last; ++j) {
    const int size = j + width;
    double* column = T + std::int64_t{j} * rows;
    dsymv(stream, static_cast<int>(n), A, static_cast<int>(n), V + j * n, w);
    for (const bool again : {false, true}) {
      project_blocks<<<static_cast<unsigned>(size), kVectorThreads, 0, on>>>(n, V, w, c, column,
                                                                             again);
      subtract_blocks<<<blocks, kVectorThreads, 0, on>>>(n, size, V, c, w, squares);
    }
    append_blocks<<<blocks, kVectorThreads, 0, on>>>(n, squares, w, V + size * n, column + size);
    check(cudaGetLastError(), "lanczos");
  }
}

void measure(std::int64_t count, const double* x, double* out, void* stream) {
  measure_blocks<<<kParts, kVectorThreads, 0, static_cast<cudaStream_t>(stream)>>>(count, x, out);
  check(cudaGetLastError(), "measure");
}

}  // namespace immucond::cuda
