#include "arguments.hpp"

#include <span>
#include <utility>

namespace immucond::bindings {
namespace {

Dtype dtype_of(const py::array& array, const char* name) {
  const py::dtype dtype = array.dtype();
  const auto size = dtype.itemsize();
  if (py::cast<bool>(dtype.attr("isnative"))) {
    switch (dtype.kind()) {
      case 'b':
        return Dtype::boolean;
      case 'f':
        if (size == 2) return Dtype::f16;
        if (size == 4) return Dtype::f32;
        if (size == 8) return Dtype::f64;
        break;
      case 'i':
        return size == 1 ? Dtype::i8 : size == 2 ? Dtype::i16 : size == 4 ? Dtype::i32 : Dtype::i64;
      case 'u':
        return size == 1 ? Dtype::u8 : size == 2 ? Dtype::u16 : size == 4 ? Dtype::u32 : Dtype::u64;
      default:
        break;
    }
  }
  throw py::type_error(std::string(name) +
                       " must hold float16, float32, float64, integers or bools "
                       "in native byte order, and has dtype " +
                       std::string(py::str(dtype)));
}

Method method_of(const std::string& method) {
  return method == "direct"    ? Method::direct
         : method == "lanczos" ? Method::lanczos
         : method == "jacobi"  ? Method::jacobi
         : method == "gram"    ? Method::gram
         : method == "qr"      ? Method::qr
                               : Method::automatic;
}

}  // namespace

MatrixView view_of(const py::array& array, const char* name) {
  if (array.ndim() != 2 || array.size() == 0) {
    const std::string shape = py::str(array.attr("shape"));
    throw py::value_error(std::string(name) +
                          " must be a matrix with at least one entry, and has shape " + shape);
  }
  return {array.data(),
          dtype_of(array, name),
          array.shape(0),
          array.shape(1),
          array.strides(0),
          array.strides(1),
          name};
}

void require_size(bool matches, const MatrixView& a, const MatrixView& b, const char* needed) {
  if (matches) return;
  const auto shape = [](const MatrixView& v) {
    return std::string(v.name) + " has shape (" + std::to_string(v.rows) + ", " +
           std::to_string(v.cols) + ")";
  };
  throw py::value_error(shape(a) + " and " + shape(b) + ": " + needed);
}

Matrices::Matrices(const py::array& array, const std::string& name) : stacked_(array.ndim() == 3) {
  names_.push_back(name);
  if (!stacked_ || array.size() == 0) {
    views_.push_back(view_of(array, names_.front().c_str()));
    return;
  }
  const Dtype dtype = dtype_of(array, name.c_str());
  const auto count = static_cast<std::size_t>(array.shape(0));
  names_.resize(count);
  for (std::size_t i = 0; i < count; ++i) {
    const auto at = static_cast<Index>(i);
    names_[i] = name + "[" + std::to_string(i) + "]";
    views_.push_back({static_cast<const char*>(array.data()) + at * array.strides(0), dtype,
                      array.shape(1), array.shape(2), array.strides(1), array.strides(2),
                      names_[i].c_str()});
  }
}

py::array_t<double> vector(std::vector<double> values) {
  auto* owned = new std::vector<double>(std::move(values));
  const py::capsule owner(owned, [](void* p) { delete static_cast<std::vector<double>*>(p); });
  return py::array_t<double>(static_cast<py::ssize_t>(owned->size()), owned->data(), owner);
}

Rule rule_of(const RuleTuple& rule) {
  const auto& [rank, rtol, precision, rounded] = rule;
  return {rank, rtol, precision, rounded};
}

std::vector<double> directions_of(const Columns& columns) {
  std::vector<std::span<const double>> vectors;
  for (const auto& column : columns)
    vectors.emplace_back(column.data(), static_cast<std::size_t>(column.size()));
  return directions(vectors);
}

Wanted::Wanted(const RuleTuple& rule, const Search& search) {
  const auto& [method, tol, max, min, ratio, gap] = search;
  start_ = {directions_of(max), directions_of(min), ratio, gap};
  given_ = {.rule = rule_of(rule),
            .tol = tol,
            .method = method_of(method),
            .start = start_.max.empty() || start_.min.empty() ? nullptr : &start_};
}

}  // namespace immucond::bindings
