#include "immucond/iterative.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>
#include <random>
#include <utility>

#include "immucond/compensated.hpp"
#include "immucond/shift_invert.hpp"

namespace immucond {
namespace {

/// Of the neighbour's vector: spread over all others it is still above what ends an iteration.
constexpr double kBlur = 1e-3;

/// Relative residual of the outermost.
double uncertainty(const RitzPairs& pairs) {
  return pairs.residuals[0] / std::fabs(pairs.values[0]);
}

/// The Rayleigh quotients of given vectors (n x count), from the top or from the bottom; none where
/// all of them are zero.
RitzPairs rayleigh_ritz(const Operator& A, const std::vector<double>& vectors, End end) {
  Lanczos space(A, vectors, 0);
  const Index count = static_cast<Index>(vectors.size()) / A.size();
  space.multiply(count);
  if (space.processed() == 0) return {};
  return end == End::max ? space.largest(count) : space.smallest(count);
}

/// The spectrum of full rank n with these ends; nothing where one of them is not simple for
/// certain.
std::optional<Ends> ends_of_full_rank(const EndFound& top, const EndFound& bottom, Index n,
                                      double noise, const Given& given) {
  Ends s;
  s.p = s.rank = n;
  s.sigma_max = top.value;
  s.next_max = top.next;
  s.next_error_max = top.next_error;
  s.sigma_min = bottom.value;
  s.next_min = bottom.next;
  s.next_error_min = bottom.next_error;
  s.noise_max = s.noise_min = noise;
  const bool simple =
      clearly_simple(top.value - top.next, s.tie_width(End::max, given), top.next_error) &&
      clearly_simple(bottom.next - bottom.value, s.tie_width(End::min, given), bottom.next_error);
  const bool positive = bottom.value > 4 * std::numeric_limits<double>::min();
  const bool full =
      given.rule.rank == n || (given.rule.rank == 0 && bottom.value > given.cut(top.value));
  if (!simple || !positive || !full) return std::nullopt;
  return s;
}

/// Ends that are simple, with their vectors and their neighbours'.
class IterativeDecomposition final : public Decomposition {
 public:
  IterativeDecomposition(const Ends& ends, EndFound top, EndFound bottom) {
    ends_ = ends;
    method_ = "lanczos";
    for (const End end : {End::max, End::min}) {
      std::vector<double> columns = std::move((end == End::max ? top : bottom).vectors);
      const Index n = static_cast<Index>(columns.size()) / 2;
      fix_signs(columns, n);
      at(end).next.assign(columns.begin() + n, columns.end());
      columns.resize(size(n));
      at(end).right = std::move(columns);
    }
  }

  /// `left` is empty where it equals `right`; `next` is the neighbour's right vector.
  struct One {
    std::vector<double> left, right, next;
  };
  One& at(End end) { return end == End::max ? top_ : bottom_; }
  const One& at(End end) const { return end == End::max ? top_ : bottom_; }

  Vectors vectors(End end, bool) const override { return {1, at(end).left, at(end).right}; }
  std::vector<double> neighbour(End end) const override { return at(end).next; }

