#pragma once

#include <cmath>

#ifdef __CUDACC__
#define IMMUCOND_EVERYWHERE __host__ __device__ inline
#else
#define IMMUCOND_EVERYWHERE inline
#endif

namespace immucond {

/// A spectral regularizer r(sigma_1, sigma_k, F) at one spectrum: its value, and the coefficients
/// of
///
///     grad_S r = alpha u_1 v_1^T + beta u_k v_k^T + gamma S,
///
/// in the spectrum's own units.
struct Coefficients {
  double value, alpha, beta, gamma;
};

/// What a regularizer sees of a spectrum: p sigma_1^2 - F and F - k sigma_k^2 come without
/// cancellation.
struct SpectrumEnds {
  double p, rank, sigma_max, sigma_min, below_max, above_min;
};

/// The regularizers that come with the library. A host or a device can evaluate them: no state, no
/// allocation, no exception.
enum class BuiltIn : int { r_well, r_ill, kappa, log_kappa };

/// Infinite where r is, and where a coefficient overflows.
IMMUCOND_EVERYWHERE Coefficients coefficients(BuiltIn regularizer, const SpectrumEnds& s) {
  switch (regularizer) {
    case BuiltIn::r_well:
      return {s.below_max / (2 * s.p), s.sigma_max, 0.0, -1.0 / s.p};
    case BuiltIn::r_ill: {
      const double excess = s.above_min / (2 * s.rank), square = excess * excess;
      return {1.0 / excess, 0.0, s.sigma_min / square, -1.0 / (s.rank * square)};
    }
    case BuiltIn::kappa: {
      const double ratio = s.sigma_max / s.sigma_min;
      return {ratio, 1.0 / s.sigma_min, -ratio / s.sigma_min, 0.0};
    }
    case BuiltIn::log_kappa:
      break;
  }
  const double value = std::log1p((s.sigma_max - s.sigma_min) / s.sigma_min);
  return {value, 1.0 / s.sigma_max, -1.0 / s.sigma_min, 0.0};
}

}  // namespace immucond
