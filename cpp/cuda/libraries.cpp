#include "libraries.hpp"

#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <map>
#include <mutex>
#include <utility>

#include "device.hpp"

namespace immucond::cuda {
namespace {

using Handle = void*;

// What the entries are called with, as cublas_v2.h and cusolverDn.h have it (CUDA 11 to 13).
constexpr int kNo = 0, kYes = 1;                           // cublasOperation_t: N, T
constexpr int kLower = 0;                                  // cublasFillMode_t
constexpr int kVectors = 1;                                // cusolverEigMode_t
constexpr int kFloat32 = 0, kFloat16 = 2, kBFloat16 = 14;  // cudaDataType
constexpr int kCompute32 = 68, kComputeTf32 = 77;          // cublasComputeType_t
constexpr int kDefaultAlgorithm = -1;                      // cublasGemmAlgo_t

/// A function pointer's type from its signature.
template <char C>
struct Parameter;
template <>
struct Parameter<'h'> {
  using type = Handle;
};
template <>
struct Parameter<'i'> {
  using type = int;
};
template <>
struct Parameter<'p'> {
  using type = const void*;
};
template <std::size_t N>
struct Signature {
  char text[N];
  constexpr Signature(const char (&from)[N]) { std::copy_n(from, N, text); }
};
template <Signature S, class = std::make_index_sequence<sizeof(S.text) - 1>>
struct Function;
template <Signature S, std::size_t... I>
struct Function<S, std::index_sequence<I...>> {
  using type = int (*)(typename Parameter<S.text[I]>::type...);
};

struct Table {
#define IMMUCOND_FIELD(name, signature) Function<signature>::type name = nullptr;
  IMMUCOND_CUBLAS(IMMUCOND_FIELD)
  IMMUCOND_CUSOLVER(IMMUCOND_FIELD)
#undef IMMUCOND_FIELD
};

std::mutex mutex;
Table table;
Bound origin;
std::atomic<bool> bound = false;  // then neither is written any more

void* open(const std::string& name, int flags) { return dlopen(name.c_str(), RTLD_NOW | flags); }

/// Fills `fields` from the first candidate that has all names.
std::string fill(const std::vector<std::string>& candidates,
                 const std::vector<std::pair<const char*, void**>>& fields, const char* library) {
  std::string reasons;
  for (const int flags : {RTLD_NOLOAD, RTLD_LOCAL})
    for (const std::string& candidate : candidates) {
      void* opened = open(candidate, flags);
      if (opened == nullptr) {
        const char* reason = dlerror();
        if (flags != RTLD_NOLOAD)
          reasons += std::string("\n  ") + (reason ? reason : candidate.c_str());
        continue;
      }
      const char* missing = nullptr;
      for (const auto& [name, field] : fields) {
        *field = dlsym(opened, name);
        if (*field == nullptr) missing = name;
      }
      if (missing == nullptr) return candidate;
      reasons += "\n  " + candidate + " lacks " + missing;
    }
  throw MissingLibrary(std::string(library) + " was not found: install PyTorch for CUDA, or " +
                       "nvidia-cublas and nvidia-cusolver" +
                       (reasons.empty() ? " (no candidates were given)" : "; tried:" + reasons));
}

const Table& entries() {
  if (!bound) throw MissingLibrary("cuBLAS and cuSOLVER were not bound");
  return table;
}

void require(int status, const char* what) {
  if (status != 0)
    throw LibraryError(std::string(what) + " failed with status " + std::to_string(status));
}

struct Handles {
  Handle blas = nullptr, solver = nullptr;
};

/// Handles that no thread holds, by device. Never destroyed: at the end of the process the driver
/// may be gone before them.
struct Idle {
  std::mutex mutex;
  std::multimap<int, Handles> handles;
};
Idle& idle() {
  static auto* const all = new Idle;
  return *all;
}

/// A thread holds its handles, one pair a device, until it ends; the next thread takes them over.
struct Held {
  std::map<int, Handles> handles;

