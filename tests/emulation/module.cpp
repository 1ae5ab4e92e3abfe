// The device algorithms on host threads, and the launch configurations: for tests.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <limits>
#include <string>
#include <tuple>
#include <vector>

#include "fiber_team.hpp"
#include "gram_plan.hpp"
#include "lanczos_step.hpp"
#include "launch.hpp"

namespace py = pybind11;
using namespace immucond;
using namespace immucond::cuda;

namespace {

using Choice = std::tuple<Index, double, double, double>;  // as `Rule`

template <class T>
py::dict solve(const py::array& stack, Kind kind, const Choice& choice, BuiltIn regularizer,
               Index p, bool gradient, bool ends, bool pairs, int threads, unsigned seed) {
  using Real = typename SmallProblems<T>::Real;
  const auto count = stack.shape(0);
  const int rows = static_cast<int>(stack.shape(1)), cols = static_cast<int>(stack.shape(2));
  const auto size = static_cast<py::ssize_t>(sizeof(T));
  if (!is_small(kind, rows, cols, std::numeric_limits<std::int64_t>::max()))
    throw py::value_error("not a small problem");
  py::array_t<double> value(count), sigma({count, py::ssize_t{2}});
  py::array_t<double> vectors({pairs ? count : 0, py::ssize_t{2}, py::ssize_t{cols}});
  py::array_t<Real> by_input({gradient ? count : 0, py::ssize_t{rows}, py::ssize_t{cols}});
  py::array_t<int> rank(count), status(count);
  std::vector<double> gram(static_cast<std::size_t>(
      small_workspace_bytes(kind, count, rows, cols, gradient) / std::int64_t{sizeof(double)}));

  SmallProblems<T> problems;
  problems.input = {static_cast<const T*>(stack.data()),
                    stack.strides(0) / size,
                    stack.strides(1) / size,
                    stack.strides(2) / size,
                    rows,
                    cols};
  problems.kind = kind;
  std::tie(problems.rule.rank, problems.rule.rtol, problems.rule.precision, problems.rule.rounded) =
      choice;
  problems.regularizer = regularizer;
  problems.p = p;
  problems.value = value.mutable_data();
  problems.gradient = gradient ? by_input.mutable_data() : nullptr;
  problems.sigma = ends || pairs ? sigma.mutable_data() : nullptr;
  problems.vectors = pairs ? vectors.mutable_data() : nullptr;
  problems.rank = rank.mutable_data();
  problems.status = status.mutable_data();
  problems.gram = gram.empty() ? nullptr : gram.data();

  const Launch launch = small_launch(kind, count, rows, cols);
  if (threads == 0) threads = launch.threads;
  const int doubles = layout_of(small_order(kind, rows, cols), threads / kWarp).size;
  constexpr int kGuard = 64;
  constexpr double kUntouched = -12345.0;
  for (int block = 0; block < launch.blocks; ++block) {
    // What is read before it is written is NaN, what is written beyond the end is seen.
    std::vector<double> shared(static_cast<std::size_t>(doubles + kGuard),
                               std::numeric_limits<double>::quiet_NaN());
    std::fill(shared.begin() + doubles, shared.end(), kUntouched);
    run_block(threads, seed + static_cast<unsigned>(block),
              [&](const FiberTeam& team) { small_problem(team, problems, block, shared.data()); });
    if (std::any_of(shared.begin() + doubles, shared.end(),
                    [](double x) { return x != kUntouched; }))
      throw std::logic_error("shared memory was written beyond its end");
  }
  py::dict result;
  result["value"] = value;
  result["gradient"] = by_input;
  result["sigma"] = sigma;
  result["vectors"] = vectors;
  result["rank"] = rank;
  result["status"] = status;
  return result;
}

using Matrix = py::array_t<double, py::array::c_style | py::array::forcecast>;

/// Blocks one after the other; what they find in shared memory at first is NaN.
struct Grid {
  const double* A = nullptr;
  std::int64_t n = 0;
  int threads = 0;
  unsigned seed = 0;

  void multiply(const double* v, double* w) const {
    for (std::int64_t i = 0; i < n; ++i) {
      w[i] = 0.0;
      for (std::int64_t j = 0; j < n; ++j) w[i] += A[i * n + j] * v[j];
    }
  }

  int blocks(std::int64_t size) const { return static_cast<int>((size + threads - 1) / threads); }

  template <class Body>
  void run(int blocks, const Body& body) {
    for (int block = 0; block < blocks; ++block) {
      std::vector<double> scratch(static_cast<std::size_t>(2 * threads / kWarp),
                                  std::numeric_limits<double>::quiet_NaN());
      run_block(threads, seed++,
                [&](const FiberTeam& team) { body(team, block, blocks, scratch.data()); });
    }
  }
};

/// A is symmetric; the basis lies by rows.
class Lanczos {
 public:
  Lanczos(const Matrix& A, const Matrix& start, int most, int threads, unsigned seed)
      : n_(A.shape(0)),
        width_(static_cast<int>(start.shape(0))),
        rows_(most + width_),
        a_(A.data(), A.data() + A.size()),
        v_(static_cast<std::size_t>(n_ * rows_)),
        t_(static_cast<std::size_t>(most) * static_cast<std::size_t>(rows_)),
        grid_{a_.data(), n_, threads, seed},
        work_(static_cast<std::size_t>(n_ + rows_ + grid_.blocks(n_)),
              std::numeric_limits<double>::quiet_NaN()) {
    std::copy_n(start.data(), start.size(), v_.begin());
  }
  Lanczos(const Lanczos&) = delete;
  Lanczos& operator=(const Lanczos&) = delete;

