// Argument checks, the GIL and ownership; no mathematics.
#include "arguments.hpp"

using namespace immucond;
using namespace immucond::bindings;

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

  register_lapack(m);
  register_rules(m);
  register_gram(m);
  register_pairs(m);
  register_regularizers(m);
}
