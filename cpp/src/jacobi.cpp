#include "immucond/jacobi.hpp"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <utility>

#include "immucond/blas_threads.hpp"
#include "immucond/compensated.hpp"
#include "immucond/direct.hpp"

namespace immucond {
namespace {

/// All values, descending, asked for as those of a tridiagonal matrix are.
struct SortedValues {
  std::vector<double> values;
  std::vector<double> eigenvalues(const std::vector<Index>& from_top) const {
    std::vector<double> found;
    for (const Index position : from_top) found.push_back(values[size(position - 1)]);
    return found;
  }
  std::vector<Index> counts_above(const std::vector<double>& xs) const {
    std::vector<Index> counts;
    for (const double x : xs)
      counts.push_back(
          std::count_if(values.begin(), values.end(), [=](double v) { return v > x; }));
    return counts;
  }
};

/// The condition number, for certain, of the nonzero columns of A scaled to unit length: on it the
/// relative accuracy of every singular value depends. Infinite where rounding hides it.
double scaled_condition(const std::vector<double>& a, Index rows, Index cols, const char* name) {
  std::vector<double> scaled;
  Index count = 0;
  for (Index j = 0; j < cols; ++j) {
    const auto first = a.begin() + j * rows, last = first + rows;
    double largest = 0.0;
    for (auto x = first; x != last; ++x) largest = std::max(largest, std::fabs(*x));
    if (largest == 0.0) continue;
    std::transform(first, last, std::back_inserter(scaled), [=](double x) { return x / largest; });
    normalize(scaled.data() + count++ * rows, rows);
  }
  const auto decomposition = reduce_general(std::move(scaled), rows, count, /*swapped=*/false,
                                            {.allow_zero = true}, 0, name);
  const Ends& s = decomposition->ends();
  const double smallest = s.rank == count ? s.sigma_min - s.noise_min : 0.0;
  return smallest > 0.0 ? (s.sigma_max + s.noise_max) / smallest
                        : std::numeric_limits<double>::infinity();
}

/// Every singular value to high relative accuracy, where the columns' scales are what makes them
/// differ (Demmel and Veselic 1992; Drmac and Veselic 2008).
class JacobiDecomposition final : public Decomposition {
 public:
  JacobiDecomposition(std::vector<double> a, Index rows, Index cols, bool swapped, Given given,
                      int exponent, const char* name)
      : rows_(rows), cols_(cols), swapped_(swapped), u_(a.size()), v_(size(cols * cols)) {
    const DoubleDouble squares = sum_of_squares(a.data(), rows * cols);
    if (squares.hi == 0.0) throw_rank_zero(name);
    sigma_.values.resize(size(cols));
    const blas::Phase phase(blas::Work::reduction, 8 * reduction_flops(rows, cols));
    const double relative = reduction_noise(rows) * scaled_condition(a, rows, cols, name);
    lapack::gejsv(rows, cols, a.data(), rows, sigma_.values.data(), u_.data(), v_.data());
    given.rule.precision = 0.0;  // what it keeps apart is taken as meant
    ends_ = read_ends(sigma_, cols, given, squares, relative < 0.1 ? relative : 0.0);
    ends_.exponent = exponent;
    method_ = "jacobi";
  }

  Vectors vectors(End end, bool one) const override {
    const Index count = one ? 1 : ends_.tied(end);
    const Index first = end == End::max ? 0 : ends_.rank - count;
    const auto part = [&](const std::vector<double>& columns, Index rows) {
      const auto begin = columns.begin() + first * rows;
      return std::vector<double>(begin, begin + count * rows);
    };
    Vectors result{count, part(u_, rows_), part(v_, cols_)};
    if (swapped_) result.left.swap(result.right);
    fix_signs(result.right, swapped_ ? rows_ : cols_, &result.left, swapped_ ? cols_ : rows_);
    return result;
  }

 private:
  Index rows_, cols_;
  bool swapped_;
  std::vector<double> u_, v_;
  SortedValues sigma_;
};

}  // namespace

std::unique_ptr<Decomposition> rotate_general(std::vector<double> a, Index rows, Index cols,
                                              bool swapped, const Given& given, int exponent,
                                              const char* name) {
  return std::make_unique<JacobiDecomposition>(std::move(a), rows, cols, swapped, given, exponent,
                                               name);
}

}  // namespace immucond
