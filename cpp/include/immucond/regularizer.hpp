#pragma once

#include <functional>
#include <string>

#include "immucond/extreme.hpp"
#include "immucond/spectrum.hpp"

namespace immucond {

/// A spectral regularizer as its coefficients at a spectrum. It is homogeneous:
/// r(c S) = c^degree r(S).
using Regularizer = std::function<Coefficients(const Spectrum&)>;

/// One of the library's own by its name, and the name.
BuiltIn built_in(const std::string& name);
const char* name_of(BuiltIn regularizer);

/// `coefficients`, or DegenerateSpectrum where R_ill is infinite.
Coefficients checked_coefficients(BuiltIn regularizer, const Spectrum& spectrum);

struct Request {
  Given given;
  int degree = 0;
  Index p = kAllValues;         // how many singular values R_well counts, as `counted` reads it
  bool preconditioned = false;  // by theta: 2 theta G instead of 2 K theta G
  double* gradient =
      nullptr;  // row-major, shaped as the argument differentiated by; null: value only
  ExtremePairs* pairs = nullptr;
};

struct Evaluation {
  double value;
  bool tied;        // an end that the gradient uses is not simple: its tied group's mean stands in
  bool determined;  // sigma_k is above the method's noise, or not used
  Index rank;
};

/// By S (general).
Evaluation evaluate(const Regularizer& r, const MatrixView& S, const Request& request);

/// By theta (d x m) through H = theta^T K theta: the gradient is 2 K theta G with G = grad_H r, or
/// preconditioned by K^-1, which takes no inverse, 2 theta G.
Evaluation evaluate_theta(const Regularizer& r, const MatrixView& theta, const MatrixView& K,
                          const Request& request);

/// By Z (N x m) through H = Z^T Z: the gradient is 2 Z G. For N < m all is done with Z Z^T
/// (N x N): 2 Z G = 2 G' Z with the same coefficients.
Evaluation evaluate_features(const Regularizer& r, const MatrixView& Z, const Request& request);

}  // namespace immucond
