// Addresses, sizes and strings from Python; no mathematics. immucond/cuda checks arguments.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <tuple>
#include <vector>

#include "device.hpp"
#include "gram.hpp"
#include "lanczos.hpp"
#include "libraries.hpp"
#include "small_batch.hpp"

namespace py = pybind11;
using namespace immucond;
using namespace immucond::cuda;

namespace {

using Address = std::uintptr_t;
using Choice = std::tuple<Index, double, double, double>;  // as `Rule`
/// Address, dtype, shape and strides, in entries.
using Array =
    std::tuple<Address, std::string, std::vector<std::int64_t>, std::vector<std::int64_t>>;

template <class T>
T* pointer(Address address) {
  return reinterpret_cast<T*>(address);
}

template <class Value>
Value named(const std::string& name, const std::vector<std::pair<const char*, Value>>& values) {
  for (const auto& [known, value] : values)
    if (name == known) return value;
  throw py::value_error("unknown name " + name);
}

Dtype dtype_of(const std::string& name) {
  return named<Dtype>(name, {{"float64", Dtype::f64},
                             {"float32", Dtype::f32},
                             {"float16", Dtype::f16},
                             {"bfloat16", Dtype::bf16}});
}

Kind kind_of(const std::string& name) {
  return named<Kind>(
      name, {{"matrix", Kind::matrix}, {"features", Kind::features}, {"gram", Kind::gram}});
}

BuiltIn regularizer_of(const std::string& name) {
  return named<BuiltIn>(name, {{"none", BuiltIn::none},
                               {"r_well", BuiltIn::r_well},
                               {"r_ill", BuiltIn::r_ill},
                               {"kappa", BuiltIn::kappa},
                               {"log_kappa", BuiltIn::log_kappa}});
}

DeviceMatrix matrix_of(const Array& array) {
  const auto& [address, dtype, shape, strides] = array;
  if (shape.size() != 2 || strides.size() != 2) throw py::value_error("a matrix is needed");
  return {
      pointer<const void>(address), dtype_of(dtype), shape[0], shape[1], strides[0], strides[1]};
}

struct Outputs {
  Address value, gradient, sigma, vectors, rank, status, gram;
};

template <class T>
void solve(const Array& array, Kind kind, const Choice& rule, BuiltIn regularizer, Index p,
           const Outputs& out, void* stream) {
  const auto& [address, dtype, shape, strides] = array;
  SmallProblems<T> problems;
  problems.input = {
      pointer<const T>(address), strides[0], strides[1], strides[2], static_cast<int>(shape[1]),
      static_cast<int>(shape[2])};
  problems.kind = kind;
  std::tie(problems.rule.rank, problems.rule.rtol, problems.rule.precision, problems.rule.rounded) =
      rule;
  problems.regularizer = regularizer;
  problems.p = p;
  problems.value = pointer<double>(out.value);
  problems.gradient = pointer<typename SmallProblems<T>::Real>(out.gradient);
  problems.sigma = pointer<double>(out.sigma);
  problems.vectors = pointer<double>(out.vectors);
  problems.rank = pointer<int>(out.rank);
  problems.status = pointer<int>(out.status);
  problems.gram = pointer<double>(out.gram);
  solve_small(problems, shape[0], stream);
}

}  // namespace

