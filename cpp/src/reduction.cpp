#include "immucond/reduction.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "immucond/lapack.hpp"
#include "immucond/multiversion.hpp"

// Whatever passes registers by value is inlined, so that no calling convention matters.
#define IMMUCOND_INLINE [[gnu::always_inline]] inline
#pragma GCC diagnostic ignored "-Wpsabi"

namespace immucond {
namespace {

// Up to here the matrix stays in a core's cache, where one pass a reflector over its lower triangle
// beats LAPACK's blocks, whose calls cost more than their work. As many lanes on every machine, so
// that all round alike.
constexpr Index kSmall = 256, kLanes = 4;

typedef double Lanes __attribute__((vector_size(8 * kLanes)));
typedef double Unaligned __attribute__((vector_size(8 * kLanes), aligned(8), may_alias));

IMMUCOND_INLINE Index round_down(Index i) { return i - i % kLanes; }
IMMUCOND_INLINE Lanes load(const double* x) { return *reinterpret_cast<const Unaligned*>(x); }
IMMUCOND_INLINE void store(double* x, const Lanes& y) { *reinterpret_cast<Unaligned*>(x) = y; }
IMMUCOND_INLINE Lanes all(double x) { return x - Lanes{}; }
IMMUCOND_INLINE double sum(const Lanes& x) { return (x[0] + x[1]) + (x[2] + x[3]); }

/// Sums side by side are faster, and round less where all terms have one sign.
IMMUCOND_INLINE double dot(const double* x, const double* y, Index from, Index to) {
  Lanes a{}, b{}, c{}, d{};
  const auto add = [&](Lanes& total, Index i) { total += load(x + i) * load(y + i); };
  Index i = from;
  for (; i + 4 * kLanes <= to; i += 4 * kLanes) {
    add(a, i);
    add(b, i + kLanes);
    add(c, i + 2 * kLanes);
    add(d, i + 3 * kLanes);
  }
  for (; i < to; i += kLanes) add(a, i);
  return sum((a + b) + (c + d));
}

/// What a reduction holds: the lower triangle of A, its blocks on the diagonal whole, in columns of
/// whole registers; and vectors as long, zero before the rows that are left.
struct Workspace {
  explicit Workspace(Index n) : rows(round_down(n + kLanes - 1)), memory(size(rows * (rows + 4))) {
    a = memory.data();
    v = a + rows * rows;
    w = v + rows;
    x = w + rows;
    p = x + rows;
  }
  Index rows;
  std::vector<double> memory;
  double *a, *v, *w, *x, *p;
};

/// A <- A - v w^T - w v^T and p = A x in one pass over the rows and columns from `first` on.
IMMUCOND_INLINE void update_and_multiply(const Workspace& s, Index first) {
  const Index from = round_down(first);
  for (Index i = from; i < s.rows; i += kLanes) store(s.p + i, Lanes{});
  for (Index j = from; j < s.rows; j += kLanes) {
    double* columns[kLanes];
    Lanes vj[kLanes], wj[kLanes], xj[kLanes], below[kLanes];
    for (Index q = 0; q < kLanes; ++q) {
      columns[q] = s.a + (j + q) * s.rows;
      vj[q] = all(s.v[j + q]);
      wj[q] = all(s.w[j + q]);
      xj[q] = all(s.x[j + q]);
      below[q] = Lanes{};
    }
    const auto step = [&](Index i, bool mirrored) __attribute__((always_inline)) {
      const Lanes vi = load(s.v + i), wi = load(s.w + i), xi = load(s.x + i);
      Lanes pi = load(s.p + i);
      for (Index q = 0; q < kLanes; ++q) {
        const Lanes updated = load(columns[q] + i) - (vi * wj[q] + wi * vj[q]);
        store(columns[q] + i, updated);
        pi += updated * xj[q];
        if (mirrored) below[q] += updated * xi;
      }
      store(s.p + i, pi);
    };
    step(j, false);
    for (Index i = j + kLanes; i < s.rows; i += kLanes) step(i, true);
    for (Index q = 0; q < kLanes; ++q) s.p[j + q] += sum(below[q]);
  }
}

struct Reflector {
  double beta, tau;
};

/// I - tau x x^T, x_first = 1, that maps x, zero before `first`, to beta at `first`; it takes the
/// place of x. Where squares leave the range of float64 x is scaled before.
IMMUCOND_INLINE Reflector reflector(double* x, Index first, Index rows) {
  const Index from = round_down(first);
  int exponent = 0;
  const double squares = dot(x, x, from, rows);
  if (!(squares > 0x1p-900 && squares < 0x1p900)) {
    double largest = 0.0;
    for (Index i = first; i < rows; ++i) largest = std::max(largest, std::fabs(x[i]));
    std::frexp(largest, &exponent);
    for (Index i = first; i < rows; ++i) x[i] = std::ldexp(x[i], -exponent);
  }
  const double alpha = x[first];
  x[first] = 0.0;
  const double rest = dot(x, x, from, rows);
  Reflector found{alpha, 0.0};
  if (rest > 0.0) {
    found.beta = -std::copysign(std::sqrt(alpha * alpha + rest), alpha);
    found.tau = (found.beta - alpha) / found.beta;
    const Lanes by = all(alpha - found.beta);
    for (Index i = from; i < rows; i += kLanes) store(x + i, load(x + i) / by);
  } else {
    std::fill(x + first, x + rows, 0.0);
  }
  x[first] = 1.0;
  if (exponent != 0) found.beta = std::ldexp(found.beta, exponent);
  return found;
}

/// Householder's reduction; the update of one reflector waits for the next one, so that both read A
/// at once.
IMMUCOND_MULTIVERSION void reduce(Workspace& s, Index n, double* a, Index lda, double* d, double* e,
                                  double* tau) {
  for (Index j = 0; j < n; ++j) {
    double* column = s.a + j * s.rows;
    for (Index i = round_down(j); i < j; ++i) column[i] = a[j + i * lda];
    std::copy(a + j + j * lda, a + n + j * lda, column + j);
  }
  for (Index k = 0; k < n; ++k) {
    double* column = s.a + k * s.rows;
    const Lanes vk = all(s.v[k]), wk = all(s.w[k]);
    for (Index i = round_down(k); i < s.rows; i += kLanes)
      store(s.x + i, load(column + i) - (load(s.v + i) * wk + load(s.w + i) * vk));
    d[k] = s.x[k];
    if (k + 1 == n) break;
    const Index first = k + 1, from = round_down(first);
    for (Index i = round_down(k); i < first; ++i) s.v[i] = s.w[i] = s.x[i] = 0.0;
    const Reflector found = reflector(s.x, first, s.rows);
    e[k] = found.beta;
    tau[k] = found.tau;
    std::copy(s.x + first, s.x + n, a + first + k * lda);
    update_and_multiply(s, first);
    // A - x w^T - w x^T is the matrix between two reflections, w = tau (p - (tau / 2) (p^T x) x).
    const Lanes t = all(found.tau);
    const Lanes half = all(0.5 * found.tau * found.tau * dot(s.p, s.x, from, s.rows));
    for (Index i = from; i < s.rows; i += kLanes) {
      const Lanes xi = load(s.x + i);
      store(s.w + i, t * load(s.p + i) - half * xi);
      store(s.v + i, xi);
    }
    for (Index i = from; i < first; ++i) s.v[i] = s.w[i] = 0.0;
  }
}

/// c <- (I - tau x x^T) c, x_0 = 1, x_i = below[i] from 1 on.
IMMUCOND_MULTIVERSION void reflect(Index n, const double* below, double tau, double* c) {
  const Index whole = n - 1 - (n - 1) % kLanes;
  double total = c[0] + dot(below + 1, c + 1, 0, whole);
  for (Index i = whole + 1; i < n; ++i) total += below[i] * c[i];
  total *= tau;
  c[0] -= total;
  for (Index i = 1; i < n; ++i) c[i] -= total * below[i];
}

}  // namespace

void tridiagonalize(Index n, double* a, Index lda, double* d, double* e, double* tau) {
  if (n > kSmall) {
    lapack::sytrd(n, a, lda, d, e, tau);
    return;
  }
  Workspace space(n);
  reduce(space, n, a, lda, d, e, tau);
}

void apply_reflectors(Index n, Index columns, double* a, Index lda, const double* tau, double* c,
                      Index ldc) {
  if (n > kSmall) {
    lapack::ormtr(n, columns, a, lda, tau, c, ldc);
    return;
  }
  for (Index k = n - 2; k >= 0; --k)
    for (Index j = 0; j < columns; ++j)
      reflect(n - k - 1, a + k + 1 + k * lda, tau[k], c + k + 1 + j * ldc);
}

}  // namespace immucond
