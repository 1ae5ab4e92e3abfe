#pragma once

#include "team.hpp"

namespace immucond::cuda {

// What the blocks of a grid do in a step of band Lanczos (lanczos.hpp), w = A v given:
// orthogonalize w against the basis V (n x size, by columns) twice, with the coefficients V^T w
// kept, and append it. Sums have one order: the same bits each time. `scratch` holds two numbers a
// warp.

/// Block `column`: c = V^T w, added to `total` or, at the first time, in its place.
struct Project {
  std::int64_t n;
  const double *V, *w;
  double *c, *total;
  bool again;

  template <class Team>
  IMMUCOND_DEVICE void operator()(const Team& team, int column, int, double* scratch) const {
    double sum = 0.0;
    IMMUCOND_UNROLL_BY(8)
    for (std::int64_t i = team.thread(); i < n; i += team.threads())
      sum = fma(V[column * n + i], w[i], sum);
    sum = team_sum(team, sum, scratch);
    if (team.thread() != 0) return;
    c[column] = sum;
    total[column] = again ? total[column] + sum : sum;
  }
};

/// w -= V c for the rows of one block, and the sum of their squares.
struct Subtract {
  std::int64_t n;
  int size;
  const double *V, *c;
  double *w, *squares;

  template <class Team>
  IMMUCOND_DEVICE void operator()(const Team& team, int block, int, double* scratch) const {
    const std::int64_t i = std::int64_t{block} * team.threads() + team.thread();
    double x = i < n ? w[i] : 0.0;
    IMMUCOND_UNROLL_BY(8)
    for (int j = 0; i < n && j < size; ++j) x = fma(-V[j * n + i], c[j], x);
    if (i < n) w[i] = x;
    const double sum = team_sum(team, x * x, scratch);
    if (team.thread() == 0) squares[block] = sum;
  }
};

/// v = w / ||w||, and the norm.
struct Append {
  std::int64_t n;
  const double *squares, *w;
  double *v, *norm;

  template <class Team>
  IMMUCOND_DEVICE void operator()(const Team& team, int block, int blocks, double*) const {
    double sum = 0.0;
    for (int b = 0; b < blocks; ++b) sum += squares[b];
    const double length = sqrt(sum);
    const std::int64_t i = std::int64_t{block} * team.threads() + team.thread();
    if (i < n) v[i] = length > 0.0 ? w[i] / length : 0.0;
    if (i == 0) *norm = length;
  }
};

/// The steps on a grid, which offers multiply(v, w), for w = A v, blocks(n), for a vector, and
/// run(blocks, body).
template <class Grid>
void lanczos_steps(Grid&& grid, std::int64_t n, double* V, int width, int first, int last,
                   double* T, int rows, double* work) {
  double *w = work, *c = work + n, *squares = c + rows;
  const int blocks = grid.blocks(n);
  for (int j = first; j < last; ++j) {
    const int size = j + width;
    double* column = T + std::int64_t{j} * rows;
    grid.multiply(V + j * n, w);
    for (const bool again : {false, true}) {
      grid.run(size, Project{n, V, w, c, column, again});
      grid.run(blocks, Subtract{n, size, V, c, w, squares});
    }
    grid.run(blocks, Append{n, squares, w, V + size * n, column + size});
  }
}

/// sum x_i^2 over the entries of one block, in double-double, and their largest magnitude (infinite
/// for NaN): out[3 block] and on.
struct Measure {
  std::int64_t count;
  const double* x;
  double* out;

  template <class Team>
  IMMUCOND_DEVICE void operator()(const Team& team, int block, int blocks, double* scratch) const {
    DoubleDouble sum;
    double largest = 0.0;
    const std::int64_t step = std::int64_t{blocks} * team.threads();
    for (std::int64_t i = std::int64_t{block} * team.threads() + team.thread(); i < count;
         i += step) {
      sum = sum + two_product(x[i], x[i]);
      largest = fmax(largest, isfinite(x[i]) ? fabs(x[i]) : static_cast<double>(INFINITY));
    }
    sum = warp_sum(team, sum);
    if (team.lane() == 0) {
      scratch[2 * team.warp()] = sum.hi;
      scratch[2 * team.warp() + 1] = sum.lo;
    }
    team.sync();
    sum = {};
    for (int w = 0; w < team.warps(); ++w)
      sum = sum + DoubleDouble{scratch[2 * w], scratch[2 * w + 1]};
    team.sync();
    largest = team_max(team, largest, scratch);
    if (team.thread() != 0) return;
    out[3 * block] = sum.hi;
    out[3 * block + 1] = sum.lo;
    out[3 * block + 2] = largest;
  }
};

}  // namespace immucond::cuda
