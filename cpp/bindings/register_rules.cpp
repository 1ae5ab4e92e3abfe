// The rules of spectrum.hpp, for Python.
#include <string>
#include <tuple>

#include "arguments.hpp"
#include "immucond/spectrum.hpp"

namespace immucond::bindings {
namespace {

Data data_of(const std::string& given) {
  if (given == "matrix") return Data::matrix;
  if (given == "features") return Data::features;
  if (given == "gram") return Data::gram;
  if (given == "product") return Data::product;
  throw py::value_error("given must be 'matrix', 'features', 'gram' or 'product', and is " + given);
}

void register_spectrum(py::module_& m) {
  py::class_<Spectrum>(m, "Spectrum", R"(What a regularizer sees of singular values.

They are sigma_1 >= ... >= sigma_p, of which the first k are not zero, and F is the sum of their
squares.

Attributes
----------
p : int
    How many singular values count, zeros included.
rank : int
    k, the number that are not zero.
sigma_max, sigma_min : float
    sigma_1 and sigma_k.
below_max, above_min : float
    ``p sigma_1^2 - F`` and ``F - k sigma_k^2``, at least 0 and without cancellation.
all_tied : bool
    Whether the k nonzero ones are equal to rounding.
)")
      .def(py::init([](Index p, Index rank, double sigma_max, double sigma_min, double below_max,
                       double above_min, bool all_tied) {
             return Spectrum{p, rank, sigma_max, sigma_min, below_max, above_min, all_tied};
           }),
           py::kw_only(), py::arg("p"), py::arg("rank"), py::arg("sigma_max"), py::arg("sigma_min"),
           py::arg("below_max"), py::arg("above_min"), py::arg("all_tied") = false)
      .def_static(
          "of_squares",
          [](Index p, Index rank, double sigma_max, double sigma_min, double squares, double rest,
             bool all_tied) {
            return spectrum_of(p, rank, sigma_max, sigma_min, {squares, rest}, all_tied);
          },
          "From F as the unevaluated sum ``squares + rest``.", py::kw_only(), py::arg("p"),
          py::arg("rank"), py::arg("sigma_max"), py::arg("sigma_min"), py::arg("squares"),
          py::arg("rest") = 0.0, py::arg("all_tied") = false)
      .def_readonly("p", &Spectrum::p)
      .def_readonly("rank", &Spectrum::rank)
      .def_readonly("sigma_max", &Spectrum::sigma_max)
      .def_readonly("sigma_min", &Spectrum::sigma_min)
      .def_readonly("below_max", &Spectrum::below_max)
      .def_readonly("above_min", &Spectrum::above_min)
      .def_readonly("all_tied", &Spectrum::all_tied)
      .def("__repr__", [](const Spectrum& s) {
        return py::str(
                   "Spectrum(p={}, rank={}, sigma_max={}, sigma_min={}, below_max={}, "
                   "above_min={}, all_tied={})")
            .format(s.p, s.rank, s.sigma_max, s.sigma_min, s.below_max, s.above_min, s.all_tied);
      });
}

}  // namespace

void register_rules(py::module_& m) {
  register_spectrum(m);
  m.attr("ROUNDED_ONCE") = kRoundedOnce;
  m.def(
      "rank_rule",
      [](Index rows, Index columns, double eps, const std::string& given, Index rank, double rtol) {
        const Rule rule = rank_rule(rows, columns, eps, data_of(given), rank, rtol);
        return std::make_tuple(rule.rank, rule.rtol, rule.precision, rule.rounded);
      },
      py::kw_only(), py::arg("rows"), py::arg("columns"), py::arg("eps"), py::arg("given"),
      py::arg("rank"), py::arg("rtol"));
  m.def(
      "default_rtol",
      [](Index rows, Index columns, double eps, const std::string& given) {
        return default_rtol(rows, columns, eps, data_of(given));
      },
      py::kw_only(), py::arg("rows"), py::arg("columns"), py::arg("eps"), py::arg("given"));
  m.def("reduction_noise", &reduction_noise, py::arg("n"), py::arg("eps") = kEps);
  m.def("qr_noise", &qr_noise, py::arg("columns"), py::arg("eps") = kEps);
  m.def("worst_summation", &worst_summation, py::arg("rows"), py::arg("columns"));
  m.def("largest_skew", &largest_skew, py::arg("n"), py::arg("eps"));
  m.def("largest_negative", &largest_negative, py::arg("n"), py::arg("eps"));
  m.def("cut", &cut, py::kw_only(), py::arg("rtol"), py::arg("sigma_max"), py::arg("floor"));
  m.def(
      "matrix_floor",
      [](const RuleTuple& rule, double squares) { return matrix_floor(rule_of(rule), squares); },
      py::kw_only(), py::arg("rule"), py::arg("squares"));
  m.def(
      "gram_floor",
      [](const RuleTuple& rule, double trace) { return gram_floor(rule_of(rule), trace); },
      py::kw_only(), py::arg("rule"), py::arg("trace"));
  m.def(
      "gram_rtol",
      [](const RuleTuple& rule, double noise) { return gram_rtol(rule_of(rule), noise); },
      py::kw_only(), py::arg("rule"), py::arg("noise"));
  m.def(
      "gram_carries",
      [](const RuleTuple& rule, double sigma_max, double sigma_min, Index rank, Index n,
         double noise, double floor) {
        return gram_carries(rule_of(rule), sigma_max, sigma_min, rank, n, noise, floor);
      },
      py::kw_only(), py::arg("rule"), py::arg("sigma_max"), py::arg("sigma_min"), py::arg("rank"),
      py::arg("n"), py::arg("noise"), py::arg("floor"));
  m.def("tie_width", &tie_width, py::kw_only(), py::arg("sigma"), py::arg("sigma_max"),
        py::arg("noise"), py::arg("precision"), py::arg("features"));
  m.def("clearly_simple", &clearly_simple, py::kw_only(), py::arg("distance"), py::arg("width"),
        py::arg("error"));
}

}  // namespace immucond::bindings
