#include "immucond/decomposition.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "immucond/compensated.hpp"

namespace immucond {

Given with_floor(Given given, const double* entries, Index count) {
  given.floor = given.rule.rounded > 0.0
                    ? matrix_floor(given.rule, sum_of_squares(entries, count).value())
                    : 0.0;
  return given;
}

std::vector<double> directions(const std::vector<std::span<const double>>& vectors) {
  std::vector<double> columns;
  for (const std::span<const double> vector : vectors) {
    double largest = 0.0;
    for (const double x : vector) {
      if (!std::isfinite(x))
        throw std::invalid_argument("start must hold finite real vectors, and holds " + format(x));
      largest = std::max(largest, std::fabs(x));
    }
    int exponent = 0;
    std::frexp(largest, &exponent);
    for (const double x : vector) columns.push_back(std::ldexp(x, -exponent));
  }
  return columns;
}

void fix_signs(std::vector<double>& a, Index rows, std::vector<double>* partner,
               Index partner_rows) {
  const Index columns = static_cast<Index>(a.size()) / rows;
  for (Index j = 0; j < columns; ++j) {
    double* column = a.data() + j * rows;
    const double* largest = std::max_element(
        column, column + rows, [](double x, double y) { return std::fabs(x) < std::fabs(y); });
    if (*largest >= 0.0) continue;
    for (Index i = 0; i < rows; ++i) column[i] = -column[i];
    if (partner != nullptr)
      for (Index i = 0; i < partner_rows; ++i) (*partner)[size(i + j * partner_rows)] *= -1.0;
  }
}

double reduction_flops(Index rows, Index cols) {
  return 4.0 / 3.0 * static_cast<double>(rows) * static_cast<double>(cols) *
         static_cast<double>(cols);
}

void throw_rank_zero(const char* name) {
  throw std::invalid_argument(std::string(name) +
                              " has rank 0 (every singular value is zero): it has no condition "
                              "number and no extreme pairs");
}

}  // namespace immucond
