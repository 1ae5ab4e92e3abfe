#include "immucond/direct.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "immucond/blas_threads.hpp"
#include "immucond/compensated.hpp"
#include "immucond/reduction.hpp"
#include "immucond/tridiagonal.hpp"

namespace immucond {
namespace {

/// The eigenvalues of T at the tied group of an end, ascending.
std::vector<double> end_values(const Tridiagonal& T, const Ends& s, End end, bool one) {
  const Index count = one ? 1 : s.tied(end);
  if (count == 1) return {end == End::max ? s.sigma_max : s.signed_min()};
  std::vector<Index> positions;
  for (Index i = 0; i < count; ++i) positions.push_back((end == End::max ? count : s.rank) - i);
  return T.eigenvalues(positions);
}

// ---- symmetric positive semidefinite: H = Q T Q^T ----

/// T with the eigenvalues that have been found already: the passes over T are what counts.
class Found {
 public:
  Found(const Tridiagonal& T, std::vector<Index> positions)
      : T_(T), positions_(std::move(positions)) {
    std::sort(positions_.begin(), positions_.end());
    positions_.erase(std::unique(positions_.begin(), positions_.end()), positions_.end());
    values_ = T.eigenvalues(positions_);
  }
  double operator[](Index position) const { return eigenvalues({position})[0]; }
  std::vector<Index> counts_above(const std::vector<double>& xs) const {
    return T_.counts_above(xs);
  }
  std::vector<double> eigenvalues(const std::vector<Index>& positions) const {
    std::vector<double> values;
    for (const Index wanted : positions) {
      const auto at = std::find(positions_.begin(), positions_.end(), wanted);
      if (at == positions_.end()) return T_.eigenvalues(positions);
      values.push_back(values_[size(at - positions_.begin())]);
    }
    return values;
  }

 private:
  const Tridiagonal& T_;
  std::vector<Index> positions_;
  std::vector<double> values_;
};

class PsdDecomposition final : public Decomposition {
 public:
  PsdDecomposition(std::vector<double> reflectors, std::vector<double> tau, Tridiagonal T,
                   Ends ends)
      : reflectors_(std::move(reflectors)), tau_(std::move(tau)), T_(std::move(T)) {
    ends_ = ends;
  }

  Vectors vectors(End end, bool one) const override {
    if (ends_.rank > 1 && (one || ends_.tied(end) == 1)) {
      auto [max, min] = both();
      return end == End::max ? max : min;
    }
    const std::vector<double> values = end_values(T_, ends_, end, one);
    return {static_cast<Index>(values.size()), {}, columns(values)};
  }

  std::pair<Vectors, Vectors> both() const override {
    if (ends_.rank == 1) return Decomposition::both();
    if (!both_) {
      std::vector<double> min = columns({ends_.signed_min(), ends_.sigma_max});
      std::vector<double> max(min.begin() + T_.size(), min.end());
      min.resize(size(T_.size()));
      both_ = {{1, {}, std::move(max)}, {1, {}, std::move(min)}};
    }
    return *both_;
  }

 private:
  /// Eigenvectors of H for eigenvalues of T, ascending.
  std::vector<double> columns(const std::vector<double>& values) const {
    const Index n = T_.size(), count = static_cast<Index>(values.size());
    std::vector<double> z(size(n * count));
    const blas::Phase phase(blas::Work::reduction, reduction_flops(n, n));
    T_.eigenvectors(values, z.data());
    apply_reflectors(n, count, reflectors_.data(), n, tau_.data(), z.data(), n);
    fix_signs(z, n);
    return z;
  }

  mutable std::vector<double> reflectors_;                   // dormtr changes and restores it
  mutable std::optional<std::pair<Vectors, Vectors>> both_;  // certificate and gradient ask
  std::vector<double> tau_;
  Tridiagonal T_;
};

// ---- general: S = Q B P^T, B bidiagonal ----

/// [0 B^T; B 0] permuted to a tridiagonal matrix with zero diagonal (Golub and Kahan 1965): its
/// eigenvalues are +-sigma_i, its vectors interleave v and u.
Tridiagonal golub_kahan(const std::vector<double>& d, const std::vector<double>& e) {
  std::vector<double> off_diagonal;
  for (std::size_t i = 0; i < d.size(); ++i) {
    // A subnormal one spoils the vectors that inverse iteration finds, and changes no value.
    if (i > 0)
      off_diagonal.push_back(std::fabs(e[i - 1]) < std::numeric_limits<double>::min() ? 0.0
                                                                                      : e[i - 1]);
    off_diagonal.push_back(d[i]);
  }
  return {std::vector<double>(2 * d.size(), 0.0), std::move(off_diagonal)};
}

class GeneralDecomposition final : public Decomposition {
 public:
  /// `a` is rows x cols column-major with rows >= cols, entries of order one; `swapped` says that
  /// it is the transpose of the matrix meant.
  GeneralDecomposition(std::vector<double> a, Index rows, Index cols, bool swapped,
                       const Given& given, int exponent, const char* name)
      : reflectors_(std::move(a)),
        rows_(rows),
        cols_(cols),
        swapped_(swapped),
        tauq_(size(cols)),
        taup_(size(cols)) {
    std::vector<double> d(size(cols)), e(size(cols));
    const blas::Phase phase(blas::Work::reduction, 2 * reduction_flops(rows, cols));
    lapack::gebrd(rows, cols, reflectors_.data(), rows, d.data(), e.data(), tauq_.data(),
                  taup_.data());
    e.resize(size(cols - 1));
    T_ = golub_kahan(d, e);
    const DoubleDouble squares =
        sum_of_squares(d.data(), cols) + sum_of_squares(e.data(), cols - 1);
    if (T_.radius() == 0.0) throw_rank_zero(name);
    ends_ = read_ends(T_, cols, given, squares);
    ends_.exponent = exponent;
  }

