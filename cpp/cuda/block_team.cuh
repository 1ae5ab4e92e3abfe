#pragma once

#include "team.hpp"

namespace immucond::cuda {

/// The threads of a CUDA block (one-dimensional, whole warps), as team.hpp asks for.
struct BlockTeam {
  static constexpr unsigned kAll = 0xffffffffu;

  __device__ int thread() const { return static_cast<int>(threadIdx.x); }
  __device__ int threads() const { return static_cast<int>(blockDim.x); }
  __device__ int lane() const { return thread() % kWarp; }
  __device__ int warp() const { return thread() / kWarp; }
  __device__ int warps() const { return threads() / kWarp; }

  __device__ void sync() const { __syncthreads(); }
  __device__ void sync_warp() const { __syncwarp(); }
  __device__ double exchange(double x, int mask) const { return __shfl_xor_sync(kAll, x, mask); }
  __device__ double broadcast(double x, int lane) const { return __shfl_sync(kAll, x, lane); }

  __device__ void multiply_add(double a, double b, Accumulator& c) const {
    asm volatile("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0, %1}, {%2}, {%3}, {%0, %1};"
                 : "+d"(c.first), "+d"(c.second)
                 : "d"(a), "d"(b));
  }
};

}  // namespace immucond::cuda
