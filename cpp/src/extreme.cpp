#include "immucond/extreme.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

#include "immucond/compensated.hpp"
#include "immucond/qr.hpp"
#include "immucond/refinement.hpp"

namespace immucond {
namespace {

/// How far the other eigenvalues of the symmetric operator are from an end, for certain: the
/// neighbour, and for the last nonzero one also what lies below it.
double certain_gap(const Ends& s, End end, std::optional<double> below) {
  const double sigma = s.sigma(end);
  const double noise = s.noise(end);
  double gap = std::numeric_limits<double>::infinity();
  if (s.rank >= 2) gap = end == End::max ? sigma - s.next_max : s.next_min - sigma;
  if (below && (end == End::min || s.rank == 1)) gap = std::min(gap, sigma - *below);
  // Noise that is relative to each value is larger at the neighbour.
  if (s.relative && s.rank >= 2)
    gap -= noise * std::fabs(gap) / std::max(sigma, std::numeric_limits<double>::min());
  return gap - 2 * noise - (end == End::max ? s.next_error_max : s.next_error_min);
}

struct Residual {
  double rayleigh, norm;
};

/// x^T y / x^T x and ||y - rayleigh x|| / ||x||, y = A x in double-double, where products below the
/// smallest float64 are lost.
Residual eigen_residual(const double* x, const DoubleDoubleVector& y, Index n) {
  DoubleDouble xy;
  for (Index i = 0; i < n; ++i) xy = xy + y[i] * x[i];
  const DoubleDouble xx = sum_of_squares(x, n);
  const DoubleDouble rayleigh = quotient(xy, xx);
  std::vector<double> r(size(n));
  for (Index i = 0; i < n; ++i) r[size(i)] = (y[i] + -(rayleigh * x[i])).value();
  const double lost = 8 * static_cast<double>(n) * std::numeric_limits<double>::denorm_min();
  return {rayleigh.value(), norm(r.data(), n) / std::sqrt(xx.hi) * (1.0 + 1e-8) + lost};
}

/// The pair at one end of a psd operator given by its accurate product, certified.
template <class Product>
Certificate certified_end(const Ends& s, End end, Product product,
                          const std::vector<double>& vector) {
  const Index n = static_cast<Index>(vector.size());
  const Residual r = eigen_residual(vector.data(), product(vector.data()), n);
  return certify(s, end, r.rayleigh, r.norm, s.below_min);
}

struct Triplet {
  Certificate certificate;
  std::vector<double> u, v;
};

/// The triplet at one end of a general matrix, certified: [0 S; S^T 0] has the eigenvector
/// (u, v) / sqrt(2) at sigma.
Triplet certified_triplet(const MatrixView& S, const Decomposition& decomposition, End end) {
  const Ends& s = decomposition.ends();
  Vectors vectors = decomposition.vectors(end, /*one=*/true);
  Triplet triplet;
  triplet.v = std::move(vectors.right);
  triplet.u = vectors.left.empty() ? triplet.v : std::move(vectors.left);
  DoubleDoubleVector product = accurate_product(S, triplet.v.data());
  const DoubleDoubleVector transposed = accurate_transposed_product(S, triplet.u.data());
  product.hi.insert(product.hi.end(), transposed.hi.begin(), transposed.hi.end());
  product.lo.insert(product.lo.end(), transposed.lo.begin(), transposed.lo.end());
  std::vector<double> joint(triplet.u);
  joint.insert(joint.end(), triplet.v.begin(), triplet.v.end());
  const Residual r = eigen_residual(joint.data(), product, static_cast<Index>(joint.size()));
  // Beside +-sigma_i the operator has zeros where S is not square.
  const double sigma = s.sigma(end);
  const double below = s.below_min.value_or(S.rows != S.cols ? 0.0 : -sigma);
  triplet.certificate = certify(s, end, r.rayleigh, r.norm, below);
  // A residual sees no digits below rounding of the norm; a method that keeps them knows better.
  const double noise = 2 * (s.noise(end));
  if (s.relative && noise < triplet.certificate.bound) triplet.certificate = {sigma, noise};
  return triplet;
}

/// A pair of A^T A through R. First the Rayleigh quotient of v with A^T A itself, whose error is of
/// second order, bounded by the triplet of R, whose residual keeps the digits that one of A^T A in
/// v would lose, with an allowance for what the factorization itself rounds; then, at the small
/// end, refined.
Certificate certified_by_triangle(const FeatureProblem& problem, const Triangle& triangle, End end,
                                  const GramProduct& product, std::vector<double>& u,
                                  std::vector<double>& v) {
  Triplet triplet = certified_triplet(triangle.unit, *triangle.decomposition, end);
  u = std::move(triplet.u);
  v = std::move(triplet.v);
  const Index n = static_cast<Index>(v.size());
  DoubleDoubleVector x(n);
  x.hi = v;
  const double rayleigh = eigen_residual(v.data(), product(x), n).rayleigh;
  const double sigma = triplet.certificate.sigma;
  const double bound = triplet.certificate.bound + triangle.noise;
  const double squared = (2 * sigma + bound) * bound;
  // Rows that R was made of have R's quotients, up to what was rounded.
  if (problem.product && std::fabs(rayleigh - sigma * sigma) > squared + kEps * rayleigh)
    throw std::invalid_argument("rows must be those that were accumulated, and are others: where " +
                                ("these have the square " + format(sigma * sigma)) + " they have " +
                                format(rayleigh) + ", relative to about the largest");
  // A quotient whose products vanish says nothing; R's singular values are positive.
  const Certificate by_triangle{
      rayleigh > 0.0 ? rayleigh : sigma * sigma,
      squared + std::fabs(rayleigh - sigma * sigma) + kEps * std::fabs(rayleigh)};
  if (end == End::max) return by_triangle;
  const Ends& s = triangle.decomposition->ends();
  const double next = std::max(0.0, s.next_min - s.noise_min - s.next_error_min - triangle.noise);
  if (s.rank < 2 || s.tied_min > 1) return by_triangle;
  const auto refined = refine_smallest(product, problem.rows, triangle, v, next * next);
  if (!refined || !(refined->sigma > 0.0) || refined->bound >= by_triangle.bound)
    return by_triangle;
  v = refined->vector;
  fix_signs(v, n);
  // u = sigma R^-T v: R v would lose the digits of a small sigma.
  u = v;
  lapack::trsv('T', n, static_cast<const double*>(triangle.unit.data), n, u.data());
  normalize(u.data(), n);
  return {refined->sigma, refined->bound};
}

/// The right singular vector of Z for a vector w of the small space: w itself, or in the dual form
/// Z^T w, normalized. Where the features went through a QR of Z^T = Q R it is Q u, u the left
/// vector of R, which keeps the digits that sums of Z^T w lose to the large directions.
std::vector<double> feature_vector(const FeatureProblem& problem, std::vector<double> w,
                                   const std::vector<double>& u) {
  if (!problem.dual) return w;
  std::vector<double> v = u.empty() ? accurate_product(problem.A, w.data()).hi
                                    : problem.decomposition->triangle()->qr->apply_q(u);
  const Index m = static_cast<Index>(v.size());
  normalize(v.data(), m);
  fix_signs(v, m);
  return v;
}

/// A unit vector orthogonal to v: what stands for the vector of a zero.
std::vector<double> any_orthogonal(const std::vector<double>& v) {
  const auto smallest = std::min_element(
      v.begin(), v.end(), [](double x, double y) { return std::fabs(x) < std::fabs(y); });
  std::vector<double> x(v.size());
  for (std::size_t i = 0; i < v.size(); ++i) x[i] = -*smallest * v[i];
  x[size(smallest - v.begin())] += 1.0;
  normalize(x.data(), static_cast<Index>(x.size()));
  return x;
}

/// Widens the bound until it holds for v^T H v too, v the vector that is returned, as far as a
/// rounded vector allows: its share of the largest direction costs the square of the rounding.
void stand_for(const FeatureProblem& problem, double unit, const std::vector<double>& v,
               Certificate& certificate) {
  const DoubleDoubleVector zv = accurate_product(problem.A.transposed(), v.data());
  DoubleDouble squares;
  for (Index i = 0; i < static_cast<Index>(zv.hi.size()); ++i) squares = squares + zv[i] * zv[i];
  const double rayleigh =
      squares.value() * unit / sum_of_squares(v.data(), static_cast<Index>(v.size())).value();
  const double rounding = reduction_noise(static_cast<Index>(v.size()));
  const double off = std::fabs(rayleigh - certificate.sigma) + kEps * rayleigh -
                     rounding * rounding * problem.decomposition->ends().sigma_max;
  certificate.bound = std::max(certificate.bound, off);
}

}  // namespace

Certificate certify(const Ends& s, End end, double rayleigh, double residual,
                    std::optional<double> below) {
  const double computed = s.sigma(end);
  const double noise = s.noise(end);
  // An eigenvalue within the residual of a positive quotient, and clear of all others, is the end.
  const double gap = certain_gap(s, end, below) - std::fabs(rayleigh - computed);
  if (residual < gap && rayleigh > 0.0) {
    // The float64 that is returned is itself a rounding of the quotient.
    const double bound = std::min(residual, residual * (residual / gap));
    return {rayleigh, bound + kEps * std::fabs(rayleigh)};
  }
  // No gap: some eigenvalue is within the residual, and the end within the method's noise of it.
  return {computed, residual + std::fabs(rayleigh - computed) + noise};
}

ExtremePairs assemble(const Decomposition& decomposition, const Certificate& top,
                      const Certificate& bottom, int exponent) {
  const Ends& s = decomposition.ends();
  ExtremePairs pairs;
  pairs.exponent = exponent;
  pairs.unit_max = top.sigma;
  pairs.unit_min = bottom.sigma;
  pairs.sigma_max = std::ldexp(top.sigma, exponent);
  pairs.sigma_min = std::ldexp(bottom.sigma, exponent);
  pairs.frobenius = std::ldexp(std::sqrt(s.squares.value()), exponent);
  pairs.rank = s.rank;
  const bool neighbours = s.rank >= 2;
  constexpr double none = std::numeric_limits<double>::infinity();
  pairs.gap_max = neighbours ? std::max(0.0, (s.sigma_max - s.next_max) / s.sigma_max) : none;
  pairs.gap_min = neighbours ? std::max(0.0, (s.next_min - s.sigma_min) / s.sigma_min) : none;
  pairs.simple_max = s.tied_max == 1;
  pairs.simple_min = s.tied_min == 1;
  // A result in the subnormal range is rounded to a multiple of 2^-1074.
  constexpr double grain = std::numeric_limits<double>::denorm_min();
  pairs.bound_max = std::ldexp(top.bound, exponent) + grain;
  pairs.bound_min = std::ldexp(bottom.bound, exponent) + grain;
  pairs.determined = bottom.bound < bottom.sigma / 2;
  pairs.determined_min = pairs.bound_min < pairs.sigma_min / 2;
  pairs.method = decomposition.method();
  return pairs;
}

ExtremePairs certified_psd(const MatrixView& unit, bool symmetric, int exponent,
                           const Decomposition& decomposition) {
  const auto product = [&](const double* x) {
    return accurate_symmetric_product(unit, symmetric, x);
  };
  auto [max, min] = decomposition.both();
  const Certificate top = certified_end(decomposition.ends(), End::max, product, max.right);
  const Certificate bottom = certified_end(decomposition.ends(), End::min, product, min.right);
  ExtremePairs pairs = assemble(decomposition, top, bottom, exponent);
  pairs.u_max = pairs.v_max = std::move(max.right);
  pairs.u_min = pairs.v_min = std::move(min.right);
  pairs.next_max = decomposition.neighbour(End::max);
  pairs.next_min = decomposition.neighbour(End::min);
  return pairs;
}

ExtremePairs certified_general(const MatrixView& S, const Decomposition& decomposition) {
  const int exponent = decomposition.ends().exponent;
  const MatrixView unit = scaled(S, exponent);
  Triplet top = certified_triplet(unit, decomposition, End::max);
  Triplet bottom = certified_triplet(unit, decomposition, End::min);
  ExtremePairs pairs = assemble(decomposition, top.certificate, bottom.certificate, exponent);
  pairs.u_max = std::move(top.u);
  pairs.v_max = std::move(top.v);
  pairs.u_min = std::move(bottom.u);
  pairs.v_min = std::move(bottom.v);
  return pairs;
}

ExtremePairs certified_features(const FeatureProblem& problem) {
  const Decomposition& decomposition = *problem.decomposition;
  const int exponent = decomposition.ends().exponent;
  const double unit = std::ldexp(1.0, -exponent);
  const GramProduct product = [&](const DoubleDoubleVector& x) {
    // H = 2^-exponent A^T A in the decomposition's units.
    DoubleDoubleVector y =
        problem.product ? problem.product(x) : accurate_gram_product(problem.A, x);
    for (double& hi : y.hi) hi *= unit;
    for (double& lo : y.lo) lo *= unit;
    return y;
  };
  const auto rounded_product = [&](const double* x) {
    DoubleDoubleVector wide(problem.A.cols);
    std::copy_n(x, problem.A.cols, wide.hi.data());
    return product(wide);
  };
  const Triangle* triangle = decomposition.triangle();
  auto [max, min] = triangle == nullptr ? decomposition.both() : std::pair<Vectors, Vectors>{};
  std::vector<double> left_max, left_min;
  // Which of two neighbours is the end may depend on how the sums of the Gram matrix were rounded.
  Ends ends = decomposition.ends();
  ends.noise_max += problem.summing;
  ends.noise_min += problem.summing;
  const auto certified = [&](End end, std::vector<double>& left, std::vector<double>& vector) {
    return triangle != nullptr
               ? certified_by_triangle(problem, *triangle, end, product, left, vector)
               : certified_end(ends, end, rounded_product, vector);
  };
  Certificate top = certified(End::max, left_max, max.right);
  Certificate bottom = certified(End::min, left_min, min.right);
  max.right = feature_vector(problem, std::move(max.right), left_max);
  min.right = feature_vector(problem, std::move(min.right), left_min);
  if (problem.dual) {
    if (norm(min.right.data(), static_cast<Index>(min.right.size())) == 0.0)
      min.right = any_orthogonal(max.right);
    stand_for(problem, unit, max.right, top);
    stand_for(problem, unit, min.right, bottom);
  }
  ExtremePairs pairs = assemble(decomposition, top, bottom, exponent + 2 * problem.exponent);
  pairs.u_max = pairs.v_max = std::move(max.right);
  pairs.u_min = pairs.v_min = std::move(min.right);
  const auto neighbour = [&](End end) {
    std::vector<double> w = decomposition.neighbour(end);
    return w.empty() ? w : feature_vector(problem, std::move(w), {});
  };
  pairs.next_max = neighbour(End::max);
  pairs.next_min = neighbour(End::min);
  return pairs;
}

ExtremePairs psd_extreme_pairs(const MatrixView& H, const Given& given) {
  SymmetricMatrix matrix = read_symmetric(H, given.rule.precision);
  // The residuals are those of the caller's matrix, whose symmetric part is rounded here.
  const bool symmetric = matrix.exact;
  const int exponent = matrix.exponent;
  std::string why;
  const Given mine = with_floor(given, matrix.data.data(), matrix.n * matrix.n);
  const auto decomposition = decompose_psd(std::move(matrix), mine, given.rule.rtol, why);
  if (!decomposition) throw std::invalid_argument(H.name + why);
  return certified_psd(scaled(H, exponent), symmetric, exponent, *decomposition);
}

ExtremePairs extreme_pairs(const MatrixView& S, const Given& given) {
  return certified_general(S, *decompose(S, given));
}

ExtremePairs feature_extreme_pairs(const MatrixView& Z, const Given& given) {
  return certified_features(decompose_features(Z, given));
}

ExtremePairs triangle_extreme_pairs(const MatrixView& R, const Factored& rows, const Given& given) {
  Given by_qr = given;
  if (by_qr.method != Method::jacobi) by_qr.method = Method::qr;
  FeatureProblem problem = decompose_features(R, by_qr, rows.lost);
  problem.rows = rows.count;
  problem.product = [&](const DoubleDoubleVector& x) { return rows.product(x, problem.exponent); };
  return certified_features(problem);
}

}  // namespace immucond
