#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace immucond::cuda {

/// A call of the CUDA runtime failed.
struct CudaError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Throws CudaError, saying what failed, where `code` (a cudaError_t) is not success.
void check(int code, const char* what);

struct Device {
  std::string name;
  int major, minor, multiprocessors;
  std::int64_t memory_bytes, shared_bytes;  // shared memory a block may ask for
};

/// What the machine has. Throws CudaError where there is no driver, or no device.
std::vector<Device> devices();

/// Shared memory that a block may ask for, in bytes; asked once a device.
std::int64_t shared_limit(int device);

/// The device that is current in this thread.
int current_device();

/// Runtime and driver, as major * 1000 + minor * 10; 0 for a driver that is not there.
int runtime_version();
int driver_version();

/// Makes a device current, and the one before again at the end.
class Current {
 public:
  explicit Current(int device);
  ~Current();
  Current(const Current&) = delete;
  Current& operator=(const Current&) = delete;

 private:
  int before_ = 0;
};

}  // namespace immucond::cuda
