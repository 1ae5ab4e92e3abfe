// Gram matrices, Hessians and triangular factors.
#include <string>

#include "arguments.hpp"
#include "immucond/gram.hpp"
#include "immucond/qr.hpp"

namespace immucond::bindings {

void register_gram(py::module_& m) {
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
      "joined_triangles",
      [](const py::array& upper, const py::array& lower) {
        const MatrixView first = view_of(upper, "upper"), second = view_of(lower, "lower");
        const bool alike = first.rows == second.rows && first.cols == second.cols;
        require_size(alike && first.rows == first.cols, first, second,
                     "both must be square, alike");
        Matrix out = matrix(first.cols, first.cols);
        double* data = out.mutable_data();
        without_gil([&] { joined_triangles(first, second, data); });
        return out;
      },
      py::arg("upper"), py::arg("lower"));

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
      py::arg("X"), py::arg("theta"), py::kw_only(), py::arg("method"));
}

}  // namespace immucond::bindings
