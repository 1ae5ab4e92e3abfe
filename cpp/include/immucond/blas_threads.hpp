#pragma once

/// The threads of the BLAS, of which there is one count a process: who may change it when, and what
/// a fork waits for.
namespace immucond::blas {

/// Finds the thread control of the BLAS library behind one of its routines, if it has one.
void find_thread_control(void* routine);

/// The BLAS's own thread count, or 0 where the BLAS offers no control of it.
int threads();
/// Sets it; nothing where there is no control.
void set_threads(int count);

/// Below so many flops (a few milliseconds) a phase runs on one thread: waking a pool costs more
/// than the work, and many times more where another library's idle threads still spin on the cores.
/// Reductions, half of whose work is bound by memory, gain later than products. Measured:
/// docs/theory/numerics.md.
enum class Work { product, reduction };
inline constexpr double kProductFlops = 2e8, kReductionFlops = 5e8;

/// Around a phase of BLAS calls. The BLAS's thread count is per process; so that a large phase in
/// one thread never sees it change (and its bits with it), small and large phases of different
/// threads wait for each other. A phase inside another of the same thread does nothing.
class Phase {
 public:
  Phase(Work work, double flops);
  ~Phase();
  Phase(const Phase&) = delete;
  Phase& operator=(const Phase&) = delete;

 private:
  bool entered_ = false;
};

/// Leaves this thread's phase for as long as it lives. So must whatever waits for another thread,
/// and so for the GIL: a fork holds it, and waits for all phases to end.
class Intermission {
 public:
  Intermission();
  ~Intermission();
  Intermission(const Intermission&) = delete;
  Intermission& operator=(const Intermission&) = delete;

 private:
  bool small_, large_;
};

/// Around a call outside any phase: a fork waits for it too, since the BLAS may hold a lock of its
/// own that nobody would release in the child.
class SingleCall {
 public:
  SingleCall();
  ~SingleCall();
  SingleCall(const SingleCall&) = delete;
  SingleCall& operator=(const SingleCall&) = delete;

 private:
  bool single_;
};

}  // namespace immucond::blas
