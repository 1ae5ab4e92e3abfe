#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "immucond/operator.hpp"

namespace immucond {

/// Approximate eigenpairs A x = value x of one end of a spectrum, from the end inwards, with the
/// norms of A x - value x.
struct RitzPairs {
  std::vector<double> values, residuals;
  std::vector<double> vectors;  // n x values.size(), orthonormal
};

/// Band Lanczos (Ruhe 1979) with full reorthogonalization and thick restart (Wu and Simon 2000):
/// an orthonormal basis V grows by one product a step, A V_k = V T_k with T_k of bandwidth `width`,
/// and the ends of T_k's spectrum become those of A's. Two starting vectors see a double
/// eigenvalue, where one alone would take it for simple; a random one sees every eigenvector.
class Lanczos {
 public:
  /// A must outlive the iteration. Starts from the `given` vectors (n x count, any lengths) and
  /// `random` others.
  Lanczos(const Operator& A, const std::vector<double>& given, Index random,
          std::uint64_t seed = 0);

  /// Multiplies until the largest pair has a residual of at most `tolerance` times its value and
  /// its neighbour is known to a small part of their distance (or as well as itself). False where
  /// `most` products are not enough.
  bool converge(double tolerance, Index most) { return converge(tolerance, most, 0); }

  /// The same where the neighbour is the smallest value, of an inverse shifted to between the two.
  bool converge_across(double tolerance, Index most) { return converge(tolerance, most, 1); }

  /// Multiplies until both are known to a small part of their distance, no more; false also where
  /// they are known to `tolerance`, and no further apart than that can tell.
  bool tell_apart(double tolerance, Index most);

  /// Whether the largest value stands apart from the next by so much more than the tolerance that
  /// more values between the two than there were starting vectors would have shown.
  bool separated(double tolerance) const;

  /// So many products, and no questions: then T_k is that of the starting vectors alone.
  void multiply(Index products);
  Index processed() const { return processed_; }

  /// Up to `count` pairs at the largest or the smallest end of T_k.
  RitzPairs largest(Index count) const;
  RitzPairs smallest(Index count) const;
  /// The largest, and the smallest.
  RitzPairs across() const;

 private:
  struct Small;  // eigenpairs of T_k
  bool converge(double tolerance, Index most, Index across);
  template <class Done>
  bool multiply_until(Index most, Index from_bottom, Done done);
  Small decompose(Index from_top, Index from_bottom) const;
  RitzPairs lift(const Small& small, Index first, Index count, bool ascending) const;
  void step();
  void append(double* w);
  void append_random();
  double orthogonalize(double* w, double* coefficients);
  void restart();

  const Operator& A_;
  Index n_, capacity_;
  Index size_ = 0, processed_ = 0, products_ = 0;
  std::vector<double> basis_, spare_;  // n x capacity
  std::vector<double> projection_;     // capacity x capacity: T_k's columns, k = processed
  std::vector<double> product_, coefficients_, correction_;
  std::mt19937_64 generator_;
};

/// The largest eigenpair of a positive semidefinite operator A, its neighbour, and a bound on the
/// error of the value, where a product y = A x has ||y - A x|| <= error ||A|| ||x||: what is below
/// that is neither seen nor waited for. The bound is on the distance to an eigenvalue: that there
/// is none beyond rests on the random vectors. LapackError where it does not converge.
struct OnePair {
  double value = 0.0, next = 0.0, bound = 0.0;
  std::vector<double> vector, neighbour;
};
OnePair largest_pair(const Operator& A, const std::vector<double>& start, double tolerance,
                     double error, std::uint64_t seed);

}  // namespace immucond
