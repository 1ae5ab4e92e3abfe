#include "immucond/decomposition.hpp"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <stdexcept>
#include <string_view>
#include <utility>

#include "immucond/errors.hpp"
#include "immucond/gram.hpp"
#include "immucond/iterative.hpp"
#include "immucond/tridiagonal.hpp"

namespace immucond {
namespace {

/// Beyond this relative error in sigma_min the Gram matrix is given up for a QR of the features.
constexpr double kGramTolerance = 1e-6;

/// The flops of reducing a rows x cols matrix, rows >= cols (half of them for a symmetric one).
double reduction_flops(Index rows, Index cols) {
  return 4.0 / 3.0 * static_cast<double>(rows) * static_cast<double>(cols) *
         static_cast<double>(cols);
}

/// From these sizes on an iteration beats the reduction (docs/numerics.md).
constexpr Index kPsdSize = 2048, kGeneralSize = 768;

bool iteration_pays(Index n, const Given& given, Index from) {
  if (given.method == Method::direct || given.method == Method::jacobi) return false;
  return given.method == Method::lanczos || n >= from;
}

[[noreturn]] void throw_rank_zero(const char* name) {
  throw std::invalid_argument(std::string(name) +
                              " has rank 0 (every singular value is zero): it has no condition "
                              "number and no extreme pairs");
}

/// count sigma^2 - squares.
double excess(double sigma, Index count, DoubleDouble squares) {
  return (two_product(sigma, sigma) * static_cast<double>(count) + -squares).value();
}

/// The ends among the `count` largest values of T, which offers eigenvalues by position and counts
/// above given numbers. `relative`: the method's error in each value relative to itself, where it
/// keeps small ones as well as large ones, or else 0.
template <class Source>
Spectrum read_ends(const Source& T, Index count, const Given& given, DoubleDouble squares,
                   double relative = 0.0) {
  Spectrum s;
  s.p = count;
  s.squares = squares;
  s.rank = given.rank > 0 ? given.rank : count;  // full, until it shows otherwise
  if (s.rank > count)
    throw std::invalid_argument("rank = " + std::to_string(s.rank) + " was given for a matrix of " +
                                std::to_string(count) + " singular values");
  const auto bottom = [&] {
    std::vector<Index> positions{s.rank, std::max<Index>(1, s.rank - 1)};
    if (s.rank < count) positions.push_back(s.rank + 1);
    return positions;
  };
  // All at once: the passes over T are what counts.
  std::vector<Index> positions = bottom();
  positions.insert(positions.end(), {1, std::min<Index>(2, count)});
  std::vector<double> values = T.eigenvalues(positions);
  s.sigma_max = values.end()[-2];
  s.next_max = values.end()[-1];
  const double noise =
      std::max(reduction_noise(count), given.summing) * s.sigma_max + given.forming;
  s.relative = relative > 0.0;
  s.noise_max = s.relative ? relative * s.sigma_max : noise;
  const auto tie_min = [&] {
    s.sigma_min = std::fabs(values[0]);
    s.negative_min = values[0] < 0.0;
    s.noise_min = s.relative ? relative * s.sigma_min : noise;
    return s.sigma_min + tie_width(s, given, End::min);
  };
  std::vector<Index> above = T.counts_above(
      {s.sigma_max - tie_width(s, given, End::max), tie_min(), given.cut(s.sigma_max)});
  if (const Index rank = std::clamp<Index>(above[2], 1, count); given.rank == 0 && rank < s.rank) {
    s.rank = rank;
    values = T.eigenvalues(bottom());
    above[1] = T.counts_above({tie_min()})[0];
  }
  s.next_min = values[1];
  if (s.rank < count) s.below_min = std::max(0.0, values[2]);
  if (s.sigma_min < 4 * std::numeric_limits<double>::min() && !given.allow_zero) {
    const std::string number = "number " + std::to_string(s.rank) +
                               " is 0 in the range of float64 (below 2^-1020 of the largest)";
    if (given.rank == 0)
      throw std::overflow_error(
          "the condition number is not representable: of the nonzero singular values " + number);
    throw std::invalid_argument(
        "rank = " + std::to_string(s.rank) +
        " was given, and that many singular values are not nonzero: " + number);
  }
  s.tied_max = std::clamp<Index>(above[0], 1, s.rank);
  s.tied_min = std::clamp<Index>(s.rank - above[1], 1, s.rank);
  if (s.all_tied()) s.tied_min = s.rank;
  return s;
}

/// The eigenvalues of T at the tied group of an end, ascending.
std::vector<double> end_values(const Tridiagonal& T, const Spectrum& s, End end, bool one) {
  const Index count = one ? 1 : end == End::max ? s.tied_max : s.tied_min;
  if (count == 1) return {end == End::max ? s.sigma_max : s.signed_min()};
  std::vector<Index> positions;
  for (Index i = 0; i < count; ++i) positions.push_back((end == End::max ? count : s.rank) - i);
  return T.eigenvalues(positions);
}

// ---- symmetric positive semidefinite: H = Q T Q^T ----

class PsdDecomposition final : public Decomposition {
 public:
  PsdDecomposition(std::vector<double> reflectors, std::vector<double> tau, Tridiagonal T,
                   Spectrum spectrum)
      : reflectors_(std::move(reflectors)), tau_(std::move(tau)), T_(std::move(T)) {
    spectrum_ = spectrum;
  }

