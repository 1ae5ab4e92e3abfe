#pragma once

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "immucond/compensated.hpp"
#include "immucond/matrix_view.hpp"
#include "immucond/numeric.hpp"
#include "immucond/qr.hpp"
#include "immucond/symmetric.hpp"

namespace immucond {

/// Approximate right singular vectors of the two ends, from the end inwards, as columns: those of a
/// nearby matrix, whose sigma_min / sigma_max is `ratio`, 0 where that is not known.
struct Start {
  std::vector<double> max, min;
  double ratio = 0.0;
};

enum class Method { automatic, direct, lanczos, jacobi, gram, qr };

/// What the caller knows and wants, beside the entries. The rank k is given (rank > 0), or the
/// number of singular values of *what was given* above rtol times the largest, and above the norm
/// of what rounding the entries once may have added.
struct Given {
  Index rank = 0;
  double rtol = 0.0;
  double rounded = 0.0;     // relative rounding of entries that were computed in more digits
  double floor = 0.0;       // its norm, in the units of what is decomposed
  double precision = kEps;  // in which the entries were computed
  double forming = 0.0;     // absolute rounding of a matrix that we formed ourselves
  double summing = 0.0;     // the same relative to its norm: of sums over rows
  bool features = false;    // the entries' rounding is that of Z, where H = Z^T Z is decomposed
  bool psd = true;          // negative eigenvalues are rounding; else they are singular values too
  bool allow_zero = false;  // let a given rank reach zeros, for a caller with another method left
  double tol = 0.0;         // relative residual at which an iteration may stop
  Method method = Method::automatic;
  const Start* start = nullptr;

  /// What a singular value must exceed to count.
  double cut(double sigma_max) const { return std::max(rtol * sigma_max, floor); }
};

/// The ends of a spectrum sigma_1 >= ... >= sigma_k > 0, in units of 2^exponent, so that nothing
/// computed from them over- or underflows.
struct Spectrum {
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

  double signed_min() const { return negative_min ? -sigma_min : sigma_min; }
  bool all_tied() const { return tied_max >= rank; }
  bool determined_min() const { return noise_min < sigma_min / 2; }
  /// p sigma_1^2 - F >= 0 and F - k sigma_k^2 >= 0, which cancel where singular values are close.
  double below_max() const;
  double above_min() const;
};

enum class End { max, min };

/// The same with the norm of what rounding may have added to these entries, once to each: a matrix
/// of rank k has, rounded, no more than k singular values above it (Weyl).
Given with_floor(Given given, const double* entries, Index count);

/// How far below zero, relative to the largest, the entries' rounding may move an eigenvalue of a
/// positive semidefinite matrix.
double largest_negative(Index n, const Given& given);

/// How far the data's own rounding and the method's may move the singular values near an end:
/// closer ones are tied.
double tie_width(const Spectrum& s, const Given& given, End end);

/// Orthonormal singular vectors of the singular values at one end, as columns.
struct Vectors {
  Index count = 0;
  std::vector<double> left, right;  // left is empty where it equals right
  const std::vector<double>& u() const { return left.empty() ? right : left; }
};

/// The largest component of each column becomes positive, so that results do not depend on a
/// reduction's signs. `partner` follows.
void fix_signs(std::vector<double>& a, Index rows, std::vector<double>* partner = nullptr,
               Index partner_rows = 0);

class Decomposition;

/// The factor R of a QR of the features, in units of 2^exponent, with its own decomposition.
struct Triangle {
  MatrixView unit;
  const Decomposition* decomposition;
  double noise;  // what the factorization rounded, in the units of R's singular values
  const TallQr* qr;
};

/// What a method offers: the ends of the spectrum at once, vectors only when they are asked for.
/// This is the seam for further methods; they differ in how they find the ends, not in what is
/// done with them.
class Decomposition {
 public:
  virtual ~Decomposition() = default;
  const Spectrum& spectrum() const { return spectrum_; }
  const char* method() const { return method_; }
  void set_method(const char* method) { method_ = method; }
  void set_exponent(int exponent) { spectrum_.exponent = exponent; }
  /// Count more zeros: H = Z^T Z has m singular values, however few samples there are.
  void set_p(Index p) { spectrum_.p = p; }
  /// Vectors of the tied group at an end; only the first with `one`.
  virtual Vectors vectors(End end, bool one) const = 0;
  /// The first vectors of the largest and of the smallest end.
  virtual std::pair<Vectors, Vectors> both() const {
    return {vectors(End::max, true), vectors(End::min, true)};
  }
  /// The right singular vector next to an end, where the method has it; else empty.
  virtual std::vector<double> neighbour(End) const { return {}; }
  /// Where the spectrum is that of R^T R: R.
  virtual const Triangle* triangle() const { return nullptr; }

 protected:
  Spectrum spectrum_;
  const char* method_ = "direct";
};

/// One tridiagonal reduction, then the ends by bisection and inverse iteration. Null where H is not
/// positive semidefinite to `tolerance` (or the rounding of its entries) relative to its largest
/// eigenvalue, with `why` saying so.
std::unique_ptr<Decomposition> decompose_psd(SymmetricMatrix H, const Given& given,
                                             double tolerance, std::string& why);

/// One bidiagonal reduction; the ends from the Golub-Kahan tridiagonal matrix. A symmetric S whose
/// eigenvalues are its singular values, as far as those count, takes the way of decompose_psd.
std::unique_ptr<Decomposition> decompose(const MatrixView& S, const Given& given);

/// H = Z^T Z through the tall one, A, of Z and Z^T: the nonzero spectra of Z^T Z and Z Z^T agree.
/// Vectors live in the smaller space.
struct FeatureProblem {
  MatrixView A;       // N x m or m x N, scaled by 2^-exponent where its squares need it
  bool dual = false;  // A is Z^T
  int exponent = 0;
  SymmetricMatrix gram;                          // A^T A
  std::unique_ptr<Decomposition> decomposition;  // of A^T A
};
FeatureProblem decompose_features(const MatrixView& Z, const Given& given);

}  // namespace immucond