  Vectors vectors(End end, bool one) const override {
    const std::vector<double> values = end_values(T_, ends_, end, one);
    const Index count = static_cast<Index>(values.size()), n = 2 * cols_;
    std::vector<double> z(size(n * count));
    const blas::Phase phase(blas::Work::reduction, 2 * reduction_flops(rows_, cols_));
    T_.eigenvectors(values, z.data());
    std::vector<double> q(size(rows_ * count)), p(size(cols_ * count));
    for (Index j = 0; j < count; ++j) {
      // Near sigma = 0 the vectors of +sigma and -sigma mix, which changes only the two halves'
      // lengths.
      double* column = z.data() + j * n;
      normalize(column, cols_, 2);
      normalize(column + 1, cols_, 2);
      for (Index i = 0; i < cols_; ++i) {
        p[size(i + j * cols_)] = column[2 * i];
        q[size(i + j * rows_)] = column[2 * i + 1];
      }
    }
    lapack::ormbr_q(rows_, cols_, count, reflectors_.data(), rows_, tauq_.data(), q.data(), rows_);
    lapack::ormbr_p(cols_, count, reflectors_.data(), rows_, taup_.data(), p.data(), cols_);
    Vectors result;
    result.count = count;
    result.left = std::move(swapped_ ? p : q);
    result.right = std::move(swapped_ ? q : p);
    fix_signs(result.right, swapped_ ? rows_ : cols_, &result.left, swapped_ ? cols_ : rows_);
    return result;
  }

 private:
  mutable std::vector<double> reflectors_;
  Index rows_, cols_;
  bool swapped_;
  std::vector<double> tauq_, taup_;
  Tridiagonal T_;
};

}  // namespace

std::unique_ptr<Decomposition> reduce_psd(SymmetricMatrix H, const Given& given, double tolerance,
                                          std::string& why) {
  const Index n = H.n;
  std::vector<double> d(size(n)), e(size(n)), tau(size(n));
  {
    const blas::Phase phase(blas::Work::reduction, reduction_flops(n, n));
    tridiagonalize(n, H.data.data(), n, d.data(), e.data(), tau.data());
  }
  e.resize(size(n - 1));
  const DoubleDouble off = sum_of_squares(e.data(), n - 1);
  const DoubleDouble squares = sum_of_squares(d.data(), n) + off + off;
  Tridiagonal T(std::move(d), std::move(e));
  if (T.radius() == 0.0) throw_rank_zero(H.name);
  // What this asks for, and what the ends will be read from.
  const Index k = given.rule.rank > 0 ? given.rule.rank : n;
  std::vector<Index> positions{1, std::min<Index>(2, n), n, k, std::max<Index>(1, k - 1)};
  if (k < n) positions.push_back(k + 1);
  const Found values(T, positions);
  const double counted = given.rule.rank > 0 ? std::max(0.0, values[k]) : given.cut(values[1]);
  const double allowed =
      given.psd ? std::max(tolerance, largest_negative(n, given.rule.precision)) * T.radius()
                : counted;
  if (values[n] < -allowed || values[1] <= 0.0) {
    why = " must be positive semidefinite, and has the eigenvalue " +
          format(std::ldexp(values[n], H.exponent)) + " beside the largest, " +
          format(std::ldexp(values[1], H.exponent));
    return nullptr;
  }
  Ends ends = read_ends(values, n, given, squares);
  if (ends.below_min) ends.below_min = std::max(*ends.below_min, -values[n]);
  ends.exponent = H.exponent;
  return std::make_unique<PsdDecomposition>(std::move(H.data), std::move(tau), std::move(T), ends);
}

std::unique_ptr<Decomposition> reduce_general(std::vector<double> a, Index rows, Index cols,
                                              bool swapped, const Given& given, int exponent,
                                              const char* name) {
  return std::make_unique<GeneralDecomposition>(std::move(a), rows, cols, swapped, given, exponent,
                                                name);
}

}  // namespace immucond
