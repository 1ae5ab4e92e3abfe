#include "device.hpp"
#include "gram.hpp"
#include "launch.hpp"

namespace immucond::cuda {
namespace {

template <class Body>
__global__ void each(std::int64_t count, const Body body) {
  const std::int64_t step = std::int64_t{gridDim.x} * blockDim.x;
  for (std::int64_t at = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x; at < count;
       at += step)
    body(at);
}

/// body(i) for i < count.
template <class Body>
void for_each(std::int64_t count, void* stream, const char* what, const Body& body) {
  if (count == 0) return;
  each<<<static_cast<unsigned>(entry_blocks(count)), kEntryThreads, 0,
         static_cast<cudaStream_t>(stream)>>>(count, body);
  check(cudaGetLastError(), what);
}

template <class T>
struct WidenRows {
  const T* data;
  std::int64_t cols, row_stride, col_stride, first;
  double* out;
  __device__ void operator()(std::int64_t at) const {
    const std::int64_t row = first + at / cols, col = at % cols;
    out[at] = widen(data[row * row_stride + col * col_stride]);
  }
};

template <class T>
void widen_as(const DeviceMatrix& X, std::int64_t first, std::int64_t count, double* out,
              void* stream) {
  for_each(
      count * X.cols, stream, "widen_rows",
      WidenRows<T>{static_cast<const T*>(X.data), X.cols, X.row_stride, X.col_stride, first, out});
}

template <class Real>
struct StoreRows {
  const double* a;
  std::int64_t first, cols, row_stride, col_stride;
  Real* out;
  __device__ void operator()(std::int64_t at) const {
    const std::int64_t row = first + at / cols, col = at % cols;
    out[row * row_stride + col * col_stride] = static_cast<Real>(a[at]);
  }
};

template <class Real>
void store_as(const double* a, std::int64_t first, std::int64_t count, const Destination& out,
              void* stream) {
  for_each(count * out.cols, stream, "store_rows",
           StoreRows<Real>{a, first, out.cols, out.row_stride, out.col_stride,
                           static_cast<Real*>(out.data)});
}

struct MirrorLower {
  std::int64_t n;
  double* a;
  __device__ void operator()(std::int64_t at) const {
    const std::int64_t i = at % n, j = at / n;
    if (i < j) a[at] = a[j + i * n];
  }
};

struct RankTwo {
  std::int64_t n;
  double alpha, beta, gamma;
  const double *u, *w, *H;
  double* out;
  __device__ void operator()(std::int64_t at) const {
    const std::int64_t i = at % n, j = at / n;
    const double top = alpha != 0.0 ? alpha * (u[i] * u[j]) : 0.0;
    const double bottom = beta != 0.0 ? beta * (w[i] * w[j]) : 0.0;
    out[at] = top + bottom + gamma * H[at];
  }
};

}  // namespace

void widen_rows(const DeviceMatrix& X, std::int64_t first, std::int64_t count, double* out,
                void* stream) {
  switch (X.dtype) {
    case Dtype::f64:
      return widen_as<double>(X, first, count, out, stream);
    case Dtype::f32:
      return widen_as<float>(X, first, count, out, stream);
    case Dtype::f16:
      return widen_as<Half>(X, first, count, out, stream);
    case Dtype::bf16:
      return widen_as<BFloat16>(X, first, count, out, stream);
  }
}

void store_rows(const double* a, std::int64_t first, std::int64_t count, const Destination& out,
                void* stream) {
  if (out.wide)
    store_as<double>(a, first, count, out, stream);
  else
    store_as<float>(a, first, count, out, stream);
}

void mirror_lower(std::int64_t n, double* a, void* stream) {
  for_each(n * n, stream, "mirror_lower", MirrorLower{n, a});
}

void rank_two(std::int64_t n, double alpha, const double* u, double beta, const double* w,
              double gamma, const double* H, double* out, void* stream) {
  for_each(n * n, stream, "rank_two", RankTwo{n, alpha, beta, gamma, u, w, H, out});
}

}  // namespace immucond::cuda
