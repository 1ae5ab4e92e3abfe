// Gradient descent on a quadratic, step by step.
#include <string>

#include "arguments.hpp"
#include "immucond/descent.hpp"

namespace immucond::bindings {
namespace {

void raise_a_waiting_signal() {
  const py::gil_scoped_acquire acquire;
  if (PyErr_CheckSignals() != 0) throw py::error_already_set();
}

}  // namespace

void register_descent(py::module_& m) {
  m.def(
      "descend",
      [](const py::array_t<double, py::array::c_style>& curvature,
         const py::array_t<double, py::array::c_style>& error, double step, Index steps,
         double stop) {
        if (curvature.ndim() != 1 || error.ndim() != 1 || curvature.size() != error.size())
          throw py::value_error("curvature and error must be vectors of one length, and have " +
                                std::to_string(curvature.size()) + " and " +
                                std::to_string(error.size()) + " entries");
        const Quadratic quadratic{curvature.data(), error.data(), curvature.size()};
        auto taken = without_gil(
            [&] { return descend(quadratic, step, steps, stop, raise_a_waiting_signal); });
        return py::make_tuple(vector(std::move(taken.excess)), vector(std::move(taken.distance)));
      },
      py::arg("curvature"), py::arg("error"), py::kw_only(), py::arg("step"), py::arg("steps"),
      py::arg("stop"));
}

}  // namespace immucond::bindings
