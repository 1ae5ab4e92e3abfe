// Extreme pairs of matrices, features, pencils and operators.
#include <algorithm>
#include <cstdint>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

#include "immucond/compensated.hpp"
#include "immucond/generalized.hpp"
#include "immucond/lanczos.hpp"
#include "pairs.hpp"

namespace immucond::bindings {
namespace {

/// A field of `ExtremePairs` under its name in Python.
template <class T>
struct Field {
  const char* name;
  T ExtremePairs::* member;
};

/// All of them. `next_*`, whose length differs from matrix to matrix, are left out of a stack.
constexpr std::tuple kFields{
    Field{"sigma_max", &ExtremePairs::sigma_max},
    Field{"u_max", &ExtremePairs::u_max},
    Field{"v_max", &ExtremePairs::v_max},
    Field{"sigma_min", &ExtremePairs::sigma_min},
    Field{"u_min", &ExtremePairs::u_min},
    Field{"v_min", &ExtremePairs::v_min},
    Field{"rank", &ExtremePairs::rank},
    Field{"frobenius", &ExtremePairs::frobenius},
    Field{"gap_max", &ExtremePairs::gap_max},
    Field{"gap_min", &ExtremePairs::gap_min},
    Field{"simple_max", &ExtremePairs::simple_max},
    Field{"simple_min", &ExtremePairs::simple_min},
    Field{"bound_max", &ExtremePairs::bound_max},
    Field{"bound_min", &ExtremePairs::bound_min},
    Field{"determined_min", &ExtremePairs::determined_min},
    Field{"determined", &ExtremePairs::determined},
    Field{"unit_max", &ExtremePairs::unit_max},
    Field{"unit_min", &ExtremePairs::unit_min},
    Field{"exponent", &ExtremePairs::exponent},
    Field{"method", &ExtremePairs::method},
};
constexpr std::tuple kOfOneMatrix{
    Field{"next_max", &ExtremePairs::next_max},
    Field{"next_min", &ExtremePairs::next_min},
};

template <class Fields, class Visit>
void for_each_field(const Fields& fields, Visit visit) {
  std::apply([&](const auto&... field) { (visit(field), ...); }, fields);
}

py::dict of_one(ExtremePairs pairs) {
  py::dict found;
  const auto put = [&](const auto& field) {
    auto& value = pairs.*field.member;
    if constexpr (std::is_same_v<std::remove_cvref_t<decltype(value)>, std::vector<double>>)
      found[field.name] = vector(std::move(value));
    else
      found[field.name] = value;
  };
  for_each_field(kFields, put);
  for_each_field(kOfOneMatrix, put);
  return found;
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

py::dict of_stack(const std::vector<ExtremePairs>& all) {
  py::dict found;
  for_each_field(kFields, [&](const auto& field) {
    using T = std::remove_cvref_t<decltype(all.front().*field.member)>;
    if constexpr (std::is_same_v<T, std::vector<double>>) {
      found[field.name] = stacked_vectors(all, field.member);
    } else if constexpr (std::is_same_v<T, const char*>) {
      py::list names;
      for (const ExtremePairs& pairs : all) names.append(pairs.*field.member);
      found[field.name] = names;
    } else {
      found[field.name] = stacked<T>(all, field.member);
    }
  });
  return found;
}

using PairsKernel = ExtremePairs (*)(const MatrixView&, const Given&);

py::dict pairs_of(PairsKernel kernel, const py::array& array, const RuleTuple& rule,
                  const Search& search, const std::string& name) {
  const Matrices matrices(array, name);
  const Wanted wanted(rule, search);
  std::vector<ExtremePairs> all(matrices.count());
  matrices.each(
      [&](std::size_t i, const MatrixView& view) { all[i] = kernel(view, wanted.given()); });
  return pairs_dict(std::move(all), matrices.stacked());
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

using Halves = std::tuple<py::array_t<double, py::array::c_style | py::array::forcecast>,
                          py::array_t<double, py::array::c_style | py::array::forcecast>>;

DoubleDoubleVector from_halves(const Halves& halves, Index n) {
  const auto& [hi, lo] = halves;
  if (hi.size() != n || lo.size() != n)
    throw py::value_error("a product in two halves must have " + std::to_string(n) +
                          " entries in each, and has " + std::to_string(hi.size()) + " and " +
                          std::to_string(lo.size()));
  DoubleDoubleVector x(n);
  std::copy_n(hi.data(), n, x.hi.data());
  std::copy_n(lo.data(), n, x.lo.data());
  return x;
}

py::tuple to_halves(const DoubleDoubleVector& x) {
  return py::make_tuple(vector(x.hi), vector(x.lo));
}

/// Rows that are elsewhere, multiplied by a Python function (hi, lo, exponent) -> (hi, lo).
Factored factored(Index count, double lost, const py::function& product) {
  return {count, lost, [&product](const DoubleDoubleVector& x, int exponent) {
            const py::gil_scoped_acquire acquire;
            return from_halves(py::cast<Halves>(product(*to_halves(x), exponent)),
                               static_cast<Index>(x.hi.size()));
          }};
}

}  // namespace

py::dict pairs_dict(std::vector<ExtremePairs> all, bool stack) {
  return stack ? of_stack(all) : of_one(std::move(all.front()));
}

void register_pairs(py::module_& m) {
  const auto register_kernel = [&](const char* function, const char* matrix, PairsKernel kernel) {
    m.def(
        function,
        [kernel](const py::array& array, const RuleTuple& rule, const Search& search,
                 const std::string& name) { return pairs_of(kernel, array, rule, search, name); },
        py::arg(matrix), py::kw_only(), py::arg("rule"), py::arg("search"),
        py::arg("name") = matrix);
  };
  register_kernel("psd_extreme_pairs", "H", psd_extreme_pairs);
  register_kernel("extreme_pairs", "S", extreme_pairs);
  register_kernel("feature_extreme_pairs", "Z", feature_extreme_pairs);

  m.def(
      "generalized_extreme_pairs",
      [](const py::array& A, const py::array& B, const RuleTuple& rule, const Search& search) {
        const MatrixView a = view_of(A, "A"), b = view_of(B, "B");
        const Wanted wanted(rule, search);
        return pairs_dict(
            {without_gil([&] { return generalized_extreme_pairs(a, b, wanted.given()); })}, false);
      },
      py::arg("A"), py::arg("B"), py::kw_only(), py::arg("rule"), py::arg("search"));

  m.def(
      "triangle_extreme_pairs",
      [](const py::array& R, Index count, double lost, const py::function& product,
         const RuleTuple& rule, const Search& search) {
        const MatrixView view = view_of(R, "R");
        require_size(view.rows == view.cols, view, view, "R must be square");
        const Wanted wanted(rule, search);
        const Factored rows = factored(count, lost, product);
        return pairs_dict(
            {without_gil([&] { return triangle_extreme_pairs(view, rows, wanted.given()); })},
            false);
      },
      py::arg("R"), py::kw_only(), py::arg("count"), py::arg("lost"), py::arg("product"),
      py::arg("rule"), py::arg("search"));

  m.def(
      "gram_product",
      [](const py::array& A, const Halves& x, int exponent) {
        const MatrixView view = scaled(view_of(A, "A"), exponent);
        const DoubleDoubleVector wide = from_halves(x, view.cols);
        return to_halves(without_gil([&] { return accurate_gram_product(view, wide); }));
      },
      py::arg("A"), py::kw_only(), py::arg("x"), py::arg("exponent"));

  m.def(
      "largest_pair",
      [](const py::function& product, Index n, double tol, const Columns& start, double error,
         std::uint64_t seed) {
        const FunctionOperator A(product, n);
        const std::vector<double> vectors = directions_of(start);
        OnePair pair = without_gil([&] { return largest_pair(A, vectors, tol, error, seed); });
        return py::make_tuple(pair.value, pair.next, pair.bound, vector(std::move(pair.vector)),
                              vector(std::move(pair.neighbour)));
      },
      py::arg("product"), py::kw_only(), py::arg("n"), py::arg("tol"), py::arg("start"),
      py::arg("error"), py::arg("seed"));
}

}  // namespace immucond::bindings
