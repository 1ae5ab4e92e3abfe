#pragma once

#include "team.hpp"

namespace immucond::cuda {

/// The largest order of a matrix that one block takes, in shared memory.
inline constexpr int kLargestOrder = 128;
inline constexpr int kColumns = kLargestOrder / kWarp;  // of a row, in the registers of a lane

/// A symmetric tridiagonal matrix in shared memory: diagonal, off-diagonal and its squares.
struct Tridiagonal {
  int n;
  double *d, *e, *squares;
  double radius;  // an upper bound on every |eigenvalue| (Gershgorin)
};

/// A = Q T Q^T in place (Householder): row k of `a` keeps the reflector I - tau_k v v^T, v from
/// column k + 1 on. `a` is n x n with rows `ld` apart and symmetric to the bit; so it stays.
///
/// Every step reads and writes A once: the update by the last reflector, A - v w^T - w v^T, is done
/// on the way to the product with the next one. Each warp keeps v and w in registers, a column a
/// lane, and makes them for itself from what all warps added up: two barriers a step.
///
/// The entries are of order one (small_problem scales them): what a row has below 2^-450 is left
/// out of T, for the reflector of numbers whose squares underflow would not be orthogonal.
///
/// `pending` holds 2 n numbers, `partial` n for each warp.
template <class Team>
IMMUCOND_DEVICE void tridiagonalize(const Team& team, int n, double* a, int ld, double* d,
                                    double* e, double* tau, double* pending, double* partial) {
  double v[kColumns] = {}, w[kColumns] = {};
  double *all_v = pending, *all_w = pending + n;
  for (int i = team.thread(); i < n; i += team.threads()) all_v[i] = all_w[i] = 0.0;
  team.sync();
  for (int k = 0; k < n; ++k) {
    double row[kColumns], squares = 0.0, alpha = 0.0;
    const double vk = all_v[k], wk = all_w[k];
    IMMUCOND_UNROLL for (int q = 0; q < kColumns; ++q) {
      const int j = team.lane() + q * kWarp;
      row[q] = j >= k && j < n ? a[k * ld + j] - (vk * w[q] + v[q] * wk) : 0.0;
      if (j > k + 1) squares = fma(row[q], row[q], squares);
      if (j == k && team.warp() == 0) d[k] = row[q];
      if (q == (k + 1) / kWarp) alpha = row[q];
    }
    if (k + 1 == n) break;
    squares = warp_sum(team, squares);
    alpha = team.broadcast(alpha, (k + 1) % kWarp);
    const bool reduced = squares < 0x1p-900;
    const double beta = reduced ? alpha : -copysign(sqrt(fma(alpha, alpha, squares)), alpha);
    const double factor = reduced ? 0.0 : (beta - alpha) / beta;
    const double scale = reduced ? 0.0 : 1.0 / (alpha - beta);

    double sums[kColumns] = {};
    for (int i = k + 1 + team.warp(); i < n; i += team.warps()) {
      const double vi = all_v[i], wi = all_w[i];
      const double next = i == k + 1 ? 1.0 : (a[k * ld + i] - (vk * wi + vi * wk)) * scale;
      IMMUCOND_UNROLL for (int q = 0; q < kColumns; ++q) {
        const int j = team.lane() + q * kWarp;
        if (j <= k || j >= n) continue;
        const double entry = a[i * ld + j] - (vi * w[q] + v[q] * wi);
        a[i * ld + j] = entry;
        sums[q] = fma(entry, next, sums[q]);
      }
    }
    IMMUCOND_UNROLL for (int q = 0; q < kColumns; ++q) {
      const int j = team.lane() + q * kWarp;
      if (j < n) partial[team.warp() * n + j] = sums[q];
    }
    team.sync();

    double dot = 0.0;
    IMMUCOND_UNROLL for (int q = 0; q < kColumns; ++q) {
      const int j = team.lane() + q * kWarp;
      v[q] = j == k + 1 ? 1.0 : j > k + 1 ? row[q] * scale : 0.0;
      w[q] = 0.0;
      if (j > k && j < n)
        for (int u = 0; u < team.warps(); ++u) w[q] += partial[u * n + j];
      w[q] *= factor;
      dot = fma(w[q], v[q], dot);
    }
    dot = warp_sum(team, dot) * (0.5 * factor);
    IMMUCOND_UNROLL for (int q = 0; q < kColumns; ++q) {
      const int j = team.lane() + q * kWarp;
      w[q] = fma(-dot, v[q], w[q]);
      if (j < n && team.warp() == 0) {
        all_v[j] = v[q];
        all_w[j] = w[q];
        if (j > k) a[k * ld + j] = v[q];
      }
    }
    if (team.thread() == 0) {
      e[k] = beta;
      tau[k] = factor;
    }
    team.sync();
  }
  team.sync();
}

/// x <- Q x for the reflectors of `tridiagonalize`, by one warp; x in shared memory.
template <class Team>
IMMUCOND_DEVICE void back_transform(const Team& team, int n, const double* a, int ld,
                                    const double* tau, double* x) {
  double own[kColumns];
  IMMUCOND_UNROLL for (int q = 0; q < kColumns; ++q) {
    const int j = team.lane() + q * kWarp;
    own[q] = j < n ? x[j] : 0.0;
  }
  for (int k = n - 2; k >= 0; --k) {
    double v[kColumns], dot = 0.0;
    IMMUCOND_UNROLL for (int q = 0; q < kColumns; ++q) {
      const int j = team.lane() + q * kWarp;
      v[q] = j > k && j < n ? a[k * ld + j] : 0.0;
      dot = fma(v[q], own[q], dot);
    }
    dot = warp_sum(team, dot) * tau[k];
    IMMUCOND_UNROLL for (int q = 0; q < kColumns; ++q) own[q] = fma(-dot, v[q], own[q]);
  }
  IMMUCOND_UNROLL for (int q = 0; q < kColumns; ++q) {
    const int j = team.lane() + q * kWarp;
    if (j < n) x[j] = own[q];
  }
  team.sync_warp();
}

/// How many eigenvalues lie above x: Sturm's sequence as products p_i instead of ratios, which
/// spares the divisions. A ratio too small to tell from zero is taken for a tiny negative one.
IMMUCOND_DEVICE int count_above(const Tridiagonal& T, double x) {
  constexpr double kHuge = 0x1p200, kShrink = 0x1p-250;
  const double pivot = T.radius * 0x1p-60;
  double before = 1.0, p = T.d[0] - x;
  if (fabs(p) < pivot) p = -pivot;
  int count = p > 0.0;
  for (int i = 1; i < T.n; ++i) {
    double next = fma(T.d[i] - x, p, -T.squares[i - 1] * before);
    const double least = pivot * fabs(p);
    if (fabs(next) < least) next = p > 0.0 ? -least : least;
    count += (next > 0.0) == (p > 0.0);
    before = p;
    p = next;
    if (i % 4 == 0) {  // a ratio is between 2^-60 and 2^61 times the radius
      const double scale = fabs(p) > kHuge ? kShrink : fabs(p) < 1.0 / kHuge ? 1.0 / kShrink : 1.0;
      before *= scale;
      p *= scale;
    }
  }
  return count;
}

struct Two {
  double first, second;
};

/// Two eigenvalues by their positions from the top (1: the largest), to the rounding of T: half of
/// the team shifts at each, so that seven bits are found at a time by 256 threads.
template <class Team>
IMMUCOND_DEVICE Two eigenvalues(const Team& team, const Tridiagonal& T, int first, int second,
                                double* scratch) {
  const int half = team.warps() / 2, shifts = half * kWarp;
  const bool mine = team.warp() < half;
  const int at = team.thread() - (mine ? 0 : shifts);
  double low[2], high[2];
  IMMUCOND_UNROLL for (int t = 0; t < 2; ++t) {
    low[t] = -T.radius;
    high[t] = T.radius;
  }
  double width = 2.0 * T.radius;
  int round = 0;
  for (double left = 0x1p56; left > 1.0; left /= shifts + 1, ++round) {
    // At least `position` eigenvalues lie above `low`, fewer above `high`.
    const int position = mine ? first : second;
    const double from = mine ? low[0] : low[1], step = width / (shifts + 1);
    const double x = fma(step, static_cast<double>(at + 1), from);
    const double enough = at < shifts && count_above(T, x) >= position ? 1.0 : 0.0;
    const double found = warp_sum(team, enough);
    double* sums = scratch + (round % 2) * team.warps();
    if (team.lane() == 0) sums[team.warp()] = found;
    team.sync();
    IMMUCOND_UNROLL for (int t = 0; t < 2; ++t) {
      double below = 0.0;
      for (int u = 0; u < half; ++u) below += sums[t * half + u];
      low[t] = fma(step, below, low[t]);
      high[t] = low[t] + step;
    }
    width = step;
  }
  team.sync();
  return {(low[0] + high[0]) / 2, (low[1] + high[1]) / 2};
}

/// An eigenvector of T for an eigenvalue known to rounding, by one warp: inverse iteration on an LU
/// factorization with partial pivoting. `work` holds 5 n numbers, x gets the unit vector. Returns
/// the norm of its residual.
template <class Team>
IMMUCOND_DEVICE double eigenvector(const Team& team, const Tridiagonal& T, double value,
                                   double* work, double* x) {
  const int n = T.n;
  double *inverse = work, *u1 = work + n, *u2 = work + 2 * n, *factor = work + 3 * n,
         *swapped = work + 4 * n;
  if (team.lane() == 0) {
    const double tiny = T.radius * 0x1p-53;
    double a = T.d[0] - value, b = n > 1 ? T.e[0] : 0.0;
    for (int i = 0; i < n; ++i) {
      const bool last = i + 1 == n;
      const double c = last ? 0.0 : T.e[i], next = last ? 0.0 : T.d[i + 1] - value;
      const double after = i + 2 < n ? T.e[i + 1] : 0.0;
      const bool swap = fabs(c) > fabs(a);
      double pivot = swap ? c : a;
      if (fabs(pivot) < tiny) pivot = pivot < 0.0 ? -tiny : tiny;
      const double reciprocal = 1.0 / pivot, m = (swap ? a : c) * reciprocal;
      inverse[i] = reciprocal;
      u1[i] = swap ? next : b;
      u2[i] = swap ? after : 0.0;
      factor[i] = m;
      swapped[i] = swap ? 1.0 : 0.0;
      a = swap ? fma(-m, next, b) : fma(-m, b, next);
      b = swap ? -m * after : after;
    }
  }
  // Any start but one orthogonal to the vector will do: multiples of the golden ratio.
  for (int i = team.lane(); i < n; i += kWarp) {
    const double multiple = (i + 1) * 0.6180339887498949;
    x[i] = multiple - floor(multiple) - 0.4;
  }
  team.sync_warp();
  for (int iteration = 0; iteration < 3; ++iteration) {
    if (team.lane() == 0) {
      for (int i = 0; i + 1 < n; ++i) {
        const double upper = swapped[i] != 0.0 ? x[i + 1] : x[i];
        const double lower = swapped[i] != 0.0 ? x[i] : x[i + 1];
        x[i] = upper;
        x[i + 1] = fma(-factor[i], upper, lower);
      }
      double one = 0.0, two = 0.0;  // the entries below
      for (int i = n - 1; i >= 0; --i) {
        const double entry = fma(-u2[i], two, fma(-u1[i], one, x[i])) * inverse[i];
        x[i] = entry;
        two = one;
        one = entry;
      }
    }
    team.sync_warp();
    double largest = 0.0, squares = 0.0;
    for (int i = team.lane(); i < n; i += kWarp) largest = fmax(largest, fabs(x[i]));
    const double scale = 1.0 / warp_max(team, largest);
    for (int i = team.lane(); i < n; i += kWarp) squares = fma(x[i] * scale, x[i] * scale, squares);
    const double unit = scale / sqrt(warp_sum(team, squares));
    for (int i = team.lane(); i < n; i += kWarp) x[i] *= unit;
    team.sync_warp();
  }
  double squares = 0.0;
  for (int i = team.lane(); i < n; i += kWarp) {
    double r = (T.d[i] - value) * x[i];
    if (i > 0) r = fma(T.e[i - 1], x[i - 1], r);
    if (i + 1 < n) r = fma(T.e[i], x[i + 1], r);
    squares = fma(r, r, squares);
  }
  return sqrt(warp_sum(team, squares));
}

}  // namespace immucond::cuda
