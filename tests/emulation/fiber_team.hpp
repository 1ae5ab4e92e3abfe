#pragma once

#include <functional>
#include <memory>

#include "team.hpp"

namespace immucond::cuda {

/// A block of threads as fibers of one host thread, for testing device algorithms without a card.
/// Between two barriers the fibers run one after the other in an order drawn anew each time: what
/// depends on the order (a missing barrier, two writers) shows as results that differ with the
/// seed. A barrier that not all threads reach is an error, not a hang.
class FiberTeam {
 public:
  class Block;
  FiberTeam(Block* block, int thread, int threads)
      : block_(block), thread_(thread), threads_(threads) {}

  int thread() const { return thread_; }
  int threads() const { return threads_; }
  int lane() const { return thread_ % kWarp; }
  int warp() const { return thread_ / kWarp; }
  int warps() const { return threads_ / kWarp; }

  void sync() const;
  void sync_warp() const;
  double exchange(double x, int mask) const;
  double broadcast(double x, int lane) const;
  void multiply_add(double a, double b, Accumulator& c) const;

 private:
  Block* block_;
  int thread_, threads_;
};

/// Runs the program on every thread of a block. Throws std::logic_error at a deadlock.
void run_block(int threads, unsigned seed, const std::function<void(const FiberTeam&)>& program);

}  // namespace immucond::cuda
