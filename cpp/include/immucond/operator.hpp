#pragma once

#include "immucond/lapack.hpp"

namespace immucond {

/// A symmetric operator on R^n: how to multiply. What is done with the products is the iteration's
/// affair (lanczos.hpp).
class Operator {
 public:
  virtual ~Operator() = default;
  virtual Index size() const = 0;
  /// y = A x.
  virtual void apply(const double* x, double* y) const = 0;
};

/// A symmetric matrix, column-major, of which the lower triangle is read. One product with a vector
/// at a time: dsymv reads half of what dsymm does for a narrow block, and packs nothing.
class SymmetricOperator final : public Operator {
 public:
  SymmetricOperator(const double* a, Index n) : a_(a), n_(n) {}
  Index size() const override { return n_; }
  void apply(const double* x, double* y) const override { lapack::symv('L', n_, a_, n_, x, y); }

 private:
  const double* a_;
  Index n_;
};

/// R^T R for an upper triangular R (n x n, column-major).
class GramOperator final : public Operator {
 public:
  GramOperator(const double* r, Index n) : r_(r), n_(n) {}
  Index size() const override { return n_; }
  void apply(const double* x, double* y) const override;

 private:
  const double* r_;
  Index n_;
};

/// (R^T R)^-1 for an upper triangular R without zeros on its diagonal.
class InverseGramOperator final : public Operator {
 public:
  InverseGramOperator(const double* r, Index n) : r_(r), n_(n) {}
  Index size() const override { return n_; }
  void apply(const double* x, double* y) const override;

 private:
  const double* r_;
  Index n_;
};

}  // namespace immucond
