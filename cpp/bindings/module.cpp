// Argument checks, the GIL and ownership; no mathematics.
#include <pybind11/functional.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <functional>
#include <string>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>

#include "immucond/errors.hpp"
#include "immucond/extreme.hpp"
#include "immucond/generalized.hpp"
#include "immucond/gram.hpp"
#include "immucond/lanczos.hpp"
#include "immucond/multiversion.hpp"
#include "immucond/parallel.hpp"
#include "immucond/qr.hpp"
#include "immucond/regularizer.hpp"

namespace py = pybind11;
using namespace immucond;
using Matrix = py::array_t<double, py::array::c_style>;

namespace {

Dtype dtype_of(const py::array& array, const char* name) {
  const py::dtype dtype = array.dtype();
  const auto size = dtype.itemsize();
  if (py::cast<bool>(dtype.attr("isnative"))) {
    switch (dtype.kind()) {
      case 'b':
        return Dtype::boolean;
      case 'f':
        if (size == 2) return Dtype::f16;
        if (size == 4) return Dtype::f32;
        if (size == 8) return Dtype::f64;
        break;
      case 'i':
        return size == 1 ? Dtype::i8 : size == 2 ? Dtype::i16 : size == 4 ? Dtype::i32 : Dtype::i64;
      case 'u':
        return size == 1 ? Dtype::u8 : size == 2 ? Dtype::u16 : size == 4 ? Dtype::u32 : Dtype::u64;
      default:
        break;
    }
  }
  throw py::type_error(std::string(name) +
                       " must hold float16, float32, float64, integers or bools "
                       "in native byte order, and has dtype " +
                       std::string(py::str(dtype)));
}

/// A view of a two-dimensional array, valid while the array lives.
MatrixView view_of(const py::array& array, const char* name) {
  if (array.ndim() != 2 || array.size() == 0) {
    const std::string shape = py::str(array.attr("shape"));
    throw py::value_error(std::string(name) +
                          " must be a matrix with at least one entry, and has shape " + shape);
  }
  return {array.data(),
          dtype_of(array, name),
          array.shape(0),
          array.shape(1),
          array.strides(0),
          array.strides(1),
          name};
}

void require_size(bool matches, const MatrixView& a, const MatrixView& b, const char* needed) {
  if (matches) return;
  const auto shape = [](const MatrixView& v) {
    return std::string(v.name) + " has shape (" + std::to_string(v.rows) + ", " +
           std::to_string(v.cols) + ")";
  };
  throw py::value_error(shape(a) + " and " + shape(b) + ": " + needed);
}

/// The matrices of an array: one, or a stack of them (b, rows, columns), each under a name of its
/// own: "H[3]". Valid while the array lives.
class Matrices {
 public:
  Matrices(const py::array& array, const std::string& name) : stacked_(array.ndim() == 3) {
    names_.push_back(name);
    if (!stacked_ || array.size() == 0) {
      views_.push_back(view_of(array, names_.front().c_str()));
      return;
    }
    const Dtype dtype = dtype_of(array, name.c_str());
    const auto count = static_cast<std::size_t>(array.shape(0));
    names_.resize(count);
    for (std::size_t i = 0; i < count; ++i) {
      const auto at = static_cast<Index>(i);
      names_[i] = name + "[" + std::to_string(i) + "]";
      views_.push_back({static_cast<const char*>(array.data()) + at * array.strides(0), dtype,
                        array.shape(1), array.shape(2), array.strides(1), array.strides(2),
                        names_[i].c_str()});
    }
  }
  Matrices(const Matrices&) = delete;
  Matrices& operator=(const Matrices&) = delete;

  bool stacked() const { return stacked_; }
  std::size_t count() const { return views_.size(); }
  const MatrixView& front() const { return views_.front(); }

  /// work(i, matrix i) for all of them, without the GIL: on several threads for a stack.
  template <class Work>
  void each(Work work) const {
    const py::gil_scoped_release release;
    if (!stacked_) return work(std::size_t{0}, views_.front());
    parallel_for(static_cast<Index>(count()), [&](Index i) {
      const auto at = static_cast<std::size_t>(i);
      work(at, views_[at]);
    });
  }

