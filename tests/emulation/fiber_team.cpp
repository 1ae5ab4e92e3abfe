#include "fiber_team.hpp"

#include <ucontext.h>

#include <algorithm>
#include <array>
#include <exception>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace immucond::cuda {
namespace {

constexpr std::size_t kStackBytes = std::size_t{64} << 10;

struct Barrier {
  int arrived = 0;
  unsigned generation = 0;
};

/// What the lanes of a warp show each other: two sets in turn, so that one barrier is enough.
struct Slots {
  std::array<std::array<double, kWarp>, 2> a{}, b{};
  Barrier barrier;
};

struct Fiber {
  ucontext_t context{};
  std::unique_ptr<char[]> stack;
  unsigned exchanges = 0;
  bool done = false;
};

}  // namespace

class FiberTeam::Block {
 public:
  Block(int threads, unsigned seed, const std::function<void(const FiberTeam&)>& program)
      : threads_(threads),
        program_(program),
        generator_(seed),
        fibers_(static_cast<std::size_t>(threads)),
        warps_(static_cast<std::size_t>(threads / kWarp)) {}

  void run() {
    for (Fiber& fiber : fibers_) {
      fiber.stack = std::make_unique_for_overwrite<char[]>(kStackBytes);
      getcontext(&fiber.context);
      fiber.context.uc_stack.ss_sp = fiber.stack.get();
      fiber.context.uc_stack.ss_size = kStackBytes;
      fiber.context.uc_link = &scheduler_;
      const auto address = reinterpret_cast<std::uintptr_t>(this);
      makecontext(&fiber.context, reinterpret_cast<void (*)()>(&Block::enter), 2,
                  static_cast<unsigned>(address >> 32), static_cast<unsigned>(address));
    }
    std::vector<std::size_t> order(fibers_.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    while (std::any_of(fibers_.begin(), fibers_.end(), [](const Fiber& f) { return !f.done; })) {
      std::shuffle(order.begin(), order.end(), generator_);
      progress_ = false;
      for (const std::size_t at : order) {
        if (fibers_[at].done) continue;
        current_ = at;
        swapcontext(&scheduler_, &fibers_[at].context);
      }
      if (error_) std::rethrow_exception(error_);
      if (!progress_) throw std::logic_error("a barrier is not reached by all threads");
    }
  }

  void wait(Barrier& barrier, int expected) {
    progress_ = true;
    if (++barrier.arrived == expected) {
      barrier.arrived = 0;
      ++barrier.generation;
      return;
    }
    for (const unsigned before = barrier.generation; barrier.generation == before;) {
      const std::size_t self = current_;
      swapcontext(&fibers_[self].context, &scheduler_);
    }
    progress_ = true;
  }

  void sync() { wait(all_, threads_); }
  void sync_warp(int warp) { wait(warps_[static_cast<std::size_t>(warp)].barrier, kWarp); }

  /// Everybody's a and b, where all lanes have put theirs.
  std::pair<const std::array<double, kWarp>&, const std::array<double, kWarp>&> show(int thread,
                                                                                     double a,
                                                                                     double b) {
    Slots& slots = warps_[static_cast<std::size_t>(thread / kWarp)];
    const std::size_t set = fibers_[static_cast<std::size_t>(thread)].exchanges++ % 2;
    slots.a[set][static_cast<std::size_t>(thread % kWarp)] = a;
    slots.b[set][static_cast<std::size_t>(thread % kWarp)] = b;
    wait(slots.barrier, kWarp);
    return {slots.a[set], slots.b[set]};
  }

 private:
  static void enter(unsigned high, unsigned low) {
    auto* block = reinterpret_cast<Block*>((static_cast<std::uintptr_t>(high) << 32) | low);
    const std::size_t self = block->current_;
    try {
      block->program_(FiberTeam(block, static_cast<int>(self), block->threads_));
    } catch (...) {
      block->error_ = std::current_exception();
    }
    block->fibers_[self].done = true;
    block->progress_ = true;
  }

  int threads_;
  const std::function<void(const FiberTeam&)>& program_;
  std::mt19937 generator_;
  std::vector<Fiber> fibers_;
  std::vector<Slots> warps_;
  Barrier all_;
  ucontext_t scheduler_{};
  std::size_t current_ = 0;
  bool progress_ = false;
  std::exception_ptr error_;
};

void FiberTeam::sync() const { block_->sync(); }
void FiberTeam::sync_warp() const { block_->sync_warp(warp()); }

double FiberTeam::exchange(double x, int mask) const {
  return block_->show(thread_, x, 0.0).first[static_cast<std::size_t>(lane() ^ mask)];
}

double FiberTeam::broadcast(double x, int lane) const {
  return block_->show(thread_, x, 0.0).first[static_cast<std::size_t>(lane)];
}

void FiberTeam::multiply_add(double a, double b, Accumulator& c) const {
  const auto [left, right] = block_->show(thread_, a, b);
  const auto row = static_cast<std::size_t>(lane() / 4), col = static_cast<std::size_t>(lane() % 4);
  for (std::size_t k = 0; k < 4; ++k) {
    c.first = fma(left[4 * row + k], right[8 * col + k], c.first);
    c.second = fma(left[4 * row + k], right[8 * col + 4 + k], c.second);
  }
}

void run_block(int threads, unsigned seed, const std::function<void(const FiberTeam&)>& program) {
  if (threads < kWarp || threads % kWarp != 0)
    throw std::invalid_argument("threads must be a positive multiple of 32, and is " +
                                std::to_string(threads));
  FiberTeam::Block(threads, seed, program).run();
}

}  // namespace immucond::cuda
