#pragma once

#include "element.hpp"
#include "immucond/spectrum.hpp"
#include "product.hpp"
#include "tridiagonal.hpp"

namespace immucond::cuda {

enum class Kind : int {
  matrix,    // symmetric positive semidefinite S: r at S
  features,  // Z (N x m): r at H = Z^T Z, by the smaller of Z^T Z and Z Z^T
  gram,      // H = Z^T Z, formed before: rank and ties as for features
};

/// Why a matrix was not done. Its results are NaN then, and it goes on to a direct method, which
/// says what there is to say of it.
enum Status : int {
  kDone = 0,
  kNotFinite = 1,
  kRankZero = 2,
  kNotPsd = 4,       // not symmetric, or with a negative eigenvalue
  kDigitsLost = 8,   // the Gram matrix does not carry the smallest singular value
  kTied = 16,        // an end whose vector is wanted is not simple
  kDegenerate = 32,  // R_ill where all nonzero singular values are equal
  kUnrepresentable = 64,
  kUnresolved = 128,  // an eigenvector did not converge
  kTooFew = 256,      // p counts fewer singular values than are nonzero
};

/// A stack of small problems. Null outputs are not computed.
template <class T>
struct SmallProblems {
  using Real = typename GradientOf<T>::type;
  Stack<T> input;
  Kind kind = Kind::features;
  Rule rule;
  BuiltIn regularizer = BuiltIn::none;
  Index p = kAllValues;       // singular values that R_well counts, of as many as columns
  double* value = nullptr;    // (b)
  Real* gradient = nullptr;   // (b, rows, cols), by what was given
  double* sigma = nullptr;    // (b, 2): the largest and the smallest nonzero
  double* vectors = nullptr;  // (b, 2, cols)
  int* rank = nullptr;        // (b)
  int* status = nullptr;      // (b)
  double* gram = nullptr;     // workspace, (b, n, n); for gradients by features
};

/// Shared memory of one block, in doubles.
struct Layout {
  int n, ld, d, e, squares, tau, pending, vectors, work, scratch, size;
};

IMMUCOND_EVERYWHERE Layout layout_of(int n, int warps) {
  Layout at{};
  at.n = n;
  // Rows apart by an odd multiple of four: neither rows nor 4 x 8 fragments meet in a bank.
  at.ld = n + (12 - n % 8) % 8;
  const int partial = warps > 10 ? warps : 10;  // or two times five vectors
  int next = n * at.ld;
  const auto take = [&](int count) {
    const int from = next;
    next += count;
    return from;
  };
  at.d = take(n);
  at.e = take(n);
  at.squares = take(n);
  at.tau = take(n);
  at.pending = take(2 * n);
  at.vectors = take(2 * n);
  at.work = take(partial * n);
  at.scratch = take(2 * warps);
  at.size = next;
  return at;
}

/// 2^exponent x, by one product where that is safe.
struct PowerOfTwo {
  int exponent;
  double factor;
  IMMUCOND_DEVICE explicit PowerOfTwo(int e)
      : exponent(e), factor(abs(e) < 1000 ? ldexp(1.0, e) : 0.0) {}
  IMMUCOND_DEVICE double operator*(double x) const {
    return factor != 0.0 ? x * factor : ldexp(x, exponent);
  }
};

/// One problem by one team, all of it in `shared`: Gram matrix, tridiagonal reduction, both ends by
/// bisection, their vectors by inverse iteration, the regularizer's coefficients, the gradient.
template <class Team, class T>
IMMUCOND_DEVICE void small_problem(const Team& team, const SmallProblems<T>& given, int index,
                                   double* shared) {
  using Real = typename SmallProblems<T>::Real;
  const Stack<T>& input = given.input;
  const int rows = input.rows, cols = input.cols, entries = rows * cols;
  const bool features = given.kind == Kind::features, dual = features && rows < cols;
  const int n = features && rows < cols ? rows : cols, length = features && !dual ? rows : cols;
  const Layout layout = layout_of(n, team.warps());
  const int ld = layout.ld;
  double *a = shared, *scratch = shared + layout.scratch, *tau = shared + layout.tau;
  double *vectors = shared + layout.vectors, *work = shared + layout.work;
  Real* gradient = given.gradient ? given.gradient + std::int64_t{entries} * index : nullptr;
  double* gram = given.gram ? given.gram + std::int64_t{n} * n * index : nullptr;

  const auto finish = [&](int status, int rank, double value, double max, double min) {
    const bool failed = status != kDone;
    const double nothing = NAN;
    if (failed && gradient)
      for (int at = team.thread(); at < entries; at += team.threads())
        gradient[at] = static_cast<Real>(nothing);
    if (failed && given.vectors)
      for (int at = team.thread(); at < 2 * cols; at += team.threads())
        given.vectors[std::int64_t{2} * cols * index + at] = nothing;
    if (team.thread() != 0) return;
    given.status[index] = status;
    if (given.rank) given.rank[index] = rank;
    if (given.value) given.value[index] = failed ? nothing : value;
    if (given.sigma) {
      given.sigma[2 * index] = failed ? nothing : max;
      given.sigma[2 * index + 1] = failed ? nothing : min;
    }
  };

  // ---- scale ----
  double largest = 0.0, skew = 0.0;
  for (int at = team.thread(); at < entries; at += team.threads()) {
    const double x = input.at(index, at / cols, at % cols);
    largest = fmax(largest, isfinite(x) ? fabs(x) : static_cast<double>(INFINITY));
    if (given.kind == Kind::matrix && x != input.at(index, at % cols, at / cols)) skew = 1.0;
  }
  largest = team_max(team, largest, scratch);
  skew = team_max(team, skew, scratch);
  if (!isfinite(largest)) return finish(kNotFinite, 0, 0.0, 0.0, 0.0);
  if (largest == 0.0) return finish(kRankZero, 0, 0.0, 0.0, 0.0);
  if (skew != 0.0) return finish(kNotPsd, 0, 0.0, 0.0, 0.0);
  int exponent = 0;
  frexp(largest, &exponent);
  // Formed and used outside, where nothing is scaled: its squares' squares must be in range.
  if (given.kind == Kind::gram && abs(exponent) > 200)
    return finish(kUnrepresentable, 0, 0.0, 0.0, 0.0);
  const double unit = ldexp(1.0, -(exponent / 2));
  const double other_unit = ldexp(1.0, -(exponent - exponent / 2));

  // ---- H = A^T A, where A (length x n) is Z or its transpose; or what was given ----
  const auto tall = [&](int l, int i) {
    return (dual ? input.at(index, i, l) : input.at(index, l, i)) * unit * other_unit;
  };
  if (features) {
    // By blocks of rows: many in one go, if equal, would round to one side. The entries of a thread
    // are the same ones in each.
    const int most = static_cast<int>(summed_rows(n));
    for (int first = 0; first < length; first += most)
      product(
          team, n, n, length - first < most ? length - first : most, true,
          [&](int i, int l) { return tall(first + l, i); },
          [&](int l, int j) { return tall(first + l, j); },
          [&](int i, int j, double x) {
            if (j > i) return;
            const double sum = first == 0 ? x : a[i * ld + j] + x;
            a[i * ld + j] = a[j * ld + i] = sum;
            if (gram) gram[i * n + j] = gram[j * n + i] = sum;
          });
  } else {
    for (int at = team.thread(); at < entries; at += team.threads())
      a[at / n * ld + at % n] = tall(at / n, at % n);
  }
  team.sync();

  // ---- tridiagonal T, and what every end needs of it ----
  Tridiagonal tridiagonal{n, shared + layout.d, shared + layout.e, shared + layout.squares, 0.0};
  const double *d = tridiagonal.d, *e = tridiagonal.e;
  tridiagonalize(team, n, a, ld, tridiagonal.d, tridiagonal.e, tau, shared + layout.pending, work);
  double radius = 0.0;
  for (int i = team.thread(); i < n; i += team.threads()) {
    const double right = i + 1 < n ? fabs(e[i]) : 0.0, left = i > 0 ? fabs(e[i - 1]) : 0.0;
    radius = fmax(radius, fabs(d[i]) + left + right);
    tridiagonal.squares[i] = right * right;
  }
  tridiagonal.radius = team_max(team, radius, scratch) * (1.0 + 0x1p-50);
  DoubleDouble squares;
  for (int i = team.lane(); i < n; i += kWarp) {
    const DoubleDouble off = i + 1 < n ? two_product(e[i], e[i]) : DoubleDouble{};
    squares = squares + (two_product(d[i], d[i]) + (off + off));
  }
  squares = warp_sum(team, squares);

  // ---- ends, rank and ties, as on the host (ends.hpp: read_ends) ----
  const Rule& rule = given.rule;
  const int known = static_cast<int>(rule.rank);
  const double reduced = reduction_noise(n);
  const double rounding = features ? fmax(reduced, plain_summation_noise(length, n)) : reduced;
  const bool formed = given.kind != Kind::matrix;
  const double rtol = formed ? gram_rtol(rule, rounding) : rule.rtol;
  Two found = eigenvalues(team, tridiagonal, 1, known > 0 ? known : n, scratch);
  const double sigma_max = found.first, noise = rounding * sigma_max;
  double sigma_min = fabs(found.second);
  double trace = 0.0;
  for (int i = team.lane(); i < n; i += kWarp) trace += d[i];
  trace = warp_sum(team, trace);
  const double floor = formed ? gram_floor(rule, trace) : matrix_floor(rule, squares.hi);
  const double least_counted = cut(rtol, sigma_max, floor);
  const auto width = [&](double sigma) {
    return tie_width(sigma, sigma_max, noise, rule.precision, formed);
  };
  // Of a matrix that is given, negative eigenvalues are singular values where they count.
  const double least = formed      ? -largest_negative(n, kEps) * tridiagonal.radius
                       : known > 0 ? -fmax(found.second, 0.0)
                                   : -least_counted;
  const double shift = team.lane() == 0   ? sigma_max - width(sigma_max)
                       : team.lane() == 1 ? sigma_min + width(sigma_min)
                       : team.lane() == 2 ? least_counted
                                          : least;
  const double above = count_above(tridiagonal, shift);
  const auto clamp = [](int x, int high) { return x < 1 ? 1 : x > high ? high : x; };
  const int near_max = static_cast<int>(team.broadcast(above, 0));
  int above_min = static_cast<int>(team.broadcast(above, 1));
  const int rank = clamp(static_cast<int>(team.broadcast(above, 2)), n);
  const int not_negative = static_cast<int>(team.broadcast(above, 3));
  int k = known > 0 ? known : n;
  if (known == 0 && rank < n) {
    k = rank;
    found = eigenvalues(team, tridiagonal, 1, k, scratch);
    sigma_min = fabs(found.second);
    above_min = count_above(tridiagonal, sigma_min + width(sigma_min));
  }
  const int tied_max = clamp(near_max, k), tied_min = clamp(k - above_min, k);
  int status = kDone;
  const bool carried = formed ? gram_carries(rule, sigma_max, sigma_min, k, n, rounding, floor)
                              : noise < sigma_min / 2;
  if (!carried) status |= kDigitsLost;
  if (not_negative < n || !(sigma_max > 0.0)) status |= kNotPsd;
  if (given.p > 0 && given.p < k) status |= kTooFew;
  if (status != kDone) return finish(status, k, 0.0, 0.0, 0.0);
  const Spectrum ends = spectrum_of(counted(given.p, cols, k), k, sigma_max, sigma_min, squares,
                                    /*all_tied=*/tied_max >= k);

  // ---- value and coefficients ----
  const int doubled = features ? 2 * exponent : exponent;  // that of the spectrum
  const double max = ldexp(ends.sigma_max, doubled), min = ldexp(ends.sigma_min, doubled);
  Coefficients c = coefficients(given.regularizer, ends);
  const int degree = degree_of(given.regularizer);
  const double value = ldexp(c.value, degree * doubled);
  if (given.regularizer == BuiltIn::r_ill && (ends.all_tied || isinf(c.value)))
    status |= kDegenerate;
  else if (!isfinite(value) || !isfinite(c.alpha + c.beta + c.gamma))
    status |= kUnrepresentable;
  if (given.sigma && !(isfinite(max) && isfinite(min))) status |= kUnrepresentable;
  const bool by_vectors = gradient && !ends.all_tied;
  const bool wants_max = given.vectors || (by_vectors && c.alpha != 0.0);
  const bool wants_min = given.vectors || (by_vectors && c.beta != 0.0);
  if ((wants_max && tied_max > 1) || (wants_min && tied_min > 1)) status |= kTied;
  if (status != kDone) return finish(status, k, 0.0, 0.0, 0.0);

  // ---- the vectors of both ends, a warp each ----
  if (by_vectors || given.vectors) {
    if (team.warp() < 2) {
      const int end = team.warp();
      double* x = vectors + end * n;
      const double residual = eigenvector(
          team, tridiagonal, end == 0 ? ends.sigma_max : found.second, work + 5 * n * end, x);
      back_transform(team, n, a, ld, tau, x);
      if (team.lane() == 0) scratch[end] = residual <= 4 * noise ? 0.0 : 1.0;
    }
    team.sync();
    const bool unresolved = scratch[0] + scratch[1] != 0.0;
    team.sync();
    if (unresolved) return finish(status | kUnresolved, k, 0.0, 0.0, 0.0);
  }

  // ---- pairs: v itself, or of Z Z^T with the vector w, v = Z^T w / ||Z^T w|| ----
  if (given.vectors) {
    for (int end = 0; end < 2; ++end) {
      double* out = given.vectors + std::int64_t{cols} * (2 * index + end);
      const double* x = vectors + end * n;
      double sum = 0.0, highest = 0.0;
      for (int l = team.thread(); l < cols; l += team.threads()) {
        double entry = dual ? 0.0 : x[l];
        for (int i = 0; dual && i < n; ++i) entry = fma(tall(l, i), x[i], entry);
        out[l] = entry;
        sum = fma(entry, entry, sum);
        highest = fmax(highest, fabs(entry));
      }
      const double norm = sqrt(team_sum(team, sum, scratch));
      highest = team_max(team, highest, scratch);
      double first = -1.0 * cols;  // minus the place of the first largest component
      for (int l = team.thread(); l < cols; l += team.threads())
        if (fabs(out[l]) == highest) first = fmax(first, -1.0 * l);
      const int place = static_cast<int>(-team_max(team, first, scratch));
      const double sign = out[place] < 0.0 ? -1.0 : 1.0;
      team.sync();  // everybody has read out[place]
      for (int l = team.thread(); l < cols; l += team.threads()) out[l] *= sign / norm;
    }
  }

  // ---- the gradient: G by a matrix, 2 A G (or its transpose) by features ----
  double overflow = 0.0;
  if (gradient) {
    if (ends.all_tied) {
      c.gamma += (c.alpha + c.beta) / ends.sigma_max / static_cast<double>(k);
      c.alpha = c.beta = 0.0;
    }
    const auto G = [&](int i, int j, double entry) {
      const double top = c.alpha != 0.0 ? c.alpha * (vectors[i] * vectors[j]) : 0.0;
      const double bottom = c.beta != 0.0 ? c.beta * (vectors[n + i] * vectors[n + j]) : 0.0;
      return top + bottom + c.gamma * entry;
    };
    const int power = doubled * (degree - 1) + (features ? exponent + 1 : 0);
    const PowerOfTwo scale(power);
    const auto store = [&](int at, double x) {
      const Real stored = static_cast<Real>(scale * x);
      if (!isfinite(stored)) overflow = 1.0;
      gradient[at] = stored;
    };
    if (features) {
      for (int at = team.thread(); at < n * n; at += team.threads())
        a[at / n * ld + at % n] = G(at / n, at % n, gram[at]);
      team.sync();
      product(
          team, length, n, n, false, tall, [&](int i, int j) { return a[i * ld + j]; },
          [&](int l, int i, double x) { store(dual ? i * cols + l : l * cols + i, x); });
    } else {
      for (int at = team.thread(); at < entries; at += team.threads())
        store(at, G(at / n, at % n, tall(at / n, at % n)));
    }
  }
  overflow = team_max(team, overflow, scratch);
  finish(overflow != 0.0 ? status | kUnrepresentable : status, k, value, max, min);
}

}  // namespace immucond::cuda
