// SciPy's BLAS and LAPACK, and the build.
#include <string>
#include <utility>
#include <vector>

#include "arguments.hpp"
#include "immucond/blas_threads.hpp"
#include "immucond/lapack.hpp"
#include "immucond/multiversion.hpp"

namespace immucond::bindings {
namespace {

std::vector<lapack::Capsule> capsules_of(const py::dict& capi) {
  std::vector<lapack::Capsule> capsules;
  for (const auto& [key, value] : capi) {
    if (!PyCapsule_CheckExact(value.ptr())) continue;
    const char* signature = PyCapsule_GetName(value.ptr());
    capsules.push_back({py::cast<std::string>(key), signature == nullptr ? "" : signature,
                        PyCapsule_GetPointer(value.ptr(), signature)});
  }
  return capsules;
}

void bind_lapack(const py::dict& blas, const py::dict& lapack_routines) {
  std::vector<lapack::Capsule> capsules = capsules_of(blas);
  for (auto& capsule : capsules_of(lapack_routines)) capsules.push_back(std::move(capsule));
  lapack::bind(capsules);
}

const char* simd_level() {
#if IMMUCOND_HAS_MULTIVERSION
  __builtin_cpu_init();
  if (__builtin_cpu_supports("x86-64-v4")) return "AVX-512 (x86-64-v4)";
  if (__builtin_cpu_supports("x86-64-v3")) return "AVX2 + FMA (x86-64-v3)";
  return "baseline (multi-versioned)";
#else
  return "baseline";
#endif
}

py::dict build_info() {
  using namespace py::literals;
  return py::dict("version"_a = IMMUCOND_VERSION, "compiler"_a = __VERSION__,
                  "cplusplus"_a = static_cast<long>(__cplusplus), "simd"_a = simd_level(),
                  "blas_integer_bits"_a = lapack::integer_bits(),
                  "blas_threads"_a = blas::threads());
}

}  // namespace

void register_lapack(py::module_& m) {
  bind_lapack(py::module_::import("scipy.linalg.cython_blas").attr("__pyx_capi__"),
              py::module_::import("scipy.linalg.cython_lapack").attr("__pyx_capi__"));
  m.def("bind_lapack", &bind_lapack, py::arg("blas"), py::arg("lapack"));
  m.def("build_info", &build_info);
  m.def("lapack_calls", [] {
    py::dict counts;
    for (const auto& [name, count] : lapack::call_counts()) counts[py::str(name)] = count;
    return counts;
  });
  m.def("blas_threads", &blas::threads,
        "The thread count of SciPy's BLAS; 0 where it offers no control of it.");
  m.def("set_blas_threads", &blas::set_threads, py::arg("count"),
        "Set the thread count of SciPy's BLAS, where it offers control of it.");
}

}  // namespace immucond::bindings