  void advance(int first, int last) {
    lanczos_steps(grid_, n_, v_.data(), width_, first, last, t_.data(), rows_, work_.data());
  }

  /// T_k, (k + width) x k.
  Matrix projection(int k) const {
    Matrix out({k + width_, k});
    for (int i = 0; i < k + width_; ++i)
      for (int j = 0; j < k; ++j)
        out.mutable_at(i, j) = t_[static_cast<std::size_t>(j * rows_ + i)];
    return out;
  }

  Matrix basis(int k) const {
    Matrix out({py::ssize_t{k}, static_cast<py::ssize_t>(n_)});
    std::copy_n(v_.begin(), out.size(), out.mutable_data());
    return out;
  }

  std::int64_t size() const { return n_; }

 private:
  std::int64_t n_;
  int width_, rows_;
  std::vector<double> a_, v_, t_;
  Grid grid_;
  std::vector<double> work_;
};

Dtype dtype_of(const std::string& name) {
  return name == "float64"   ? Dtype::f64
         : name == "float32" ? Dtype::f32
         : name == "float16" ? Dtype::f16
                             : Dtype::bf16;
}

}  // namespace

PYBIND11_MODULE(_emulation, m, py::mod_gil_not_used()) {
  py::enum_<Kind>(m, "Kind")
      .value("matrix", Kind::matrix)
      .value("features", Kind::features)
      .value("gram", Kind::gram);
  py::enum_<BuiltIn>(m, "Regularizer", py::module_local())
      .value("none", BuiltIn::none)
      .value("r_well", BuiltIn::r_well)
      .value("r_ill", BuiltIn::r_ill)
      .value("kappa", BuiltIn::kappa)
      .value("log_kappa", BuiltIn::log_kappa);
  m.attr("LARGEST_ORDER") = kLargestOrder;
  m.attr("STATUS") =
      py::dict(py::arg("not_finite") = int{kNotFinite}, py::arg("rank_zero") = int{kRankZero},
               py::arg("not_psd") = int{kNotPsd}, py::arg("digits_lost") = int{kDigitsLost},
               py::arg("tied") = int{kTied}, py::arg("degenerate") = int{kDegenerate},
               py::arg("unrepresentable") = int{kUnrepresentable},
               py::arg("unresolved") = int{kUnresolved}, py::arg("too_few") = int{kTooFew});

  m.def(
      "small_problems",
      [](const py::array& stack, Kind kind, const Choice& choice, BuiltIn regularizer, Index p,
         bool gradient, bool ends, bool pairs, int threads, unsigned seed) {
        if (stack.ndim() != 3) throw py::value_error("a stack of matrices is needed");
        const py::dtype dtype = stack.dtype();
        const auto run = [&](auto entry) {
          return solve<decltype(entry)>(stack, kind, choice, regularizer, p, gradient, ends, pairs,
                                        threads, seed);
        };
        if (dtype.kind() == 'u' && dtype.itemsize() == 2) return run(BFloat16{});
        if (dtype.kind() != 'f') throw py::type_error("no dtype of features");
        return dtype.itemsize() == 8   ? run(double{})
               : dtype.itemsize() == 4 ? run(float{})
                                       : run(Half{});
      },
      py::arg("stack"), py::arg("kind"), py::arg("rule"), py::arg("regularizer") = BuiltIn::none,
      py::arg("p") = kAllValues, py::arg("gradient") = false, py::arg("ends") = false,
      py::arg("pairs") = false, py::arg("threads") = 0, py::arg("seed") = 0u);

  m.def("small_launch", [](Kind kind, std::int64_t count, int rows, int cols) {
    const Launch launch = small_launch(kind, count, rows, cols);
    return std::make_tuple(launch.blocks, launch.threads, launch.shared_bytes);
  });
  m.def("is_small", &is_small);
  m.def("vector_blocks", &vector_blocks);
  m.def("entry_blocks", &entry_blocks);
  m.def("small_workspace_bytes", &small_workspace_bytes);

  m.def("plan_gram", [](const std::vector<std::int64_t>& shape,
                        const std::vector<std::int64_t>& strides, const std::string& dtype,
                        bool narrow) {
    const GramPlan plan = plan_gram(
        {nullptr, dtype_of(dtype), shape.at(0), shape.at(1), strides.at(0), strides.at(1)}, narrow);
    return std::make_tuple(plan.direct, plan.transposed, plan.leading, plan.block_rows,
                           plan.workspace_bytes);
  });

  py::class_<Lanczos>(m, "Lanczos")
      .def(py::init<const Matrix&, const Matrix&, int, int, unsigned>(), py::arg("A"),
           py::arg("start"), py::arg("most"), py::arg("threads") = 64, py::arg("seed") = 0u)
      .def("advance", &Lanczos::advance)
      .def("projection", &Lanczos::projection)
      .def("basis", &Lanczos::basis)
      .def_property_readonly("n", &Lanczos::size);
  m.def(
      "measure",
      [](const Matrix& x, int parts, int threads) {
        Matrix out({parts, 3});
        Grid grid{.threads = threads};
        grid.run(parts, Measure{x.size(), x.data(), out.mutable_data()});
        return out;
      },
      py::arg("x"), py::arg("parts") = 4, py::arg("threads") = 64);
}
