#include "launch.hpp"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>

namespace immucond::cuda {
namespace {

/// Multiply-adds of a Gram matrix by one block: those of 4096 x 128 features.
constexpr double kMostProducts = 0x1p26;

constexpr std::int64_t kMostEntryBlocks = 1 << 14;

std::int64_t quotient_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

}  // namespace

int vector_blocks(std::int64_t n) { return static_cast<int>(quotient_up(n, kVectorThreads)); }

int entry_blocks(std::int64_t count) {
  return static_cast<int>(std::min(quotient_up(count, kEntryThreads), kMostEntryBlocks));
}

int small_threads(int n) { return kWarp * std::clamp((n + 7) / 8, 2, 8); }

std::int64_t small_shared_bytes(int n) {
  return std::int64_t{layout_of(n, small_threads(n) / kWarp).size} * sizeof(double);
}

int small_order(Kind kind, int rows, int cols) {
  return kind == Kind::features ? std::min(rows, cols) : cols;
}

bool is_small(Kind kind, int rows, int cols, std::int64_t shared_limit) {
  const int n = small_order(kind, rows, cols);
  const double products = static_cast<double>(rows) * static_cast<double>(cols) * n;
  return n >= 1 && n <= kLargestOrder && small_shared_bytes(n) <= shared_limit &&
         products <= kMostProducts;
}

std::int64_t small_workspace_bytes(Kind kind, std::int64_t count, int rows, int cols,
                                   bool gradient) {
  const std::int64_t n = small_order(kind, rows, cols);
  return kind == Kind::features && gradient
             ? count * n * n * static_cast<std::int64_t>(sizeof(double))
             : 0;
}

Launch small_launch(Kind kind, std::int64_t count, int rows, int cols) {
  if (count < 0 || count > std::numeric_limits<int>::max())
    throw std::length_error("a stack must have at most 2^31 - 1 matrices, and has " +
                            std::to_string(count));
  const int n = small_order(kind, rows, cols);
  return {static_cast<int>(count), small_threads(n), small_shared_bytes(n)};
}

}  // namespace immucond::cuda
