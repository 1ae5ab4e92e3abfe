#include "immucond/choose.hpp"

#include <algorithm>
#include <cmath>
#include <string_view>
#include <utility>

#include "immucond/blas_threads.hpp"
#include "immucond/direct.hpp"
#include "immucond/gram.hpp"
#include "immucond/iterative.hpp"
#include "immucond/jacobi.hpp"
#include "immucond/qr.hpp"

namespace immucond {
namespace {

/// From these sizes on an iteration beats the reduction (docs/theory/numerics.md).
constexpr Index kPsdSize = 2048, kWarmPsdSize = 512, kGeneralSize = 768;

bool iteration_pays(Index n, const Given& given, Index from) {
  if (given.method == Method::direct || given.method == Method::jacobi) return false;
  return given.method == Method::lanczos || n >= from;
}

std::unique_ptr<Decomposition> decompose_triangle(const TallQr& qr, Index n, const Given& given,
                                                  const char* name) {
  if (given.method == Method::jacobi)
    return rotate_general(qr.r(), n, n, /*swapped=*/false, given, qr.exponent(), name);
  if (iteration_pays(n, given, kGeneralSize)) {
    const blas::Phase phase(blas::Work::reduction, 2 * reduction_flops(n, n));
    if (auto found = iterate_triangle(qr.r(), n, given)) {
      found->set_exponent(qr.exponent());
      return found;
    }
  }
  return reduce_general(qr.r(), n, n, /*swapped=*/false, given, qr.exponent(), name);
}

/// Through A = Q R: the spectrum of A^T A as that of R^T R.
std::unique_ptr<Decomposition> decompose_by_qr(const MatrixView& A, bool keep_q,
                                               const SymmetricMatrix& gram, double lost,
                                               const Given& given) {
  TallQr qr(A, keep_q);
  const Given of_r = with_floor(given, qr.r().data(), A.cols * A.cols);
  auto factor = decompose_triangle(qr, A.cols, of_r, A.name);
  return square_of_triangle(std::move(qr), std::move(factor), gram, lost, A.name);
}

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

}  // namespace

std::unique_ptr<Decomposition> decompose_psd(SymmetricMatrix H, const Given& given,
                                             double tolerance, std::string& why) {
  const Index n = H.n;
  const bool warm = given.start != nullptr && given.start->ratio > 0.0;
  if (iteration_pays(n, given, warm ? kWarmPsdSize : kPsdSize)) {
    const blas::Phase phase(blas::Work::reduction, reduction_flops(n, n));
    if (auto found = iterate_psd(H, given)) return found;
    // Where the rank is low a reduction costs little more; it is for those who ask for it.
    if (given.method == Method::lanczos)
      if (auto found = iterate_semidefinite(H, given)) return found;
  }
  return reduce_psd(std::move(H), given, tolerance, why);
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
    return rotate_general(std::move(a), tall.rows, tall.cols, swapped, given, exponent, S.name);
  if (iteration_pays(tall.cols, given, kGeneralSize)) {
    const blas::Phase phase(blas::Work::reduction, 2 * reduction_flops(tall.rows, tall.cols));
    if (auto found = iterate_general(a, tall.rows, tall.cols, swapped, given)) {
      found->set_exponent(exponent);
      return found;
    }
  }
  return reduce_general(std::move(a), tall.rows, tall.cols, swapped, given, exponent, S.name);
}

FeatureProblem decompose_features(const MatrixView& Z, const Given& given, double lost) {
  FeatureProblem problem;
  problem.lost = lost;
  problem.dual = Z.rows < Z.cols;
  problem.A = problem.dual ? Z.transposed() : Z;
  problem.rows = problem.A.rows;
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
  double trace = 0.0;  // the squared Frobenius norm of Z
  for (Index i = 0; i < n; ++i) trace += G.data[size(i * (n + 1))];
  problem.summing = worst_summation(problem.A.rows, n) * trace;
  const double floor = gram_floor(given.rule, trace);
  const Start in_samples =
      problem.dual && given.start ? of_samples(problem.A, *given.start) : Start{};
  Given seen = given;
  if (problem.dual && given.start) seen.start = &in_samples;
  const bool only_qr = given.method == Method::qr || given.method == Method::jacobi;
  const bool only_gram = given.method == Method::gram;
  if (!only_qr) {
    Given of_gram = seen;
    of_gram.rule.rtol = gram_rtol(given.rule, noise);
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
  const auto carried = [&] {
    const Ends& s = problem.decomposition->ends();
    return gram_carries(given.rule, s.sigma_max, s.sigma_min, s.rank, n, noise, floor);
  };
  if (only_qr || (!only_gram && !carried()))
    problem.decomposition = decompose_by_qr(problem.A, problem.dual, G, lost, seen);
  problem.decomposition->set_p(Z.cols);
  return problem;
}

}  // namespace immucond
