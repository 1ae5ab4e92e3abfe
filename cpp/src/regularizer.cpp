#include "immucond/regularizer.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <utility>

#include "immucond/blas_threads.hpp"
#include "immucond/gram.hpp"
#include "immucond/numeric.hpp"

namespace immucond {
namespace {

/// Powers of two beyond this are applied to the finished gradient, entry by entry, with a check.
constexpr int kHarmlessExponent = 400;

struct Part {
  double weight;  // of the sum of u v^T over the group
  Vectors vectors;
};

/// grad r = sum of parts + gamma S, in the spectrum's units.
struct Gradient {
  std::vector<Part> parts;
  double gamma = 0.0;
};

Gradient gradient_parts(const Decomposition& decomposition, const Coefficients& c) {
  const Ends& s = decomposition.ends();
  Gradient gradient;
  gradient.gamma = c.gamma;
  if (s.all_tied()) {
    // The mean of u v^T over all nonzero singular values is S / (k sigma): no vectors are needed,
    // and what cancels cancels exactly.
    gradient.gamma += (c.alpha + c.beta) / s.sigma_max / static_cast<double>(s.rank);
    return gradient;
  }
  const auto add = [&](double coefficient, End end) {
    if (coefficient == 0.0) return;
    Vectors vectors = decomposition.vectors(end, /*one=*/false);
    gradient.parts.push_back(
        {coefficient / static_cast<double>(vectors.count), std::move(vectors)});
  };
  add(c.alpha, End::max);
  add(c.beta, End::min);
  return gradient;
}

/// C (rows x cols, column-major) = sum of weight right left^T + gamma C: the transpose of grad r
/// where C holds S^T.
void apply(const Gradient& gradient, Index rows, Index cols, double* c) {
  double beta = gradient.gamma;
  for (const Part& part : gradient.parts) {
    multiply(part.weight, {part.vectors.right.data(), rows, part.vectors.count, rows, 'N'},
             {part.vectors.u().data(), part.vectors.count, cols, cols, 'T'}, beta, c, rows);
    beta = 1.0;
  }
  if (gradient.parts.empty())
    for (Index i = 0; i < rows * cols; ++i) c[i] *= gradient.gamma;
}

/// G = grad_H r for symmetric H, in place of H.
void apply_symmetric(const Gradient& gradient, Index n, double* h) {
  double beta = gradient.gamma;
  for (const Part& part : gradient.parts) {
    lapack::syrk('U', 'N', n, part.vectors.count, part.weight, part.vectors.right.data(), n, beta,
                 h, n);
    beta = 1.0;
  }
  if (gradient.parts.empty())
    for (Index i = 0; i < n * n; ++i) h[i] *= gradient.gamma;
  else
    mirror_upper(h, n);
}

/// The regularizer's value in the caller's units; `exponent` is that of the true spectrum.
Evaluation evaluation(const Ends& s, const Coefficients& c, int degree, int exponent) {
  const bool uses_max = c.alpha != 0.0, uses_min = c.beta != 0.0;
  const bool tied = (uses_max && s.tied_max > 1) || (uses_min && s.tied_min > 1);
  const double value = std::ldexp(c.value, degree * exponent);
  if (!std::isfinite(value))
    throw std::overflow_error("the value is not representable in float64: it is " +
                              format(c.value) + " * 2^" + std::to_string(degree * exponent));
  return {value, tied && !s.all_tied(), !uses_min || s.determined_min(), s.rank};
}

/// What every form does first: let the regularizer see the spectrum.
Coefficients coefficients_at(const Regularizer& r, const Ends& ends, const Request& request) {
  const Index p = request.p;
  if (p > 0 && p < ends.rank)
    throw std::invalid_argument("p must be at least the rank, " + std::to_string(ends.rank) +
                                ", and is " + std::to_string(p));
  const Coefficients c = r(ends.spectrum(p));
  const bool usable = std::isfinite(c.value) &&
                      (request.gradient == nullptr ||
                       (std::isfinite(c.alpha) && std::isfinite(c.beta) && std::isfinite(c.gamma)));
  if (!usable)
    throw std::overflow_error(
        "the value or the gradient is not representable in float64: sigma_min "
        "is " +
        format(ends.sigma_min / ends.sigma_max) + " of sigma_max");
  return c;
}

/// Estimates of the rounding of h_jj in a computed theta^T K theta: 4 eps sum_i theta_ij^2 k_ii.
/// Their sum estimates that of H in norm.
std::vector<double> forming_noise(const std::vector<double>& theta, const SymmetricMatrix& K) {
  std::vector<double> noise(theta.size() / size(K.n));
  for (std::size_t j = 0; j < noise.size(); ++j)
    for (Index i = 0; i < K.n; ++i) {
      const double entry = theta[j * size(K.n) + size(i)];
      noise[j] += 4.0 * kEps * entry * entry * K.data[size(i * (K.n + 1))];
    }
  return noise;
}

/// How far rounding has moved a computed theta^T K theta in norm, for certain: each entry by
/// (2 d + 1) u (|theta|^T |K| |theta|) at most (Higham 2002, Sec. 3.5), a symmetric matrix whose
/// norm its largest row sum bounds; and by what underflows.
double forming_bound(const std::vector<double>& theta, const SymmetricMatrix& K) {
  const Index d = K.n, m = static_cast<Index>(theta.size()) / d;
  std::vector<double> sums(size(d)), weights(size(d));
  for (Index j = 0; j < m; ++j)
    for (Index i = 0; i < d; ++i) sums[size(i)] += std::fabs(theta[size(i + j * d)]);
  for (Index j = 0; j < d; ++j)
    for (Index i = 0; i < d; ++i)
      weights[size(j)] += std::fabs(K.data[size(i + j * d)]) * sums[size(i)];
  double largest = 0.0;
  for (Index j = 0; j < m; ++j) {
    double row = 0.0;
    for (Index i = 0; i < d; ++i) row += std::fabs(theta[size(i + j * d)]) * weights[size(i)];
    largest = std::max(largest, row);
  }
  const double n = static_cast<double>(d), lost = std::numeric_limits<double>::denorm_min();
  return (n + 2) * kEps * largest + 2 * n * n * static_cast<double>(m) * lost;
}

/// The rank of H scaled to unit diagonal, which columns of theta at different scales cannot hide.
Index rank_at_unit_diagonal(SymmetricMatrix H, const std::vector<double>& noise, Given given) {
  const Index n = H.n;
  std::vector<double> scale(noise.size());
  for (Index j = 0; j < n; ++j) {
    const double square = H.data[size(j * (n + 1))];
    const auto at = size(j);
    scale[at] = square > 2 * noise[at] ? 1.0 / std::sqrt(square) : 0.0;
    given.rule.rtol += noise[at] * scale[at] * scale[at];
  }
  if (std::all_of(scale.begin(), scale.end(), [](double x) { return x == 0.0; })) return 0;
  for (Index j = 0; j < n; ++j)
    for (Index i = 0; i < n; ++i) H.data[size(i + j * n)] *= scale[size(i)] * scale[size(j)];
  std::string why;
  const auto decomposition = decompose_psd(std::move(H), given, given.rule.rtol, why);
  return decomposition ? decomposition->ends().rank : 0;
}

/// A power of two that is folded into a product's factor, where no entry can overflow by it; any
/// other is applied by `finish`.
int foldable(int exponent) { return std::abs(exponent) <= kHarmlessExponent ? exponent : 0; }

void finish(double* gradient, Index count, int exponent, const Coefficients& c) {
  const double largest = std::max({std::fabs(c.alpha), std::fabs(c.beta), std::fabs(c.gamma)});
  if (foldable(exponent) == exponent && largest < 1e100) return;
  scale_by_power(gradient, count, exponent - foldable(exponent), "the gradient");
}

}  // namespace

BuiltIn built_in(const std::string& name) {
  for (const BuiltIn regularizer :
       {BuiltIn::r_well, BuiltIn::r_ill, BuiltIn::kappa, BuiltIn::log_kappa})
    if (name == name_of(regularizer)) return regularizer;
  throw std::invalid_argument(
      "coefficients must be a function, or name r_well, r_ill, kappa or log_kappa, and is " + name);
}

const char* name_of(BuiltIn regularizer) {
  switch (regularizer) {
    case BuiltIn::r_well:
      return "r_well";
    case BuiltIn::r_ill:
      return "r_ill";
    case BuiltIn::kappa:
      return "kappa";
    case BuiltIn::log_kappa:
      return "log_kappa";
    case BuiltIn::none:
      break;
  }
  return "none";
}

Coefficients checked_coefficients(BuiltIn regularizer, const Spectrum& s) {
  const double k = static_cast<double>(s.rank);
  if (regularizer == BuiltIn::r_ill && (s.all_tied || s.above_min / (2 * k) == 0.0))
    throw DegenerateSpectrum(
        "r_ill is infinite where all nonzero singular values are equal (here " +
        std::to_string(s.rank) +
        ", to rounding), and has no gradient there; move the matrix off that point first");
  return coefficients(regularizer, s);
}

Evaluation evaluate(const Regularizer& r, const MatrixView& S, const Request& request) {
  const auto decomposition = decompose(S, request.given);
  const Ends& s = decomposition->ends();
  const Coefficients c = coefficients_at(r, s, request);
  const Evaluation result = evaluation(s, c, request.degree, s.exponent);
  if (request.pairs != nullptr) *request.pairs = certified_general(S, *decomposition);
  if (request.gradient == nullptr) return result;
  copy_to(scaled(S, s.exponent).transposed(), request.gradient);
  const Gradient parts = gradient_parts(*decomposition, c);
  {
    const blas::Phase phase(blas::Work::product,
                            4.0 * static_cast<double>(S.rows) * static_cast<double>(S.cols));
    apply(parts, S.cols, S.rows, request.gradient);
  }
  scale_by_power(request.gradient, S.rows * S.cols, s.exponent * (request.degree - 1),
                 "the gradient");
  return result;
}

Evaluation evaluate_theta(const Regularizer& r, const MatrixView& theta, const MatrixView& K,
                          const Request& request) {
  const Index d = theta.rows, m = theta.cols;
  const double flops = static_cast<double>(d) * static_cast<double>(m) * static_cast<double>(d + m);
  const SymmetricMatrix gram = read_symmetric(K, request.given.rule.precision);
  const int theta_exponent = scale_exponent(theta);
  std::vector<double> map(size(d * m)), product(map.size());
  copy_to(scaled(theta, theta_exponent), map.data());
  SymmetricMatrix H;
  H.n = m;
  H.name = "theta^T gram theta";
  H.data.resize(size(m * m));
  {
    const blas::Phase phase(blas::Work::product, 2 * flops);
    multiply(1.0, {gram.data.data(), d, d, d, 'N'}, {map.data(), d, m, d, 'N'}, 0.0, product.data(),
             d);
    symmetric_product({map.data(), d, m, d, 'N'}, product.data(), H.data.data());
  }
  const int unit = scale_exponent(H.view());
  rescale(H.data.data(), m * m, -unit);
  H.exponent = 2 * theta_exponent + gram.exponent + unit;

  // What rounding leaves of H where the sums of theta^T K theta cancel.
  Given given = request.given;
  std::vector<double> noise = forming_noise(map, gram);
  for (double& x : noise) x = std::ldexp(x, -unit);
  given.forming = std::accumulate(noise.begin(), noise.end(), 0.0);
  // Negative eigenvalues may also be the rounding of K's entries, which reaches H likewise.
  const double tolerance =
      std::max(given.rule.rtol, given.forming * std::max(1.0, given.rule.precision / kEps));
  std::string why;
  auto decomposition = decompose_psd(H, given, tolerance, why);
  if (!decomposition) throw std::invalid_argument(H.name + why + "; gram must be psd");
  const Index seen = decomposition->ends().rank;
  if (given.rule.rank == 0 && seen < std::min(d, m)) {
    given.rule.rank = rank_at_unit_diagonal(
        H, noise, {.rule = {.rtol = given.rule.rtol, .precision = given.rule.precision}});
    if (given.rule.rank > seen) decomposition = decompose_psd(H, given, tolerance, why);
  }
  const Ends& s = decomposition->ends();
  const Coefficients c = coefficients_at(r, s, request);
  const int exponent = s.exponent;
  const Evaluation result = evaluation(s, c, request.degree, exponent);
  if (request.pairs != nullptr) {
    ExtremePairs& pairs = *request.pairs =
        certified_psd(H.view(), /*symmetric=*/true, exponent, *decomposition);
    const double rounding = std::ldexp(forming_bound(map, gram), -unit);
    pairs.bound_max += std::ldexp(rounding, exponent);
    pairs.bound_min += std::ldexp(rounding, exponent);
    pairs.determined = pairs.determined && rounding < s.sigma_min / 2;
    pairs.determined_min = pairs.bound_min < pairs.sigma_min / 2;
  }
  if (request.gradient == nullptr) return result;
  const Gradient parts = gradient_parts(*decomposition, c);
  const blas::Phase phase(blas::Work::product, 2 * flops);
  apply_symmetric(parts, m, H.data.data());
  // Row-major (d x m) is column-major (m x d): (2 K theta G)^T = 2 G (K theta)^T.
  const int left = theta_exponent + (request.preconditioned ? 0 : gram.exponent);
  const int power = left + exponent * (request.degree - 1);
  const double* factor = request.preconditioned ? map.data() : product.data();
  multiply(2.0 * std::ldexp(1.0, foldable(power)), {H.data.data(), m, m, m, 'N'},
           {factor, m, d, d, 'T'}, 0.0, request.gradient, m);
  finish(request.gradient, d * m, power, c);
  return result;
}

Evaluation evaluate_features(const Regularizer& r, const MatrixView& Z, const Request& request) {
  FeatureProblem problem = decompose_features(Z, request.given);
  const Index n = problem.gram.n, m = Z.cols;
  const Ends& s = problem.decomposition->ends();
  const Coefficients c = coefficients_at(r, s, request);
  const int exponent = s.exponent + 2 * problem.exponent;
  const Evaluation result = evaluation(s, c, request.degree, exponent);
  if (request.pairs != nullptr) *request.pairs = certified_features(problem);
  if (request.gradient == nullptr) return result;

  const double flops =
      static_cast<double>(Z.rows) * static_cast<double>(m) * static_cast<double>(n);
  const Gradient parts = gradient_parts(*problem.decomposition, c);
  const blas::Phase phase(blas::Work::product, 2 * flops);
  double* G = problem.gram.data.data();
  rescale(G, n * n, problem.gram.exponent - s.exponent);
  apply_symmetric(parts, n, G);
  // Row-major (N x m) is column-major (m x N): the transpose of 2 Z G, or of 2 G Z in the dual
  // form.
  const int power = problem.exponent + exponent * (request.degree - 1);
  const double factor = 2.0 * std::ldexp(1.0, foldable(power));
  const Dense g{G, n, n, n, 'N'};
  RowBlocks blocks(problem.A);
  for (Dense block{}; blocks.next(block);) {
    const Index at = blocks.first_row();
    if (problem.dual) {
      multiply(factor, block, g, 0.0, request.gradient + at, m);
    } else {
      const Dense flipped{block.data, block.cols, block.rows, block.ld,
                          block.op == 'T' ? 'N' : 'T'};
      multiply(factor, g, flipped, 0.0, request.gradient + at * m, m);
    }
  }
  finish(request.gradient, Z.rows * m, power, c);
  return result;
}

}  // namespace immucond