 private:
  One top_, bottom_;
};

/// Where the bottom is sought: as the old vectors see it; or, where rounding or a large condition
/// number hides it from them, where it would be if the ratio of the ends had stayed.
RitzPairs bottom_from(const Start& start, RitzPairs seen, const RitzPairs& top) {
  const double uncertain = uncertainty(top);
  if (!(start.ratio > 0.0 && start.ratio <= 1.0 && uncertain < uncertainty(seen))) return seen;
  // theta^T K theta moves its eigenvalues by as much, relatively, as theta (Ostrowski 1959).
  const std::size_t count = seen.values.size(), n = seen.vectors.size() / count;
  const double ratios[] = {1.0, 1.0 + start.gap};
  for (std::size_t i = 0; i < count; ++i) {
    seen.values[i] = start.ratio * top.values[0] * ratios[i];
    seen.residuals[i] = uncertain * seen.values[i];
  }
  // What hides the bottom mixes the two vectors.
  if (seen.vectors.size() == start.min.size()) seen.vectors = start.min;
  for (std::size_t i = 0; i < count; ++i)
    normalize(seen.vectors.data() + i * n, static_cast<Index>(n));
  return seen;
}

/// Old vectors, the neighbour's with a little of every other: what stands nearer to the end than it
/// shows before that is known to its part of the distance.
RitzPairs blurred(RitzPairs old) {
  if (old.values.size() < 2) return old;
  std::mt19937_64 generator;
  std::normal_distribution<double> normal;
  const std::size_t n = old.vectors.size() / old.values.size();
  for (std::size_t i = n; i < 2 * n; ++i)
    old.vectors[i] += kBlur / std::sqrt(static_cast<double>(n)) * normal(generator);
  return old;
}

/// Whether an end and its neighbour are seen as two.
bool told_apart(const RitzPairs& pairs) {
  if (pairs.values.size() < 2) return false;
  const double distance = std::fabs(pairs.values[1] - pairs.values[0]);
  return std::isfinite(distance) && pairs.residuals[0] < distance;
}

/// Both ends of H, each settled from where it is seen: by old vectors, or else by random ones.
/// Those may miss an eigenvector, and an adversary sees to it that they do; what is settled is
/// proved.
std::optional<std::pair<EndFound, EndFound>> settled_ends(const SymmetricMatrix& H,
                                                          ShiftedFactor& shifted,
                                                          const Given& given) {
  const double noise = reduction_noise(H.n), tolerance = std::max(noise, given.tol);
  const SymmetricOperator A(H.data.data(), H.n);
  RitzPairs old_top, old_bottom, seen;
  if (const Start* start = given.start) {
    old_top = rayleigh_ritz(A, start->max, End::max);
    old_bottom = rayleigh_ritz(A, start->min, End::min);
    if (!old_top.values.empty() && !old_bottom.values.empty())
      old_bottom = bottom_from(*start, std::move(old_bottom), old_top);
  }
  const auto search_top = [&]() -> std::optional<EndFound> {
    Lanczos lanczos(A, {}, 2);
    if (!lanczos.tell_apart(noise, kMostProducts)) return std::nullopt;
    seen = lanczos.smallest(2);
    return end_of(lanczos.largest(2));
  };
  const auto settled = [&](const EndFound& near, End end, const EndFound* top) {
    auto found = shifted.settle(near, end == End::max ? -1.0 : 1.0, tolerance);
    if (found && !keep_proof(*found, near.middle(), noise * (top ? top : &*found)->value))
      found.reset();
    return found;
  };
  const bool warm_top = old_top.values.size() == 2;
  auto near_top = warm_top ? end_of(blurred(std::move(old_top))) : search_top();
  if (!near_top) return std::nullopt;
  const bool by_old = !old_bottom.values.empty() &&
                      (seen.values.empty() || uncertainty(old_bottom) < uncertainty(seen));
  const RitzPairs near = by_old ? blurred(std::move(old_bottom)) : std::move(seen);
  const bool as_seen = told_apart(near);
  auto near_bottom = as_seen ? end_of(near) : approach_bottom(shifted, near, by_old ? 1 : 0, noise);
  if (!near_bottom) return std::nullopt;  // what is singular shows here, before the top is settled
  auto top = settled(*near_top, End::max, nullptr);
  if (!top && warm_top) {  // something has crossed
    shifted.restore();
    near_top = search_top();
    if (near_top) top = settled(*near_top, End::max, nullptr);
  }
  if (!top) return std::nullopt;
  auto bottom = settled(*near_bottom, End::min, &*top);
  if (!bottom && as_seen) {
    near_bottom = approach_bottom(shifted, near, by_old ? 1 : 0, noise);
    if (near_bottom) bottom = settled(*near_bottom, End::min, &*top);
  }
  if (!bottom) return std::nullopt;
  return std::pair(std::move(*top), std::move(*bottom));
}

std::unique_ptr<IterativeDecomposition> iterate_definite(SymmetricMatrix& H, const Given& given) {
  const DoubleDouble squares = sum_of_squares(H.data.data(), H.n * H.n);
  ShiftedFactor shifted(H.data.data(), H.n);
  if (auto both = settled_ends(H, shifted, given)) {
    auto& [top, bottom] = *both;
    const double noise = std::max(reduction_noise(H.n), given.summing) * top.value + given.forming;
    if (auto ends = ends_of_full_rank(top, bottom, H.n, noise, given)) {
      ends->squares = squares;
      ends->exponent = H.exponent;
      return std::make_unique<IterativeDecomposition>(*ends, std::move(top), std::move(bottom));
    }
  }
  shifted.restore();
  return nullptr;
}

/// Proves both ends of R's singular values, as `ShiftedFactor::isolates` does, on R R^T and on
/// (R^T R)^-1, which are formed: what that rounds costs the bottom no more than the solves did.
bool prove_ends(const std::vector<double>& r, Index n, EndFound& top, EndFound& bottom) {
  const double noise = reduction_noise(n), kappa = top.value / bottom.value;
  const auto isolated = [&](std::vector<double> factor, EndFound end, double rounding) {
    lapack::lauum(n, factor.data(), n);
    mirror_upper(factor.data(), n);
    const double middle = end.middle();
    return ShiftedFactor(factor.data(), n).isolates(end, -1.0) &&
                   keep_proof(end, middle, rounding * end.value)
               ? std::optional(middle + rounding * end.value)
               : std::nullopt;
  };
  // R R^T has the left vectors.
  std::vector<double> u = top.vectors;
  lapack::trmv('N', n, r.data(), n, u.data());
  normalize(u.data(), n);
  const auto above =
      isolated(r, {top.value * top.value, top.next * top.next, 0.0, std::move(u)}, 2 * noise);
  if (!above) return false;
  std::vector<double> inverse(r);
  if (!lapack::trtri(n, inverse.data(), n)) return false;
  const auto below = isolated(
      std::move(inverse),
      {1 / (bottom.value * bottom.value), 1 / (bottom.next * bottom.next), 0.0, bottom.vectors},
      4 * noise * kappa);
  if (!below) return false;
  top.next_error = std::max(top.next_error, std::sqrt(*above) - top.next);
  bottom.next_error = std::max(bottom.next_error, bottom.next - 1 / std::sqrt(*below));
  return true;
}

/// The ends of R^T R as singular values of R.
EndFound singular(EndFound ends) {
  ends.value = std::sqrt(ends.value);
  ends.next = std::sqrt(ends.next);
  ends.next_error /= ends.next;
  return ends;
}

}  // namespace

std::unique_ptr<Decomposition> iterate_psd(SymmetricMatrix& H, const Given& given) {
  if (H.n < 4 || (given.rule.rank != 0 && given.rule.rank < H.n)) return nullptr;
  // A feature that never varies shows without a factorization.
  double smallest = std::numeric_limits<double>::infinity(), largest = 0.0;
  for (Index i = 0; i < H.n; ++i) {
    const double h = H.data[size(i * (H.n + 1))];
    smallest = std::min(smallest, h);
    largest = std::max(largest, h);
  }
  if (smallest <= given.cut(largest)) return nullptr;
  return iterate_definite(H, given);
}

std::unique_ptr<Decomposition> iterate_semidefinite(const SymmetricMatrix& H, const Given& given) {
  const Index n = H.n;
  std::vector<double> r(H.data);
  std::vector<Index> pivots;
  double trace = 0.0, largest = 0.0;
  for (Index i = 0; i < n; ++i) {
    const double h = H.data[size(i * (n + 1))];
    trace += h;
    largest = std::max(largest, h);
  }
  const double tolerance = kEps * static_cast<double>(n) * largest;
  const Index k = lapack::pstrf(n, r.data(), n, tolerance, pivots);
  if (k < 4 || k == n || (given.rule.rank != 0 && given.rule.rank != k)) return nullptr;
  // R (k x n) as the first rows, zeros below its diagonal; B = R R^T.
  SymmetricMatrix B;
  B.n = k;
  B.name = H.name;
  B.exponent = H.exponent;
  B.data.resize(size(k * k));
  for (Index j = 0; j < k; ++j) std::fill(r.begin() + j * n + j + 1, r.begin() + j * n + k, 0.0);
  lapack::syrk('U', 'N', k, n, 1.0, r.data(), n, 0.0, B.data.data(), k);
  mirror_upper(B.data.data(), k);
  Given of_b = given;
  of_b.rule.rank = k;
  of_b.start = nullptr;
  of_b.forming += reduction_noise(n) * trace;
  auto found = iterate_definite(B, of_b);
  if (!found) return nullptr;
  // Weyl: no eigenvalue of H is further from one of R^T R than the norm of P^T H P - R^T R, which
  // says so of an indefinite H too.
  Ends s = found->ends();
  std::vector<double> left(size(n * n));
  for (Index j = 0; j < n; ++j)
    for (Index i = 0; i <= j; ++i)
      left[size(i + j * n)] = H.data[size(pivots[size(i)] + pivots[size(j)] * n)];
  lapack::syrk('U', 'T', n, k, -1.0, r.data(), n, 1.0, left.data(), n);
  mirror_upper(left.data(), n);
  const double rest = std::sqrt(sum_of_squares(left.data(), n * n).value()) + tolerance;
  s.p = n;
  s.below_min = rest;
  s.noise_max += rest;
  s.noise_min += rest;
  s.squares = sum_of_squares(H.data.data(), n * n);
  const bool clear = given.rule.rank == k || (rest <= given.cut(s.sigma_max) &&
                                              s.sigma_min - s.noise_min > given.cut(s.sigma_max));
  const bool psd =
      !given.psd ||
      rest <= std::max(given.rule.rtol, largest_negative(n, given.rule.precision)) * s.sigma_max;
  if (!clear || !psd || s.sigma_min <= 4 * s.noise_min) return nullptr;
  // w of R R^T gives P R^T w of H.
  const auto carried = [&](const std::vector<double>& w) {
    std::vector<double> y(size(n)), v(size(n));
    lapack::gemv('T', k, n, 1.0, r.data(), n, w.data(), 0.0, y.data());
    for (Index i = 0; i < n; ++i) v[size(pivots[size(i)])] = y[size(i)];
    normalize(v.data(), n);
    return v;
  };
  EndFound columns_of[2];
  for (const End end : {End::max, End::min}) {
    std::vector<double>& columns = columns_of[end == End::max ? 0 : 1].vectors;
    columns = carried(found->at(end).right);
    const std::vector<double> next = carried(found->at(end).next);
    columns.insert(columns.end(), next.begin(), next.end());
  }
  return std::make_unique<IterativeDecomposition>(s, std::move(columns_of[0]),
                                                  std::move(columns_of[1]));
}

std::unique_ptr<Decomposition> iterate_triangle(const std::vector<double>& r, Index n,
                                                const Given& given) {
  if (n < 4 || (given.rule.rank != 0 && given.rule.rank < n)) return nullptr;
  for (Index i = 0; i < n; ++i)
    if (r[size(i * (n + 1))] == 0.0) return nullptr;
  const double tolerance = std::max(reduction_noise(n), given.tol);
  const GramOperator gram(r.data(), n);
  const InverseGramOperator inverse(r.data(), n);
  // From random vectors always: without a shift no factorization would tell that an end has been
  // crossed.
  Lanczos from_top(gram, {}, 2);
  if (!from_top.converge(tolerance, kMostProducts) || !from_top.separated(tolerance))
    return nullptr;
  Lanczos from_bottom(inverse, {}, 2);
  if (!from_bottom.converge(tolerance, kMostProducts) || !from_bottom.separated(tolerance))
    return nullptr;
  EndFound top = singular(end_of(from_top.largest(2)));
  EndFound bottom = singular(end_of(unshifted(from_bottom.largest(2), 0.0, 1.0)));
  const double noise = reduction_noise(n) * top.value;
  if (!(bottom.value > noise) || !prove_ends(r, n, top, bottom)) return nullptr;
  auto ends = ends_of_full_rank(top, bottom, n, noise, given);
  if (!ends) return nullptr;
  ends->squares = sum_of_squares(r.data(), n * n);
  auto found = std::make_unique<IterativeDecomposition>(*ends, std::move(top), std::move(bottom));
  // u = R v / sigma at the top, u = sigma R^-T v at the bottom: each where it keeps the digits.
  std::vector<double> u = found->at(End::max).right;
  lapack::trmv('N', n, r.data(), n, u.data());
  normalize(u.data(), n);
  found->at(End::max).left = std::move(u);
  u = found->at(End::min).right;
  lapack::trsv('T', n, r.data(), n, u.data());
  normalize(u.data(), n);
  found->at(End::min).left = std::move(u);
  return found;
}

std::unique_ptr<Decomposition> iterate_general(const std::vector<double>& a, Index rows, Index cols,
                                               bool swapped, const Given& given) {
  std::vector<double> q(a), tau(size(cols)), r(size(cols * cols));
  lapack::geqrf(rows, cols, q.data(), rows, tau.data());
  for (Index j = 0; j < cols; ++j) std::copy_n(q.data() + j * rows, j + 1, r.data() + j * cols);
  auto triangle = iterate_triangle(r, cols, given);
  if (!triangle) return nullptr;
  auto* found = static_cast<IterativeDecomposition*>(triangle.get());
  for (const End end : {End::max, End::min}) {
    std::vector<double> u = std::move(found->at(end).left);
    u.resize(size(rows));
    lapack::ormqr(rows, cols, 1, q.data(), rows, tau.data(), u.data(), rows);
    found->at(end).left = std::move(u);
    if (swapped) std::swap(found->at(end).left, found->at(end).right);
    fix_signs(found->at(end).right, swapped ? rows : cols, &found->at(end).left,
              swapped ? cols : rows);
  }
  return triangle;
}

}  // namespace immucond
