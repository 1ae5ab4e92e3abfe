#pragma once

#include <utility>
#include <vector>

#include "immucond/ends.hpp"
#include "immucond/matrix_view.hpp"

namespace immucond {

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
class TallQr;

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
  const Ends& ends() const { return ends_; }
  const char* method() const { return method_; }
  void set_method(const char* method) { method_ = method; }
  void set_exponent(int exponent) { ends_.exponent = exponent; }
  /// Count more zeros: H = Z^T Z has m singular values, however few samples there are.
  void set_p(Index p) { ends_.p = p; }
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
  Ends ends_;
  const char* method_ = "direct";
};

/// The flops of reducing a rows x cols matrix to tridiagonal form, rows >= cols (bidiagonal form
/// takes twice as many).
double reduction_flops(Index rows, Index cols);

[[noreturn]] void throw_rank_zero(const char* name);

}  // namespace immucond