 private:
  bool stacked_;
  std::vector<std::string> names_;
  std::vector<MatrixView> views_;
};

Matrix matrix(Index rows, Index cols) { return Matrix({rows, cols}); }

py::array_t<double> vector(std::vector<double> values) {
  auto* owned = new std::vector<double>(std::move(values));
  const py::capsule owner(owned, [](void* p) { delete static_cast<std::vector<double>*>(p); });
  return py::array_t<double>(static_cast<py::ssize_t>(owned->size()), owned->data(), owner);
}

py::dict pairs_dict(ExtremePairs p) {
  using namespace py::literals;
  return py::dict("sigma_max"_a = p.sigma_max, "u_max"_a = vector(std::move(p.u_max)),
                  "v_max"_a = vector(std::move(p.v_max)), "sigma_min"_a = p.sigma_min,
                  "u_min"_a = vector(std::move(p.u_min)), "v_min"_a = vector(std::move(p.v_min)),
                  "rank"_a = p.rank, "frobenius"_a = p.frobenius, "gap_max"_a = p.gap_max,
                  "gap_min"_a = p.gap_min, "simple_max"_a = p.simple_max,
                  "simple_min"_a = p.simple_min, "bound_max"_a = p.bound_max,
                  "bound_min"_a = p.bound_min, "determined_min"_a = p.determined_min,
                  "determined"_a = p.determined, "next_max"_a = vector(std::move(p.next_max)),
                  "next_min"_a = vector(std::move(p.next_min)), "method"_a = p.method,
                  "unit_max"_a = p.unit_max, "unit_min"_a = p.unit_min, "exponent"_a = p.exponent);
}

/// (known rank or 0, rtol, precision of the entries, their rounding once), as _rank.py decides
/// them.
using Rule = std::tuple<Index, double, double, double>;

/// (method, tol, vectors to start from at either end, ratio of the ends there), as _extreme.py
/// checks them.
using Columns = py::array_t<double, py::array::f_style | py::array::forcecast>;
using Search = std::tuple<std::string, double, Columns, Columns, double>;

Method method_of(const std::string& method) {
  return method == "direct"    ? Method::direct
         : method == "lanczos" ? Method::lanczos
         : method == "jacobi"  ? Method::jacobi
         : method == "gram"    ? Method::gram
         : method == "qr"      ? Method::qr
                               : Method::automatic;
}

/// The two together; the starting vectors live as long as this does.
class Wanted {
 public:
  Wanted(const Rule& rule, const Search& search) {
    const auto& [method, tol, max, min, ratio] = search;
    start_ = {{max.data(), max.data() + max.size()}, {min.data(), min.data() + min.size()}, ratio};
    const auto& [rank, rtol, precision, rounded] = rule;
    given_ = {.rank = rank,
              .rtol = rtol,
              .rounded = rounded,
              .precision = precision,
              .tol = tol,
              .method = method_of(method),
              .start = start_.max.empty() || start_.min.empty() ? nullptr : &start_};
  }
  Wanted(const Wanted&) = delete;
  Wanted& operator=(const Wanted&) = delete;
  const Given& given() const { return given_; }

 private:
  Start start_;
  Given given_;
};

/// Runs a kernel without the GIL.
template <class Kernel>
auto without_gil(Kernel kernel) {
  const py::gil_scoped_release release;
  return kernel();
}

/// Products by a Python function from vector to vector.
class FunctionOperator final : public Operator {
 public:
  FunctionOperator(py::function product, Index n) : product_(std::move(product)), n_(n) {}
  Index size() const override { return n_; }
  void apply(const double* x, double* y) const override {
    const py::gil_scoped_acquire acquire;
    py::array_t<double> argument(n_);
    std::copy_n(x, n_, argument.mutable_data());
    const auto result = py::cast<py::array_t<double, py::array::c_style>>(product_(argument));
    if (result.size() != n_)
      throw py::value_error("a product of the LinearOperator must have " + std::to_string(n_) +
                            " entries, and has " + std::to_string(result.size()));
    std::copy_n(result.data(), n_, y);
  }