PYBIND11_MODULE(_cuda, m, py::mod_gil_not_used()) {
  py::register_exception<CudaError>(m, "CudaError", PyExc_RuntimeError);
  py::register_exception<LibraryError>(m, "LibraryError", PyExc_RuntimeError);
  py::register_exception<MissingLibrary>(m, "MissingLibrary", PyExc_ImportError);

  m.def("build_info", [] {
    py::dict info;
    info["compiler"] = IMMUCOND_CUDA_COMPILER;
    info["architectures"] = IMMUCOND_CUDA_ARCHITECTURES;
    info["runtime"] = runtime_version();
    return info;
  });
  m.def("driver_version", &driver_version);
  m.def("devices", [] {
    py::list all;
    for (const Device& device : devices()) {
      py::dict entry;
      entry["name"] = device.name;
      entry["capability"] = std::make_tuple(device.major, device.minor);
      entry["multiprocessors"] = device.multiprocessors;
      entry["memory_bytes"] = device.memory_bytes;
      entry["shared_bytes"] = device.shared_bytes;
      all.append(entry);
    }
    return all;
  });
  m.def("shared_limit", &shared_limit);

  m.def("bind_libraries",
        [](const std::vector<std::string>& cublas, const std::vector<std::string>& cusolver) {
          const Bound found = bind_libraries(cublas, cusolver);
          return std::make_tuple(found.cublas, found.cusolver);
        });
  m.def("libraries_bound", &libraries_bound);

  m.def("is_small", [](const std::string& kind, std::int64_t rows, std::int64_t cols,
                       std::int64_t shared_bytes) {
    constexpr std::int64_t most = 1 << 30;
    return rows <= most && cols <= most &&
           is_small(kind_of(kind), static_cast<int>(rows), static_cast<int>(cols), shared_bytes);
  });
  m.def("small_workspace_bytes",
        [](const std::string& kind, std::int64_t count, int rows, int cols, bool gradient) {
          return small_workspace_bytes(kind_of(kind), count, rows, cols, gradient);
        });
  m.def(
      "small_problems",
      [](const Array& stack, const std::string& kind, const Choice& rule,
         const std::string& regularizer, Index p, Address value, Address gradient, Address sigma,
         Address vectors, Address rank, Address status, Address gram, int device, Address stream) {
        const auto& [address, dtype, shape, strides] = stack;
        if (shape.size() != 3 || strides.size() != 3)
          throw py::value_error("a stack of matrices is needed");
        if (!is_small(kind_of(kind), static_cast<int>(shape[1]), static_cast<int>(shape[2]),
                      shared_limit(device)))
          throw py::value_error("not a small problem");
        const Outputs out{value, gradient, sigma, vectors, rank, status, gram};
        const auto run = [&](auto entry) {
          solve<decltype(entry)>(stack, kind_of(kind), rule, regularizer_of(regularizer), p, out,
                                 pointer<void>(stream));
        };
        const Dtype entries = dtype_of(dtype);
        const py::gil_scoped_release release;
        const Current current(device);
        switch (entries) {
          case Dtype::f64:
            return run(double{});
          case Dtype::f32:
            return run(float{});
          case Dtype::f16:
            return run(Half{});
          case Dtype::bf16:
            return run(BFloat16{});
        }
      },
      py::kw_only(), py::arg("stack"), py::arg("kind"), py::arg("rule"), py::arg("regularizer"),
      py::arg("p"), py::arg("value"), py::arg("gradient"), py::arg("sigma"), py::arg("vectors"),
      py::arg("rank"), py::arg("status"), py::arg("gram"), py::arg("device"), py::arg("stream"));

  m.def("gram_workspace_bytes",
        [](const Array& X) { return plan_gram(matrix_of(X), false).workspace_bytes; });
  m.def(
      "gram",
      [](const Array& array, Address out, Address workspace, bool narrow, int device,
         Address stream) {
        const DeviceMatrix X = matrix_of(array);
        const py::gil_scoped_release release;
        const Current current(device);
        if (narrow)
          narrow_gram(X, pointer<float>(out), pointer<void>(stream));
        else
          gram(X, pointer<double>(out), pointer<double>(workspace), pointer<void>(stream));
      },
      py::kw_only(), py::arg("X"), py::arg("out"), py::arg("workspace"), py::arg("narrow"),
      py::arg("device"), py::arg("stream"));
  m.def("feature_hessian_workspace_bytes", [](const Array& X, std::int64_t m_) {
    return feature_hessian_workspace(matrix_of(X), m_);
  });
  m.def(
      "feature_hessian",
      [](const Array& array, Address theta, std::int64_t columns, Address out, Address workspace,
         int device, Address stream) {
        const DeviceMatrix X = matrix_of(array);
        const py::gil_scoped_release release;
        const Current current(device);
        feature_hessian(X, pointer<const double>(theta), columns, pointer<double>(out),
                        pointer<double>(workspace), pointer<void>(stream));
      },
      py::kw_only(), py::arg("X"), py::arg("theta"), py::arg("columns"), py::arg("out"),
      py::arg("workspace"), py::arg("device"), py::arg("stream"));

  m.def("times_workspace_bytes", [](const Array& A, std::int64_t columns) {
    return times_workspace(matrix_of(A), columns);
  });
  m.def(
      "times",
      [](const Array& array, double scale, Address B, const Array& out, Address workspace,
         int device, Address stream) {
        const DeviceMatrix A = matrix_of(array), to = matrix_of(out);
        const Destination destination{const_cast<void*>(to.data), to.dtype == Dtype::f64, to.cols,
                                      to.row_stride, to.col_stride};
        const py::gil_scoped_release release;
        const Current current(device);
        times(A, scale, pointer<const double>(B), destination, pointer<double>(workspace),
              pointer<void>(stream));
      },
      py::kw_only(), py::arg("A"), py::arg("scale"), py::arg("B"), py::arg("out"),
      py::arg("workspace"), py::arg("device"), py::arg("stream"));
  m.def(
      "rank_two",
      [](std::int64_t n, double alpha, Address u, double beta, Address w, double gamma, Address H,
         Address out, int device, Address stream) {
        const py::gil_scoped_release release;
        const Current current(device);
        rank_two(n, alpha, pointer<const double>(u), beta, pointer<const double>(w), gamma,
                 pointer<const double>(H), pointer<double>(out), pointer<void>(stream));
      },
      py::kw_only(), py::arg("n"), py::arg("alpha"), py::arg("u"), py::arg("beta"), py::arg("w"),
      py::arg("gamma"), py::arg("H"), py::arg("out"), py::arg("device"), py::arg("stream"));

  m.attr("PARTS") = kParts;
  m.def(
      "measure",
      [](std::int64_t count, Address x, Address out, int device, Address stream) {
        const py::gil_scoped_release release;
        const Current current(device);
        measure(count, pointer<const double>(x), pointer<double>(out), pointer<void>(stream));
      },
      py::kw_only(), py::arg("count"), py::arg("x"), py::arg("out"), py::arg("device"),
      py::arg("stream"));
  m.def("lanczos_workspace", [](std::int64_t n, int rows) { return n + rows + vector_blocks(n); });
  m.def(
      "lanczos",
      [](std::int64_t n, Address A, Address V, int width, int first, int last, Address T, int rows,
         Address work, int device, Address stream) {
        const py::gil_scoped_release release;
        const Current current(device);
        lanczos(n, pointer<const double>(A), pointer<double>(V), width, first, last,
                pointer<double>(T), rows, pointer<double>(work), pointer<void>(stream));
      },
      py::kw_only(), py::arg("n"), py::arg("A"), py::arg("V"), py::arg("width"), py::arg("first"),
      py::arg("last"), py::arg("T"), py::arg("rows"), py::arg("work"), py::arg("device"),
      py::arg("stream"));
  m.def(
      "combine",
      [](std::int64_t n, Address V, int k, Address S, int count, Address out, int device,
         Address stream) {
        const py::gil_scoped_release release;
        const Current current(device);
        dgemm(pointer<void>(stream), false, static_cast<int>(n), count, k, 1.0,
              pointer<const double>(V), static_cast<int>(n), pointer<const double>(S), k, 0.0,
              pointer<double>(out), static_cast<int>(n));
      },
      py::kw_only(), py::arg("n"), py::arg("V"), py::arg("k"), py::arg("S"), py::arg("count"),
      py::arg("out"), py::arg("device"), py::arg("stream"));

  m.def("inverse_workspace", [](int n, Address a, int device) {
    const py::gil_scoped_release release;
    const Current current(device);
    return inverse_workspace(n, pointer<double>(a), n);
  });
  m.def(
      "inverse",
      [](int n, Address a, Address work, int size, Address info, int device, Address stream) {
        const py::gil_scoped_release release;
        const Current current(device);
        inverse(pointer<void>(stream), n, pointer<double>(a), n, pointer<double>(work), size,
                pointer<int>(info));
      },
      py::kw_only(), py::arg("n"), py::arg("a"), py::arg("work"), py::arg("size"), py::arg("info"),
      py::arg("device"), py::arg("stream"));
  m.def("syevd_workspace", [](int n, Address a, Address w, int device) {
    const py::gil_scoped_release release;
    const Current current(device);
    return syevd_workspace(n, pointer<double>(a), n, pointer<double>(w));
  });
  m.def(
      "syevd",
      [](int n, Address a, Address w, Address work, int size, Address info, int device,
         Address stream) {
        const py::gil_scoped_release release;
        const Current current(device);
        syevd(pointer<void>(stream), n, pointer<double>(a), n, pointer<double>(w),
              pointer<double>(work), size, pointer<int>(info));
      },
      py::kw_only(), py::arg("n"), py::arg("a"), py::arg("w"), py::arg("work"), py::arg("size"),
      py::arg("info"), py::arg("device"), py::arg("stream"));
}
