#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "immucond/spectrum.hpp"

namespace immucond {

/// Approximate right singular vectors of the two ends, from the end inwards, as columns: those of a
/// nearby matrix, whose sigma_min / sigma_max is `ratio` and whose smallest value's neighbour is by
/// `gap` larger, relatively; both 0 where its rank was not full, or is not known.
struct Start {
  std::vector<double> max, min;
  double ratio = 0.0, gap = 0.0;
};

/// Vectors to start from as columns side by side, each scaled by a power of two so that its squares
/// stay in the range of float64. Zeros stay, and start nothing; what is not finite is refused.
std::vector<double> directions(const std::vector<std::span<const double>>& vectors);

enum class Method { automatic, direct, lanczos, jacobi, gram, qr };

/// What the caller knows and wants, beside the entries.
struct Given {
  Rule rule = {};
  double floor = 0.0;       // the norm of what rounding once added, in the units decomposed
  double forming = 0.0;     // absolute rounding of a matrix that we formed ourselves
  double summing = 0.0;     // the same relative to its norm: of sums over rows
  bool features = false;    // the entries' rounding is that of Z, where H = Z^T Z is decomposed
  bool psd = true;          // negative eigenvalues are rounding; else they are singular values too
  bool allow_zero = false;  // let a given rank reach zeros, for a caller with another method left
  double tol = 0.0;         // relative residual at which an iteration may stop
  Method method = Method::automatic;
  const Start* start = nullptr;

  /// What a singular value must exceed to count.
  double cut(double sigma_max) const { return immucond::cut(rule.rtol, sigma_max, floor); }
};

/// The same with the floor of these entries.
Given with_floor(Given given, const double* entries, Index count);

enum class End { max, min };

/// The ends of a spectrum sigma_1 >= ... >= sigma_k > 0 as a method finds them, in units of
/// 2^exponent, so that nothing computed from them over- or underflows.
struct Ends {
  Index p = 0;     // number of singular values, zeros included
  Index rank = 0;  // k
  double sigma_max = 0.0, sigma_min = 0.0;
  double next_max = 0.0, next_min = 0.0;  // sigma_2 and sigma_{k-1}; meaningful for k >= 2
  double next_error_max = 0.0, next_error_min = 0.0;  // what an iteration left in these
  std::optional<double> below_min;          // sigma_{k+1}, where there is one: counted as zero
  Index tied_max = 1, tied_min = 1;         // how many equal each end, to the data's rounding too
  double noise_max = 0.0, noise_min = 0.0;  // rounding that forming and method left in each end
  bool relative = false;                    // noise_min is relative to sigma_min itself
  DoubleDouble squares;                     // F = sum sigma_i^2
  int exponent = 0;
  bool negative_min = false;  // the eigenvalue that sigma_min stands for is below zero

  double sigma(End end) const { return end == End::max ? sigma_max : sigma_min; }
  double noise(End end) const { return end == End::max ? noise_max : noise_min; }
  Index tied(End end) const { return end == End::max ? tied_max : tied_min; }
  double signed_min() const { return negative_min ? -sigma_min : sigma_min; }
  bool all_tied() const { return tied_max >= rank; }
  bool determined_min() const { return noise_min < sigma_min / 2; }

  /// How far apart singular values near an end must be not to be tied.
  double tie_width(End end, const Given& given) const {
    return immucond::tie_width(sigma(end), sigma_max, noise(end), given.rule.precision,
                               given.features);
  }
  /// What a regularizer sees, which counts `wanted` of the values (as `counted` reads it).
  Spectrum spectrum(Index wanted) const {
    return spectrum_of(counted(wanted, p, rank), rank, sigma_max, sigma_min, squares, all_tied());
  }
};

/// The ends among the `count` largest values of T, which offers eigenvalues by position and counts
/// above given numbers. `relative`: the method's error in each value relative to itself, where it
/// keeps small ones as well as large ones, or else 0.
template <class Source>
Ends read_ends(const Source& T, Index count, const Given& given, DoubleDouble squares,
               double relative = 0.0) {
  Ends s;
  s.p = count;
  s.squares = squares;
  s.rank = given.rule.rank > 0 ? given.rule.rank : count;  // full, until it shows otherwise
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
    return s.sigma_min + s.tie_width(End::min, given);
  };
  std::vector<Index> above = T.counts_above(
      {s.sigma_max - s.tie_width(End::max, given), tie_min(), given.cut(s.sigma_max)});
  if (const Index rank = std::clamp<Index>(above[2], 1, count);
      given.rule.rank == 0 && rank < s.rank) {
    s.rank = rank;
    values = T.eigenvalues(bottom());
    above[1] = T.counts_above({tie_min()})[0];
  }
  s.next_min = values[1];
  if (s.rank < count) s.below_min = std::max(0.0, values[2]);
  if (s.sigma_min < 4 * std::numeric_limits<double>::min() && !given.allow_zero) {
    const std::string number = "number " + std::to_string(s.rank) +
                               " is 0 in the range of float64 (below 2^-1020 of the largest)";
    if (given.rule.rank == 0)
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

}  // namespace immucond
