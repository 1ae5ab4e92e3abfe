#pragma once

#include <cstdint>

#include "small_problem.hpp"

namespace immucond::cuda {

/// How one block a matrix is launched: pure functions of sizes, tested without a card.
struct Launch {
  int blocks = 0, threads = 0;
  std::int64_t shared_bytes = 0;
};

/// Threads of a block that shares a vector with others, and how many blocks share one of n entries.
inline constexpr int kVectorThreads = 128;
int vector_blocks(std::int64_t n);

/// Blocks of kEntryThreads for so many entries, a thread each, or several where there are very
/// many.
inline constexpr int kEntryThreads = 256;
int entry_blocks(std::int64_t count);

/// Threads for matrices of order n: as many warps as there are rows to share, two to eight.
int small_threads(int n);

/// Bytes of shared memory for order n.
std::int64_t small_shared_bytes(int n);

/// The order of what is decomposed: of features the smaller side.
int small_order(Kind kind, int rows, int cols);

/// Whether one block should take a matrix: its order fits in `shared_limit` bytes of shared memory
/// a block, and a long side does not make one multiprocessor do what many could share.
bool is_small(Kind kind, int rows, int cols, std::int64_t shared_limit);

/// Bytes of workspace for a stack: the Gram matrices, for gradients by features.
std::int64_t small_workspace_bytes(Kind kind, std::int64_t count, int rows, int cols,
                                   bool gradient);

/// Throws std::length_error for a stack that no grid holds.
Launch small_launch(Kind kind, std::int64_t count, int rows, int cols);

}  // namespace immucond::cuda