  Vectors vectors(End end, bool one) const override {
    const std::vector<double> values = end_values(T_, spectrum_, end, one);
    return {static_cast<Index>(values.size()), {}, columns(values)};
  }

  std::pair<Vectors, Vectors> both() const override {
    if (spectrum_.rank == 1) return Decomposition::both();
    std::vector<double> min = columns({spectrum_.signed_min(), spectrum_.sigma_max});
    std::vector<double> max(min.begin() + T_.size(), min.end());
    min.resize(size(T_.size()));
    return {{1, {}, std::move(max)}, {1, {}, std::move(min)}};
  }

 private:
  /// Eigenvectors of H for eigenvalues of T, ascending.
  std::vector<double> columns(const std::vector<double>& values) const {
    const Index n = T_.size(), count = static_cast<Index>(values.size());
    std::vector<double> z(size(n * count));
    const lapack::Phase phase(lapack::Work::reduction, reduction_flops(n, n));
    T_.eigenvectors(values, z.data());
    lapack::ormtr(n, count, reflectors_.data(), n, tau_.data(), z.data(), n);
    fix_signs(z, n);
    return z;
  }

  mutable std::vector<double> reflectors_;  // dormtr changes and restores it
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
    const lapack::Phase phase(lapack::Work::reduction, 2 * reduction_flops(rows, cols));
    lapack::gebrd(rows, cols, reflectors_.data(), rows, d.data(), e.data(), tauq_.data(),
                  taup_.data());
    e.resize(size(cols - 1));
    T_ = golub_kahan(d, e);
    const DoubleDouble squares =
        sum_of_squares(d.data(), cols) + sum_of_squares(e.data(), cols - 1);
    if (T_.radius() == 0.0) throw_rank_zero(name);
    spectrum_ = read_ends(T_, cols, given, squares);
    spectrum_.exponent = exponent;
  }

  Vectors vectors(End end, bool one) const override {
    const std::vector<double> values = end_values(T_, spectrum_, end, one);
    const Index count = static_cast<Index>(values.size()), n = 2 * cols_;
    std::vector<double> z(size(n * count));
    const lapack::Phase phase(lapack::Work::reduction, 2 * reduction_flops(rows_, cols_));
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

// ---- general, small: one-sided Jacobi ----

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
  const GeneralDecomposition decomposition(std::move(scaled), rows, count, /*swapped=*/false,
                                           {.allow_zero = true}, 0, name);
  const Spectrum& s = decomposition.spectrum();
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
    const lapack::Phase phase(lapack::Work::reduction, 8 * reduction_flops(rows, cols));
    const double relative = reduction_noise(rows) * scaled_condition(a, rows, cols, name);
    lapack::gejsv(rows, cols, a.data(), rows, sigma_.values.data(), u_.data(), v_.data());
    given.precision = 0.0;  // what it keeps apart is taken as meant
    spectrum_ = read_ends(sigma_, cols, given, squares, relative < 0.1 ? relative : 0.0);
    spectrum_.exponent = exponent;
    method_ = "jacobi";
  }