 private:
  py::function product_;
  Index n_;
};

using PairsKernel = ExtremePairs (*)(const MatrixView&, const Given&);

/// A field of all items as an array with the stack's axis first.
template <class T, class Item, class Field>
py::array_t<T> stacked(const std::vector<Item>& all, Field field) {
  py::array_t<T> out(static_cast<py::ssize_t>(all.size()));
  for (std::size_t i = 0; i < all.size(); ++i)
    out.mutable_at(static_cast<py::ssize_t>(i)) = static_cast<T>(all[i].*field);
  return out;
}

Matrix stacked_vectors(const std::vector<ExtremePairs>& all,
                       std::vector<double> ExtremePairs::* field) {
  const auto length = static_cast<Index>((all.front().*field).size());
  Matrix out = matrix(static_cast<Index>(all.size()), length);
  double* data = out.mutable_data();
  for (const ExtremePairs& pairs : all)
    data = std::copy((pairs.*field).begin(), (pairs.*field).end(), data);
  return out;
}

py::dict stack_dict(const std::vector<ExtremePairs>& all) {
  py::dict fields;
  const auto put = [&](const char* name, auto member) {
    using T = std::remove_cvref_t<decltype(all.front().*member)>;
    if constexpr (std::is_same_v<T, std::vector<double>>)
      fields[name] = stacked_vectors(all, member);
    else
      fields[name] = stacked<T>(all, member);
  };
  put("sigma_max", &ExtremePairs::sigma_max);
  put("u_max", &ExtremePairs::u_max);
  put("v_max", &ExtremePairs::v_max);
  put("sigma_min", &ExtremePairs::sigma_min);
  put("u_min", &ExtremePairs::u_min);
  put("v_min", &ExtremePairs::v_min);
  put("rank", &ExtremePairs::rank);
  put("frobenius", &ExtremePairs::frobenius);
  put("gap_max", &ExtremePairs::gap_max);
  put("gap_min", &ExtremePairs::gap_min);
  put("simple_max", &ExtremePairs::simple_max);
  put("simple_min", &ExtremePairs::simple_min);
  put("bound_max", &ExtremePairs::bound_max);
  put("bound_min", &ExtremePairs::bound_min);
  put("determined_min", &ExtremePairs::determined_min);
  put("determined", &ExtremePairs::determined);
  put("unit_max", &ExtremePairs::unit_max);
  put("unit_min", &ExtremePairs::unit_min);
  put("exponent", &ExtremePairs::exponent);
  py::list methods;
  for (const ExtremePairs& pairs : all) methods.append(pairs.method);
  fields["method"] = methods;
  return fields;
}

/// Of one matrix, or of each in a stack.
py::dict pairs_dict(std::vector<ExtremePairs> all, bool stack) {
  return stack ? stack_dict(all) : pairs_dict(std::move(all.front()));
}

py::dict pairs_of(PairsKernel kernel, const py::array& array, const Rule& rule,
                  const Search& search, const std::string& name) {
  const Matrices matrices(array, name);
  const Wanted wanted(rule, search);
  std::vector<ExtremePairs> all(matrices.count());
  matrices.each(
      [&](std::size_t i, const MatrixView& view) { all[i] = kernel(view, wanted.given()); });
  return pairs_dict(std::move(all), matrices.stacked());
}

/// The name of a built-in regularizer, or a user's function from a spectrum to the coefficients.
using CoefficientsOf = std::variant<std::string, py::function>;

Regularizer regularizer_of(const CoefficientsOf& coefficients) {
  if (const auto* name = std::get_if<std::string>(&coefficients))
    return regularizer_of(built_in(*name));
  return [&function = std::get<py::function>(coefficients)](const Spectrum& spectrum) {
    const lapack::Intermission intermission;  // over before the phase goes on: the GIL
    const py::gil_scoped_acquire acquire;
    const auto [value, alpha, beta, gamma] =
        py::cast<std::tuple<double, double, double, double>>(function(spectrum));
    return Coefficients{value, alpha, beta, gamma};
  };
}

/// The shape of all value_and_grad functions: (value, gradient or None, pairs or None, tied,
/// determined, rank), for a stack each with its axis first. `kernel` gets the regularizer, a matrix
/// and the request.
template <class Kernel>
py::tuple evaluated(const CoefficientsOf& coefficients, const Matrices& matrices,
                    const Request& request, bool gradient, bool pairs, Kernel kernel) {
  const Regularizer regularizer = regularizer_of(coefficients);
  const auto count = static_cast<Index>(matrices.count());
  const Index rows = matrices.front().rows, cols = matrices.front().cols;
  const bool stack = matrices.stacked();
  py::object result = py::none();
  double* entries = nullptr;
  if (gradient) {
    Matrix out = stack ? Matrix({count, rows, cols}) : matrix(rows, cols);
    entries = out.mutable_data();
    result = std::move(out);
  }
  std::vector<ExtremePairs> found(pairs ? matrices.count() : 0);
  std::vector<Evaluation> all(matrices.count());
  matrices.each([&](std::size_t i, const MatrixView& view) {
    Request mine = request;
    if (gradient) mine.gradient = entries + static_cast<Index>(i) * rows * cols;
    if (pairs) mine.pairs = &found[i];
    all[i] = kernel(regularizer, view, mine);
  });
  const py::object ends =
      pairs ? py::object(pairs_dict(std::move(found), stack)) : py::object(py::none());
  if (stack)
    return py::make_tuple(stacked<double>(all, &Evaluation::value), result, ends,
                          stacked<bool>(all, &Evaluation::tied),
                          stacked<bool>(all, &Evaluation::determined),
                          stacked<Index>(all, &Evaluation::rank));
  const Evaluation& e = all.front();
  return py::make_tuple(e.value, result, ends, e.tied, e.determined, e.rank);
}

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
                  "blas_threads"_a = lapack::threads());
}

}  // namespace

