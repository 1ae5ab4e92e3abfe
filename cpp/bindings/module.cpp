// Argument checks, the GIL and ownership; no mathematics.
#include "arguments.hpp"

using namespace immucond;
using namespace immucond::bindings;

// It does without a GIL: kernels always ran without one, on views of the arguments and on results
// that nobody else has yet, and every call holds references to its arguments. What lasts beyond a
// call is the table of routines and the BLAS's thread control, written by the import alone; counts
// of calls, which are atomic; the phases of blas_threads.cpp, behind their mutex; and a thread's
// own state. Python functions are called attached to the interpreter. Arrays that another thread
// writes meanwhile give wrong numbers, as NumPy's do. Checked by `scripts/sanitize threads`, and by
// tests/core/test_thread_stress.py on an interpreter without a GIL.
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
  register_descent(m);
  register_leveling(m);
}
