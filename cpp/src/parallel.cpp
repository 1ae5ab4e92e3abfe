#include "immucond/parallel.hpp"

#include <algorithm>
#include <atomic>
#include <exception>
#include <thread>
#include <vector>

#include "immucond/blas_threads.hpp"

namespace immucond {

void parallel_for(Index count, const std::function<void(Index)>& work) {
  std::vector<std::exception_ptr> thrown(size(count));
  std::atomic<Index> next{0};
  // Without control of the BLAS's threads (0) it may use them all: then one problem at a time.
  const Index threads = std::clamp<Index>(blas::threads(), 1, count);
  const auto worker = [&] {
    const blas::Phase small(blas::Work::product, 0.0);
    for (Index i = next++; i < count; i = next++) {
      try {
        work(i);
      } catch (...) {
        thrown[size(i)] = std::current_exception();
      }
    }
  };
  {
    std::vector<std::jthread> others;
    for (Index i = 1; i < threads; ++i) others.emplace_back(worker);
    worker();
  }
  for (const std::exception_ptr& exception : thrown)
    if (exception) std::rethrow_exception(exception);
}

}  // namespace immucond