PYBIND11_MODULE(_core, m, py::mod_gil_not_used()) {
  m.doc() = "The C++ core of immucond. Use the functions of the package instead.";

  py::register_exception_translator([](std::exception_ptr p) {
    try {
      if (p) std::rethrow_exception(p);
    } catch (const MissingRoutine& e) {
      PyErr_SetString(PyExc_ImportError, e.what());
    } catch (const DegenerateSpectrum& e) {
      const auto type = py::module_::import("immucond._errors").attr("DegenerateSpectrumError");
      PyErr_SetString(type.ptr(), e.what());
    } catch (const LapackError& e) {
      const auto type = py::module_::import("immucond._errors").attr("ConvergenceError");
      PyErr_SetString(type.ptr(), e.what());
    }
  });

  bind_lapack(py::module_::import("scipy.linalg.cython_blas").attr("__pyx_capi__"),
              py::module_::import("scipy.linalg.cython_lapack").attr("__pyx_capi__"));
  m.def("bind_lapack", &bind_lapack, py::arg("blas"), py::arg("lapack"));
  m.def("build_info", &build_info);
  m.def("lapack_calls", [] {
    py::dict counts;
    for (const auto& [name, count] : lapack::call_counts()) counts[py::str(name)] = count;
    return counts;
  });

  py::class_<Spectrum>(m, "Spectrum")
      .def_readonly("p", &Spectrum::p)
      .def_readonly("rank", &Spectrum::rank)
      .def_readonly("sigma_max", &Spectrum::sigma_max)
      .def_readonly("sigma_min", &Spectrum::sigma_min)
      .def_property_readonly("below_max", &Spectrum::below_max)
      .def_property_readonly("above_min", &Spectrum::above_min)
      .def_property_readonly("all_tied", &Spectrum::all_tied);

  m.def(
      "gram",
      [](const py::array& X) {
        const MatrixView view = view_of(X, "X");
        Matrix out = matrix(view.cols, view.cols);
        double* data = out.mutable_data();
        without_gil([&] { checked_gram(view, data); });
        return out;
      },
      py::arg("X"));

  m.def(
      "triangle",
      [](const py::array& X) {
        const MatrixView view = view_of(X, "X");
        if (view.rows < view.cols) throw py::value_error("X needs as many rows as columns");
        Matrix out = matrix(view.cols, view.cols);
        double* data = out.mutable_data();
        without_gil([&] { triangle(view, data); });
        return out;
      },
      py::arg("X"));

  m.def(
      "hessian",
      [](const py::array& theta, const py::array& K) {
        const MatrixView map = view_of(theta, "theta"), view = view_of(K, "gram");
        require_size(map.rows == view.rows, map, view, "theta needs as many rows as gram");
        Matrix out = matrix(map.cols, map.cols);
        double* data = out.mutable_data();
        without_gil([&] { hessian(map, view, data); });
        return out;
      },
      py::arg("theta"), py::arg("gram"));

  m.def(
      "feature_hessian",
      [](const py::array& X, const py::array& theta, const std::string& method) {
        const MatrixView view = view_of(X, "X"), map = view_of(theta, "theta");
        require_size(view.cols == map.rows, view, map, "theta needs as many rows as X has columns");
        const FeatureRoute route = method == "gram"       ? FeatureRoute::gram
                                   : method == "features" ? FeatureRoute::features
                                                          : FeatureRoute::automatic;
        Matrix out = matrix(map.cols, map.cols);
        double* data = out.mutable_data();
        without_gil([&] { feature_hessian(view, map, route, data); });
        return out;
      },
      py::arg("X"), py::arg("theta"), py::arg("method"));

  m.def(
      "psd_extreme_pairs",
      [](const py::array& H, const Rule& rule, const Search& search, const std::string& name) {
        return pairs_of(psd_extreme_pairs, H, rule, search, name);
      },
      py::arg("H"), py::arg("rule"), py::arg("search"), py::arg("name") = "H");

  m.def(
      "extreme_pairs",
      [](const py::array& S, const Rule& rule, const Search& search, const std::string& name) {
        return pairs_of(extreme_pairs, S, rule, search, name);
      },
      py::arg("S"), py::arg("rule"), py::arg("search"), py::arg("name") = "S");

  m.def(
      "feature_extreme_pairs",
      [](const py::array& Z, const Rule& rule, const Search& search, const std::string& name) {
        return pairs_of(feature_extreme_pairs, Z, rule, search, name);
      },
      py::arg("Z"), py::arg("rule"), py::arg("search"), py::arg("name") = "Z");

  m.def(
      "generalized_extreme_pairs",
      [](const py::array& A, const py::array& B, const Rule& rule, const Search& search) {
        const MatrixView a = view_of(A, "A"), b = view_of(B, "B");
        const Wanted wanted(rule, search);
        return pairs_dict(
            without_gil([&] { return generalized_extreme_pairs(a, b, wanted.given()); }));
      },
      py::arg("A"), py::arg("B"), py::arg("rule"), py::arg("search"));

  m.def(
      "largest_pair",
      [](const py::function& product, Index n, double tol, const Columns& start, double error,
         std::uint64_t seed) {
        const FunctionOperator A(product, n);
        const std::vector<double> vectors(start.data(), start.data() + start.size());
        OnePair pair = without_gil([&] { return largest_pair(A, vectors, tol, error, seed); });
        return py::make_tuple(pair.value, pair.next, pair.bound, vector(std::move(pair.vector)),
                              vector(std::move(pair.neighbour)));
      },
      py::arg("product"), py::arg("n"), py::arg("tol"), py::arg("start"), py::arg("error"),
      py::arg("seed"));

  m.def(
      "coefficients",
      [](const std::string& name, double p, double rank, double sigma_max, double sigma_min,
         double below_max, double above_min, bool all_tied) {
        const Coefficients c = checked_coefficients(
            built_in(name), {p, rank, sigma_max, sigma_min, below_max, above_min}, all_tied);
        return py::make_tuple(c.value, c.alpha, c.beta, c.gamma);
      },
      py::arg("name"), py::arg("p"), py::arg("rank"), py::arg("sigma_max"), py::arg("sigma_min"),
      py::arg("below_max"), py::arg("above_min"), py::arg("all_tied"));

  m.def(
      "evaluate",
      [](const CoefficientsOf& coefficients, int degree, const py::array& S, const Rule& rule,
         const Search& search, bool p_is_rank, bool gradient, bool pairs) {
        const Wanted wanted(rule, search);
        const Request request{.given = wanted.given(), .degree = degree, .p_is_rank = p_is_rank};
        return evaluated(coefficients, Matrices(S, "S"), request, gradient, pairs, evaluate);
      },
      py::arg("coefficients"), py::arg("degree"), py::arg("S"), py::arg("rule"), py::arg("search"),
      py::arg("p_is_rank"), py::arg("gradient"), py::arg("pairs"));

  m.def(
      "evaluate_theta",
      [](const CoefficientsOf& coefficients, int degree, const py::array& theta, const py::array& K,
         const Rule& rule, const Search& search, bool p_is_rank, bool preconditioned, bool gradient,
         bool pairs) {
        const Matrices maps(theta, "theta");
        const MatrixView view = view_of(K, "gram");
        require_size(maps.front().rows == view.rows, maps.front(), view,
                     "theta needs as many rows as gram");
        const Wanted wanted(rule, search);
        const Request request{.given = wanted.given(),
                              .degree = degree,
                              .p_is_rank = p_is_rank,
                              .preconditioned = preconditioned};
        return evaluated(coefficients, maps, request, gradient, pairs,
                         [&](const auto& r, const auto& map, const auto& q) {
                           return evaluate_theta(r, map, view, q);
                         });
      },
      py::arg("coefficients"), py::arg("degree"), py::arg("theta"), py::arg("gram"),
      py::arg("rule"), py::arg("search"), py::arg("p_is_rank"), py::arg("preconditioned"),
      py::arg("gradient"), py::arg("pairs"));

  m.def(
      "evaluate_features",
      [](const CoefficientsOf& coefficients, int degree, const py::array& Z, const Rule& rule,
         const Search& search, bool p_is_rank, bool gradient, bool pairs) {
        const Wanted wanted(rule, search);
        const Request request{.given = wanted.given(), .degree = degree, .p_is_rank = p_is_rank};
        return evaluated(coefficients, Matrices(Z, "Z"), request, gradient, pairs,
                         evaluate_features);
      },
      py::arg("coefficients"), py::arg("degree"), py::arg("Z"), py::arg("rule"), py::arg("search"),
      py::arg("p_is_rank"), py::arg("gradient"), py::arg("pairs"));
}
