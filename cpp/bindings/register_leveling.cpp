// A rotation after which a Hessian has a constant diagonal.
#include <string>

#include "arguments.hpp"
#include "immucond/leveling.hpp"

namespace immucond::bindings {
namespace {

std::string shape_of(const py::array& array) {
  return py::str(array.attr("shape")).cast<std::string>();
}

}  // namespace

void register_leveling(py::module_& m) {
  m.def(
      "level",
      [](py::array_t<double, py::array::c_style>& rows,
         const py::array_t<double, py::array::c_style>& H) {
        if (rows.ndim() != 2 || H.ndim() != 2 || H.shape(0) != H.shape(1) ||
            H.shape(0) != rows.shape(0))
          throw py::value_error("H must be square, with as many rows as rows has; rows has shape " +
                                shape_of(rows) + ", H " + shape_of(H));
        double* data = rows.mutable_data();
        without_gil([&] { level(data, H.data(), rows.shape(0), rows.shape(1)); });
      },
      py::arg("rows").noconvert(), py::arg("H"));
}

}  // namespace immucond::bindings
