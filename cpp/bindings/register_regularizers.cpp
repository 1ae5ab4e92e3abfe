// Spectral regularizers: values, gradients, and the coefficients behind them.
#include <pybind11/functional.h>

#include <string>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>

#include "immucond/blas_threads.hpp"
#include "immucond/regularizer.hpp"
#include "pairs.hpp"

namespace immucond::bindings {
namespace {

/// One of the library's own, or a user's function from a spectrum to the coefficients.
using CoefficientsOf = std::variant<BuiltIn, py::function>;

/// Python's state of a thread that the kernels started, for as long as the thread lives. Making one
/// takes a lock of the interpreter's that a child forked meanwhile would wait for in vain (CPython
/// 3.11 makes it anew too late): so within a phase, which a fork waits for.
class ThreadState {
 public:
  ThreadState() = default;
  ThreadState(const ThreadState&) = delete;
  ThreadState& operator=(const ThreadState&) = delete;
  ~ThreadState() {
    if (own_ == nullptr) return;
    PyEval_AcquireThread(own_);
    PyThreadState_Clear(own_);
    PyThreadState_DeleteCurrent();
  }
  void ensure() {
    if (PyGILState_GetThisThreadState() == nullptr)
      own_ = PyThreadState_New(PyInterpreterState_Main());
  }

 private:
  PyThreadState* own_ = nullptr;
};
thread_local ThreadState thread_state;

Regularizer regularizer_of(const CoefficientsOf& coefficients) {
  if (const auto* built_in = std::get_if<BuiltIn>(&coefficients))
    return [regularizer = *built_in](const Spectrum& spectrum) {
      return checked_coefficients(regularizer, spectrum);
    };
  return [&function = std::get<py::function>(coefficients)](const Spectrum& spectrum) {
    thread_state.ensure();
    const blas::Intermission intermission;  // over before the phase goes on: the GIL
    const py::gil_scoped_acquire acquire;
    const py::object found = function(spectrum);
    try {
      const auto [value, alpha, beta, gamma] =
          py::cast<std::tuple<double, double, double, double>>(found);
      return Coefficients{value, alpha, beta, gamma};
    } catch (const py::cast_error&) {
      throw py::type_error(
          "coefficients must return four numbers, (value, alpha, beta, gamma), "
          "and returned " +
          std::string(py::repr(found)));
    }
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

py::tuple evaluated_at_matrix(const py::array& S, const CoefficientsOf& coefficients, int degree,
                              const RuleTuple& rule, const Search& search, Index p, bool gradient,
                              bool pairs) {
  const Wanted wanted(rule, search);
  const Request request{.given = wanted.given(), .degree = degree, .p = p};
  return evaluated(coefficients, Matrices(S, "S"), request, gradient, pairs, evaluate);
}

py::tuple evaluated_at_theta(const py::array& theta, const py::array& K,
                             const CoefficientsOf& coefficients, int degree, const RuleTuple& rule,
                             const Search& search, Index p, bool preconditioned, bool gradient,
                             bool pairs) {
  const Matrices maps(theta, "theta");
  const MatrixView view = view_of(K, "gram");
  require_size(maps.front().rows == view.rows, maps.front(), view,
               "theta needs as many rows as gram");
  const Wanted wanted(rule, search);
  const Request request{
      .given = wanted.given(), .degree = degree, .p = p, .preconditioned = preconditioned};
  return evaluated(coefficients, maps, request, gradient, pairs,
                   [&](const auto& r, const auto& map, const auto& q) {
                     return evaluate_theta(r, map, view, q);
                   });
}

py::tuple evaluated_at_features(const py::array& Z, const CoefficientsOf& coefficients, int degree,
                                const RuleTuple& rule, const Search& search, Index p, bool gradient,
                                bool pairs) {
  const Wanted wanted(rule, search);
  const Request request{.given = wanted.given(), .degree = degree, .p = p};
  return evaluated(coefficients, Matrices(Z, "Z"), request, gradient, pairs, evaluate_features);
}

}  // namespace

void register_regularizers(py::module_& m) {
  py::class_<BuiltIn>(m, "BuiltIn", "The coefficients of a regularizer that the kernels know.")
      .def(py::init(&built_in), py::arg("name"))
      .def_property_readonly("name", &name_of)
      .def_property_readonly("degree", &degree_of)
      .def(
          "__call__",
          [](BuiltIn regularizer, const Spectrum& spectrum) {
            const Coefficients c = checked_coefficients(regularizer, spectrum);
            return py::make_tuple(c.value, c.alpha, c.beta, c.gamma);
          },
          py::arg("spectrum"))
      .def("__repr__",
           [](BuiltIn regularizer) {
             return std::string("<coefficients of ") + name_of(regularizer) + ">";
           })
      .def(py::pickle([](BuiltIn regularizer) { return py::str(name_of(regularizer)); },
                      [](const py::str& name) { return built_in(name); }));

  m.attr("ALL_VALUES") = kAllValues;
  m.attr("NONZERO_VALUES") = kNonzeroValues;
  m.def("evaluate", &evaluated_at_matrix, py::arg("S"), py::kw_only(), py::arg("coefficients"),
        py::arg("degree"), py::arg("rule"), py::arg("search"), py::arg("p"), py::arg("gradient"),
        py::arg("pairs"));
  m.def("evaluate_theta", &evaluated_at_theta, py::arg("theta"), py::arg("gram"), py::kw_only(),
        py::arg("coefficients"), py::arg("degree"), py::arg("rule"), py::arg("search"),
        py::arg("p"), py::arg("preconditioned"), py::arg("gradient"), py::arg("pairs"));
  m.def("evaluate_features", &evaluated_at_features, py::arg("Z"), py::kw_only(),
        py::arg("coefficients"), py::arg("degree"), py::arg("rule"), py::arg("search"),
        py::arg("p"), py::arg("gradient"), py::arg("pairs"));
}

}  // namespace immucond::bindings
