// What every register_*.cpp needs: matrices from arrays, arrays from results, the GIL.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <tuple>
#include <vector>

#include "immucond/ends.hpp"
#include "immucond/matrix_view.hpp"
#include "immucond/parallel.hpp"

namespace immucond::bindings {

namespace py = pybind11;
using Matrix = py::array_t<double, py::array::c_style>;

/// A view of a two-dimensional array, valid while the array lives.
MatrixView view_of(const py::array& array, const char* name);

/// Refuses two matrices whose shapes do not go together, and says what was needed.
void require_size(bool matches, const MatrixView& a, const MatrixView& b, const char* needed);

/// The matrices of an array: one, or a stack of them (b, rows, columns), each under a name of its
/// own: "H[3]". Valid while the array lives.
class Matrices {
 public:
  Matrices(const py::array& array, const std::string& name);
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

inline Matrix matrix(Index rows, Index cols) { return Matrix({rows, cols}); }

/// An array that owns these values.
py::array_t<double> vector(std::vector<double> values);

/// The known rank or 0, rtol, precision of the entries, their rounding once: `Rule` of _rank.py.
using RuleTuple = std::tuple<Index, double, double, double>;
Rule rule_of(const RuleTuple& rule);

/// (method, tol, vectors to start from at either end, ratio of the ends there, gap of the
/// smallest): `Search` of _pairs.py.
using Columns = std::vector<py::array_t<double, py::array::c_style | py::array::forcecast>>;
using Search = std::tuple<std::string, double, Columns, Columns, double, double>;
std::vector<double> directions_of(const Columns& columns);

/// The two together; the starting vectors live as long as this does.
class Wanted {
 public:
  Wanted(const RuleTuple& rule, const Search& search);
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

/// A field of all items as an array with the stack's axis first.
template <class T, class Item, class Field>
py::array_t<T> stacked(const std::vector<Item>& all, Field field) {
  py::array_t<T> out(static_cast<py::ssize_t>(all.size()));
  for (std::size_t i = 0; i < all.size(); ++i)
    out.mutable_at(static_cast<py::ssize_t>(i)) = static_cast<T>(all[i].*field);
  return out;
}

// One a concept, each in its register_*.cpp.
void register_lapack(py::module_& m);
void register_rules(py::module_& m);
void register_gram(py::module_& m);
void register_pairs(py::module_& m);
void register_regularizers(py::module_& m);
void register_descent(py::module_& m);
void register_leveling(py::module_& m);

}  // namespace immucond::bindings