  Vectors vectors(End end, bool one) const override {
    const Index count = one ? 1 : end == End::max ? spectrum_.tied_max : spectrum_.tied_min;
    const Index first = end == End::max ? 0 : spectrum_.rank - count;
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

// ---- features: H = R^T R, R from a QR of the features ----

/// Vectors v of Z^T Z as vectors Z v of Z Z^T, for A = Z^T.
Start of_samples(const MatrixView& A, const Start& start) {
  Start samples;
  const auto carry = [&](const std::vector<double>& from, std::vector<double>& to) {
    const Index count = static_cast<Index>(from.size()) / A.rows;
    to.resize(size(A.cols * count));
    RowBlocks blocks(A);
    for (Dense block{}; blocks.next(block);)
      multiply(1.0, {block.data, block.cols, block.rows, block.ld, block.op == 'T' ? 'N' : 'T'},
               {from.data() + blocks.first_row(), block.rows, count, A.rows, 'N'},
               blocks.first_row() == 0 ? 0.0 : 1.0, to.data(), A.cols);
  };
  carry(start.max, samples.max);
  carry(start.min, samples.min);
  return samples;
}

std::unique_ptr<Decomposition> decompose_triangle(const TallQr& qr, Index n, const Given& given,
                                                  const char* name) {
  if (given.method == Method::jacobi)
    return std::make_unique<JacobiDecomposition>(qr.r(), n, n, /*swapped=*/false, given,
                                                 qr.exponent(), name);
  if (iteration_pays(n, given, kGeneralSize)) {
    const lapack::Phase phase(lapack::Work::reduction, 2 * reduction_flops(n, n));
    if (auto found = iterate_triangle(qr.r(), n, given)) {
      found->set_exponent(qr.exponent());
      return found;
    }
  }
  return std::make_unique<GeneralDecomposition>(qr.r(), n, n, /*swapped=*/false, given,
                                                qr.exponent(), name);
}

/// Whether the Gram matrix shows the rank and carries the digits of the smallest singular value.
bool gram_carries(const Spectrum& s, const Given& given, Index n, double noise, double floor) {
  const bool rank_seen = given.rank > 0 || given.rtol * given.rtol >= noise ||
                         floor >= noise * s.sigma_max || s.rank == n;
  return rank_seen && noise * s.sigma_max < kGramTolerance * s.sigma_min;
}

/// The decomposition of R, told as that of H = R^T R.
class QrDecomposition final : public Decomposition {
 public:
  QrDecomposition(const MatrixView& A, bool keep_q, const SymmetricMatrix& gram, const Given& given)
      : qr_(A, keep_q),
        factor_(decompose_triangle(qr_, A.cols, with_floor(given, qr_.r().data(), A.cols * A.cols),
                                   A.name)) {
    constexpr Index step = sizeof(double);
    const Spectrum& r = factor_->spectrum();
    const double noise = reduction_noise(A.cols) * r.sigma_max;
    triangle_ = {{qr_.r().data(), Dtype::f64, A.cols, A.cols, step, A.cols * step, A.name},
                 factor_.get(),
                 noise,
                 &qr_};
    spectrum_ = r;
    spectrum_.sigma_max = r.sigma_max * r.sigma_max;
    spectrum_.sigma_min = r.sigma_min * r.sigma_min;
    spectrum_.next_max = r.next_max * r.next_max;
    spectrum_.next_min = r.next_min * r.next_min;
    if (r.below_min) spectrum_.below_min = *r.below_min * *r.below_min;
    spectrum_.noise_max = (2 * r.sigma_max + noise) * noise;
    spectrum_.noise_min = (2 * r.sigma_min + noise) * noise;
    if (spectrum_.sigma_min < std::numeric_limits<double>::min())
      throw std::overflow_error("the condition number of the Gram matrix of " +
                                std::string(A.name) + " is not representable in float64: that of " +
                                A.name + " is " + format(r.sigma_max / r.sigma_min));
    // F = ||A^T A||_F^2, brought from the Gram matrix's units to R's.
    spectrum_.exponent = 2 * qr_.exponent();
    const double unit = std::ldexp(1.0, gram.exponent - spectrum_.exponent);
    spectrum_.squares =
        sum_of_squares(gram.data.data(), static_cast<Index>(gram.data.size())) * unit * unit;
    const std::string_view inner = factor_->method();
    method_ = inner == "direct" ? "qr" : inner == "jacobi" ? "qr-jacobi" : "qr-lanczos";
  }

  std::vector<double> neighbour(End end) const override { return factor_->neighbour(end); }

  Vectors vectors(End end, bool one) const override {
    Vectors result = factor_->vectors(end, one);
    result.left.clear();
    return result;
  }

  const Triangle* triangle() const override { return &triangle_; }

 private:
  TallQr qr_;
  std::unique_ptr<Decomposition> factor_;
  Triangle triangle_{};
};

}  // namespace

Given with_floor(Given given, const double* entries, Index count) {
  given.floor =
      given.rounded > 0.0 ? given.rounded * std::sqrt(sum_of_squares(entries, count).value()) : 0.0;
  return given;
}

double largest_negative(Index n, const Given& given) {
  constexpr double most = 0.25;  // more is no rounding, at any precision
  return std::min(most, 10 * reduction_noise(n, std::max(kEps, given.precision)));
}

double tie_width(const Spectrum& s, const Given& given, End end) {
  const double sigma = end == End::max ? s.sigma_max : s.sigma_min;
  // Rounding of about r sigma_max in norm, whatever the size, moves a singular value of what was
  // given by as much: of Z^T Z an eigenvalue by (sqrt(sigma) + r sqrt(sigma_max))^2 - sigma.
  const double r = 4 * given.precision, step = r * s.sigma_max;
  const double moved =
      given.features ? 2 * std::sqrt(sigma) * r * std::sqrt(s.sigma_max) + r * step : step;
  return (end == End::max ? s.noise_max : s.noise_min) + moved;
}

void fix_signs(std::vector<double>& a, Index rows, std::vector<double>* partner,
               Index partner_rows) {
  const Index columns = static_cast<Index>(a.size()) / rows;
  for (Index j = 0; j < columns; ++j) {
    double* column = a.data() + j * rows;
    const double* largest = std::max_element(
        column, column + rows, [](double x, double y) { return std::fabs(x) < std::fabs(y); });
    if (*largest >= 0.0) continue;
    for (Index i = 0; i < rows; ++i) column[i] = -column[i];
    if (partner != nullptr)
      for (Index i = 0; i < partner_rows; ++i) (*partner)[size(i + j * partner_rows)] *= -1.0;
  }
}

double Spectrum::below_max() const { return std::max(0.0, excess(sigma_max, p, squares)); }
double Spectrum::above_min() const { return std::max(0.0, -excess(sigma_min, rank, squares)); }

std::unique_ptr<Decomposition> decompose_psd(SymmetricMatrix H, const Given& given,
                                             double tolerance, std::string& why) {
  const Index n = H.n;
  if (iteration_pays(n, given, kPsdSize)) {
    const lapack::Phase phase(lapack::Work::reduction, reduction_flops(n, n));
    if (auto found = iterate_psd(H, given)) return found;
    // Where the rank is low a reduction costs little more; it is for those who ask for it.
    if (given.method == Method::lanczos)
      if (auto found = iterate_semidefinite(H, given)) return found;
  }
  std::vector<double> d(size(n)), e(size(n)), tau(size(n));
  {
    const lapack::Phase phase(lapack::Work::reduction, reduction_flops(n, n));
    lapack::sytrd(n, H.data.data(), n, d.data(), e.data(), tau.data());
  }
  e.resize(size(n - 1));
  const DoubleDouble off = sum_of_squares(e.data(), n - 1);
  const DoubleDouble squares = sum_of_squares(d.data(), n) + off + off;
  Tridiagonal T(std::move(d), std::move(e));
  if (T.radius() == 0.0) throw_rank_zero(H.name);
  const std::vector<double> ends = T.eigenvalues({1, n, given.rank > 0 ? given.rank : 1});
  const double counted = given.rank > 0 ? std::max(0.0, ends[2]) : given.cut(ends[0]);
  const double allowed =
      given.psd ? std::max(tolerance, largest_negative(n, given)) * T.radius() : counted;
  if (ends[1] < -allowed || ends[0] <= 0.0) {
    why = " must be positive semidefinite, and has the eigenvalue " +
          format(std::ldexp(ends[1], H.exponent)) + " beside the largest, " +
          format(std::ldexp(ends[0], H.exponent));
    return nullptr;
  }
  Spectrum spectrum = read_ends(T, n, given, squares);
  if (spectrum.below_min) spectrum.below_min = std::max(*spectrum.below_min, -ends[1]);
  spectrum.exponent = H.exponent;
  return std::make_unique<PsdDecomposition>(std::move(H.data), std::move(tau), std::move(T),
                                            spectrum);
}

std::unique_ptr<Decomposition> decompose(const MatrixView& S, const Given& wanted) {
  const int exponent = scale_exponent(S);
  const MatrixView unit = scaled(S, exponent);
  if (S.rows == S.cols && wanted.method != Method::jacobi) {
    SymmetricMatrix H;
    H.n = S.rows;
    H.exponent = exponent;
    H.name = S.name;
    H.data.resize(size(H.n * H.n));
    copy_to(unit, H.data.data());
    std::string why;
    Given as_singular_values = wanted;
    as_singular_values.psd = false;
    as_singular_values = with_floor(as_singular_values, H.data.data(), H.n * H.n);
    if (asymmetry(H.data.data(), H.n) == 0.0)
      if (auto psd = decompose_psd(std::move(H), as_singular_values, 0.0, why)) return psd;
  }
  const bool swapped = S.rows < S.cols;
  const MatrixView tall = swapped ? unit.transposed() : unit;
  std::vector<double> a(size(tall.rows * tall.cols));
  copy_to(tall, a.data());
  const Given given = with_floor(wanted, a.data(), tall.rows * tall.cols);
  if (given.method == Method::jacobi)
    return std::make_unique<JacobiDecomposition>(std::move(a), tall.rows, tall.cols, swapped, given,
                                                 exponent, S.name);
  if (iteration_pays(tall.cols, given, kGeneralSize)) {
    const lapack::Phase phase(lapack::Work::reduction, 2 * reduction_flops(tall.rows, tall.cols));
    if (auto found = iterate_general(a, tall.rows, tall.cols, swapped, given)) {
      found->set_exponent(exponent);
      return found;
    }
  }
  return std::make_unique<GeneralDecomposition>(std::move(a), tall.rows, tall.cols, swapped, given,
                                                exponent, S.name);
}

FeatureProblem decompose_features(const MatrixView& Z, const Given& given) {
  FeatureProblem problem;
  problem.dual = Z.rows < Z.cols;
  problem.A = problem.dual ? Z.transposed() : Z;
  const Index n = problem.A.cols;
  SymmetricMatrix& G = problem.gram;
  G.n = n;
  G.name = Z.name;
  G.data.resize(size(n * n));
  double largest = 0.0;
  problem.exponent = gram_in_range(problem.A, G.data.data(), largest);
  if (largest == 0.0) throw_rank_zero(Z.name);
  std::frexp(largest, &G.exponent);
  rescale(G.data.data(), n * n, -G.exponent);

  // Rank is decided on singular values of Z; the Gram matrix shows their squares, above its noise.
  const double summing = summation_noise(problem.A.rows, n);
  const double noise = std::max(reduction_noise(n), summing);
  const double squared = given.rtol * given.rtol;
  double trace = 0.0;  // the squared Frobenius norm of Z
  for (Index i = 0; i < n; ++i) trace += G.data[size(i * (n + 1))];
  const double floor = given.rounded * given.rounded * trace;
  const Start in_samples =
      problem.dual && given.start ? of_samples(problem.A, *given.start) : Start{};
  Given seen = given;
  if (problem.dual && given.start) seen.start = &in_samples;
  const bool only_qr = given.method == Method::qr || given.method == Method::jacobi;
  const bool only_gram = given.method == Method::gram;
  if (!only_qr) {
    Given of_gram = seen;
    of_gram.rtol = std::max(squared, noise);
    of_gram.floor = floor;
    of_gram.features = true;
    of_gram.summing = summing;
    of_gram.allow_zero = !only_gram;
    std::string why;
    problem.decomposition = decompose_psd(G, of_gram, noise, why);
    if (!problem.decomposition)
      throw LapackError("the Gram matrix of " + std::string(Z.name) + why);
    const bool direct = std::string_view(problem.decomposition->method()) == "direct";
    problem.decomposition->set_method(direct ? "gram" : "gram-lanczos");
  }
  if (only_qr ||
      (!only_gram && !gram_carries(problem.decomposition->spectrum(), given, n, noise, floor)))
    problem.decomposition = std::make_unique<QrDecomposition>(problem.A, problem.dual, G, seen);
  problem.decomposition->set_p(Z.cols);
  return problem;
}

}  // namespace immucond
