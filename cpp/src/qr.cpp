#include "immucond/qr.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include "immucond/blas_threads.hpp"
#include "immucond/compensated.hpp"

namespace immucond {
namespace {

/// Rows of a leaf at most: few, so that equal rows, whose rounding has one sign, leave little in R;
/// many against the columns, so that joining triangles costs less than the leaves.
Index leaf_rows(Index columns) { return std::max<Index>(128, 4 * columns); }

constexpr Index kNone = -1;

/// The decomposition of R, told as that of H = R^T R.
class QrDecomposition final : public Decomposition {
 public:
  QrDecomposition(TallQr qr, std::unique_ptr<Decomposition> factor, const SymmetricMatrix& gram,
                  double lost, const char* name)
      : qr_(std::move(qr)), factor_(std::move(factor)) {
    constexpr Index step = sizeof(double);
    const Ends& r = factor_->ends();
    const double noise = (qr_noise(gram.n) + lost) * r.sigma_max;
    triangle_ = {{qr_.r().data(), Dtype::f64, gram.n, gram.n, step, gram.n * step, name},
                 factor_.get(),
                 noise,
                 &qr_};
    ends_ = r;
    ends_.sigma_max = r.sigma_max * r.sigma_max;
    ends_.sigma_min = r.sigma_min * r.sigma_min;
    ends_.next_max = r.next_max * r.next_max;
    ends_.next_min = r.next_min * r.next_min;
    if (r.below_min) ends_.below_min = *r.below_min * *r.below_min;
    ends_.noise_max = (2 * r.sigma_max + noise) * noise;
    ends_.noise_min = (2 * r.sigma_min + noise) * noise;
    if (ends_.sigma_min < std::numeric_limits<double>::min())
      throw std::overflow_error("the condition number of the Gram matrix of " + std::string(name) +
                                " is not representable in float64: that of " + name + " is " +
                                format(r.sigma_max / r.sigma_min));
    // F = ||A^T A||_F^2, brought from the Gram matrix's units to R's.
    ends_.exponent = 2 * qr_.exponent();
    const double unit = std::ldexp(1.0, gram.exponent - ends_.exponent);
    ends_.squares =
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

TallQr::TallQr(const MatrixView& A, bool keep_q) : rows_(A.rows), cols_(A.cols), keep_q_(keep_q) {
  const Index m = cols_, most = leaf_rows(m), leaves = (rows_ + most - 1) / most;
  const double flops = 2.0 * static_cast<double>(rows_) * static_cast<double>(m * m);
  const blas::Phase phase(blas::Work::reduction, flops / static_cast<double>(leaves));
  // Triangles that wait for their like: as in a binary counter, so that equal counts are joined.
  struct Waiting {
    std::vector<double> r;
    Index leaves, node;
  };
  std::vector<Waiting> waiting;
  const auto join = [&] {
    Waiting lower = std::move(waiting.back());
    waiting.pop_back();
    Waiting& upper = waiting.back();
    std::vector<double> t(size(lapack::triangle_block(m) * m));
    lapack::tpqrt(m, upper.r.data(), lower.r.data(), t.data());
    if (keep_q_)
      nodes_.push_back({2 * m, 0, upper.node, lower.node, std::move(lower.r), std::move(t)});
    upper.node = static_cast<Index>(nodes_.size()) - 1;
    upper.leaves += lower.leaves;
  };
  for (Index leaf = 0; leaf < leaves; ++leaf) {
    const Index first = leaf * rows_ / leaves, rows = (leaf + 1) * rows_ / leaves - first;
    std::vector<double> block(size(rows * m));
    copy_to(row_range(A, first, rows), block.data());
    std::vector<double> r = reduce(rows, first, std::move(block));
    waiting.push_back({std::move(r), 1, static_cast<Index>(nodes_.size()) - 1});
    while (waiting.size() > 1 && waiting.end()[-2].leaves == waiting.back().leaves) join();
  }
  while (waiting.size() > 1) join();
  r_ = std::move(waiting.front().r);
  const Index step = sizeof(double);
  exponent_ = scale_exponent({r_.data(), Dtype::f64, m, m, step, m * step, A.name});
  rescale(r_.data(), m * m, -exponent_);
}

/// R of `block` (rows x m, column-major).
std::vector<double> TallQr::reduce(Index rows, Index first, std::vector<double> block) {
  const Index m = cols_;
  std::vector<double> tau(size(m)), r(size(m * m));
  lapack::geqrf(rows, m, block.data(), rows, tau.data());
  for (Index j = 0; j < m; ++j) std::copy_n(block.data() + j * rows, j + 1, r.data() + j * m);
  if (keep_q_) nodes_.push_back({rows, first, kNone, kNone, std::move(block), std::move(tau)});
  return r;
}

std::vector<double> TallQr::apply_q(const std::vector<double>& y) const {
  std::vector<double> out(size(rows_));
  spread(nodes_.back(), y.data(), out.data());
  return out;
}

void TallQr::spread(Node& node, const double* y, double* out) const {
  std::vector<double> x(size(node.rows));
  std::copy_n(y, cols_, x.data());
  if (node.upper == kNone) {
    lapack::ormqr(node.rows, cols_, 1, node.reflectors.data(), node.rows, node.factors.data(),
                  x.data(), node.rows);
    std::copy(x.begin(), x.end(), out + node.first_row);
    return;
  }
  double* const lower = x.data() + cols_;
  lapack::tpmqrt(cols_, node.reflectors.data(), node.factors.data(), x.data(), lower);
  spread(nodes_[size(node.upper)], x.data(), out);
  spread(nodes_[size(node.lower)], lower, out);
}

namespace {

/// out (row-major) = r (m x m, column-major).
void write_rows(const std::vector<double>& r, Index m, double* out) {
  for (Index j = 0; j < m; ++j)
    for (Index i = 0; i < m; ++i) out[i * m + j] = r[size(i + j * m)];
}

}  // namespace

void triangle(const MatrixView& A, double* out) {
  const Index m = A.cols;
  const TallQr qr(A, /*keep_q=*/false);
  write_rows(qr.r(), m, out);
  scale_by_power(out, m * m, qr.exponent(), "the triangular factor");
}

void joined_triangles(const MatrixView& upper, const MatrixView& lower, double* out) {
  const Index m = upper.cols;
  std::vector<double> r(size(m * m)), below(size(m * m)), t(size(lapack::triangle_block(m) * m));
  copy_to(upper, r.data());
  copy_to(lower, below.data());
  lapack::tpqrt(m, r.data(), below.data(), t.data());
  write_rows(r, m, out);
  require_representable(out, m * m, "the triangular factor");
}

std::unique_ptr<Decomposition> square_of_triangle(TallQr qr, std::unique_ptr<Decomposition> factor,
                                                  const SymmetricMatrix& gram, double lost,
                                                  const char* name) {
  return std::make_unique<QrDecomposition>(std::move(qr), std::move(factor), gram, lost, name);
}

}  // namespace immucond
