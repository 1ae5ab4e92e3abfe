#include "immucond/blas_threads.hpp"

#include <dlfcn.h>
#include <pthread.h>

#include <array>
#include <condition_variable>
#include <mutex>
#include <new>

namespace immucond::blas {
namespace {

struct Control {
  void (*set)(int) = nullptr;
  int (*get)() = nullptr;
};

Control control;

/// The BLAS library stands behind SciPy's wrapper module: a look-up in that module's handle
/// searches the libraries it was linked to as well.
Control control_behind(void* routine) {
  Control found;
  Dl_info where{};
  if (dladdr(routine, &where) == 0) return found;
  void* handle = dlopen(where.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
  if (handle == nullptr) return found;
  constexpr std::array<std::array<const char*, 2>, 5> names{{
      {"scipy_openblas_set_num_threads", "scipy_openblas_get_num_threads"},
      {"scipy_openblas_set_num_threads64_", "scipy_openblas_get_num_threads64_"},
      {"openblas_set_num_threads", "openblas_get_num_threads"},
      {"openblas_set_num_threads64_", "openblas_get_num_threads64_"},
      {"MKL_Set_Num_Threads", "MKL_Get_Max_Threads"},
  }};
  for (const auto& [set, get] : names) {
    void* setter = dlsym(handle, set);
    void* getter = dlsym(handle, get);
    if (setter != nullptr && getter != nullptr) {
      found.set = reinterpret_cast<void (*)(int)>(setter);
      found.get = reinterpret_cast<int (*)()>(getter);
      break;
    }
  }
  dlclose(handle);
  return found;
}

std::mutex phase_mutex;
std::condition_variable phase_ended;
int small_phases = 0, large_phases = 0, single_calls = 0;
int threads_before = 0;
enum class Kind { none, small, large };
thread_local Kind current = Kind::none;

void enter(Kind kind) {
  std::unique_lock lock(phase_mutex);
  if (kind == Kind::small) {
    phase_ended.wait(lock, [] { return large_phases == 0; });
    if (small_phases++ == 0) {
      threads_before = control.get();
      if (threads_before != 1) control.set(1);
    }
  } else {
    phase_ended.wait(lock, [] { return small_phases == 0; });
    ++large_phases;
  }
  current = kind;
}

void leave() {
  {
    const std::lock_guard lock(phase_mutex);
    if (current == Kind::large) {
      --large_phases;
    } else if (--small_phases == 0 && threads_before != 1) {
      control.set(threads_before);
    }
  }
  current = Kind::none;
  phase_ended.notify_all();
}

// A fork in the middle of another thread's phase would leave the BLAS, and these counts, in a state
// that never ends in the child: it waits for the phases to end, and no new one starts before it is
// done. (Handlers run before those of the BLAS, which was loaded earlier.)
void before_fork() {
  std::unique_lock lock(phase_mutex);
  phase_ended.wait(lock, [] { return small_phases + large_phases + single_calls == 0; });
  lock.release();
}
void after_fork() { phase_mutex.unlock(); }
// Threads that waited for a phase are gone, and a condition that still counts them may wait for
// them.
void after_fork_in_child() {
  new (&phase_ended) std::condition_variable;
  phase_mutex.unlock();
}

}  // namespace

void find_thread_control(void* routine) {
  control = control_behind(routine);
  static const int registered = pthread_atfork(before_fork, after_fork, after_fork_in_child);
  static_cast<void>(registered);
}

int threads() { return control.get == nullptr ? 0 : control.get(); }

void set_threads(int count) {
  if (control.set == nullptr) return;
  const std::lock_guard lock(phase_mutex);
  if (small_phases > 0)
    threads_before = count;  // at the end of the last of them
  else
    control.set(count);
}

Phase::Phase(Work work, double flops) {
  if (current != Kind::none || control.set == nullptr) return;
  const bool small = flops < (work == Work::product ? kProductFlops : kReductionFlops);
  enter(small ? Kind::small : Kind::large);
  entered_ = true;
}

Phase::~Phase() {
  if (entered_) leave();
}

Intermission::Intermission() : small_(current == Kind::small), large_(current == Kind::large) {
  if (small_ || large_) leave();
}

Intermission::~Intermission() {
  if (small_ || large_) enter(small_ ? Kind::small : Kind::large);
}

SingleCall::SingleCall() : single_(current == Kind::none) {
  if (!single_) return;
  const std::lock_guard lock(phase_mutex);
  ++single_calls;
}

SingleCall::~SingleCall() {
  if (!single_) return;
  {
    const std::lock_guard lock(phase_mutex);
    --single_calls;
  }
  phase_ended.notify_all();
}

}  // namespace immucond::blas