  ~Held() {
    const std::lock_guard lock(idle().mutex);
    idle().handles.insert(handles.begin(), handles.end());
  }
};

Handles& handles() {
  thread_local Held held;
  const int device = current_device();
  const auto [at, first] = held.handles.try_emplace(device);
  if (first) {
    const std::lock_guard lock(idle().mutex);
    if (const auto left = idle().handles.extract(device)) at->second = left.mapped();
  }
  return at->second;
}

Handle blas(void* stream) {
  Handle& handle = handles().blas;
  if (handle == nullptr) require(entries().cublasCreate_v2(&handle), "cublasCreate");
  require(entries().cublasSetStream_v2(handle, stream), "cublasSetStream");
  return handle;
}

Handle solver(void* stream) {
  Handle& handle = handles().solver;
  if (handle == nullptr) require(entries().cusolverDnCreate(&handle), "cusolverDnCreate");
  require(entries().cusolverDnSetStream(handle, stream), "cusolverDnSetStream");
  return handle;
}

}  // namespace

Bound bind_libraries(const std::vector<std::string>& cublas,
                     const std::vector<std::string>& cusolver) {
  const std::lock_guard lock(mutex);
  if (bound) return origin;
  Table found;
  Bound where;
#define IMMUCOND_ADDRESS(name, signature) {#name, reinterpret_cast<void**>(&found.name)},
  where.cublas = fill(cublas, {IMMUCOND_CUBLAS(IMMUCOND_ADDRESS)}, "cuBLAS");
  where.cusolver = fill(cusolver, {IMMUCOND_CUSOLVER(IMMUCOND_ADDRESS)}, "cuSOLVER");
#undef IMMUCOND_ADDRESS
  table = found;
  origin = where;
  bound = true;
  return where;
}

bool libraries_bound() { return bound; }

void dsyrk(void* stream, bool transposed, int n, int k, double alpha, const double* a, int lda,
           double beta, double* c, int ldc) {
  require(entries().cublasDsyrk_v2(blas(stream), kLower, transposed ? kYes : kNo, n, k, &alpha, a,
                                   lda, &beta, c, ldc),
          "cublasDsyrk");
}

void dgemm(void* stream, bool transposed, int m, int n, int k, double alpha, const double* a,
           int lda, const double* b, int ldb, double beta, double* c, int ldc) {
  require(entries().cublasDgemm_v2(blas(stream), transposed ? kYes : kNo, kNo, m, n, k, &alpha, a,
                                   lda, b, ldb, &beta, c, ldc),
          "cublasDgemm");
}

void dsymv(void* stream, int n, const double* a, int lda, const double* x, double* y) {
  const double one = 1.0, zero = 0.0;
  require(entries().cublasDsymv_v2(blas(stream), kLower, n, &one, a, lda, x, 1, &zero, y, 1),
          "cublasDsymv");
}

void narrow_gram(void* stream, Narrow dtype, bool transposed, int n, int k, const void* a, int lda,
                 float beta, float* c, int ldc) {
  const int type = dtype == Narrow::f32 ? kFloat32 : dtype == Narrow::f16 ? kFloat16 : kBFloat16;
  const int compute = dtype == Narrow::f32 ? kComputeTf32 : kCompute32;
  const float one = 1.0f;
  require(entries().cublasGemmEx(blas(stream), transposed ? kYes : kNo, transposed ? kNo : kYes, n,
                                 n, k, &one, a, type, lda, a, type, lda, &beta, c, kFloat32, ldc,
                                 compute, kDefaultAlgorithm),
          "cublasGemmEx");
}

int inverse_workspace(int n, double* a, int lda) {
  int factor = 0, invert = 0;
  require(entries().cusolverDnDpotrf_bufferSize(solver(nullptr), kLower, n, a, lda, &factor),
          "cusolverDnDpotrf_bufferSize");
  require(entries().cusolverDnDpotri_bufferSize(solver(nullptr), kLower, n, a, lda, &invert),
          "cusolverDnDpotri_bufferSize");
  return factor > invert ? factor : invert;
}

void inverse(void* stream, int n, double* a, int lda, double* work, int lwork, int* info) {
  require(entries().cusolverDnDpotrf(solver(stream), kLower, n, a, lda, work, lwork, info),
          "cusolverDnDpotrf");
  require(entries().cusolverDnDpotri(solver(stream), kLower, n, a, lda, work, lwork, info + 1),
          "cusolverDnDpotri");
}

int syevd_workspace(int n, double* a, int lda, double* w) {
  int size = 0;
  require(
      entries().cusolverDnDsyevd_bufferSize(solver(nullptr), kVectors, kLower, n, a, lda, w, &size),
      "cusolverDnDsyevd_bufferSize");
  return size;
}

void syevd(void* stream, int n, double* a, int lda, double* w, double* work, int lwork, int* info) {
  require(
      entries().cusolverDnDsyevd(solver(stream), kVectors, kLower, n, a, lda, w, work, lwork, info),
      "cusolverDnDsyevd");
}

}  // namespace immucond::cuda
