#include "immucond/operator.hpp"

#include <algorithm>

namespace immucond {

void GramOperator::apply(const double* x, double* y) const {
  std::copy_n(x, n_, y);
  lapack::trmv('N', n_, r_, n_, y);
  lapack::trmv('T', n_, r_, n_, y);
}

void InverseGramOperator::apply(const double* x, double* y) const {
  std::copy_n(x, n_, y);
  lapack::trsv('T', n_, r_, n_, y);
  lapack::trsv('N', n_, r_, n_, y);
}

}  // namespace immucond
