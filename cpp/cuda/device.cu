#include <map>
#include <mutex>

#include "device.hpp"

namespace immucond::cuda {
namespace {

std::int64_t attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, device), "cudaDeviceGetAttribute");
  return value;
}

}  // namespace

void check(int code, const char* what) {
  if (code == cudaSuccess) return;
  const auto error = static_cast<cudaError_t>(code);
  throw CudaError(std::string(what) + ": " + cudaGetErrorString(error) + " (" +
                  cudaGetErrorName(error) + ")");
}

std::vector<Device> devices() {
  int count = 0;
  check(cudaGetDeviceCount(&count), "cudaGetDeviceCount");
  std::vector<Device> found;
  for (int device = 0; device < count; ++device) {
    cudaDeviceProp properties{};
    check(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
    found.push_back({properties.name, properties.major, properties.minor,
                     properties.multiProcessorCount,
                     static_cast<std::int64_t>(properties.totalGlobalMem),
                     static_cast<std::int64_t>(properties.sharedMemPerBlockOptin)});
  }
  return found;
}

std::int64_t shared_limit(int device) {
  static std::mutex mutex;
  static std::map<int, std::int64_t> limits;
  const std::lock_guard lock(mutex);
  const auto found = limits.find(device);
  if (found != limits.end()) return found->second;
  return limits[device] = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
}

int runtime_version() {
  int version = 0;
  check(cudaRuntimeGetVersion(&version), "cudaRuntimeGetVersion");
  return version;
}

int driver_version() {
  int version = 0;
  return cudaDriverGetVersion(&version) == cudaSuccess ? version : 0;
}

int current_device() {
  int device = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  return device;
}

Current::Current(int device) : before_(current_device()) {
  if (before_ != device) check(cudaSetDevice(device), "cudaSetDevice");
}

Current::~Current() { cudaSetDevice(before_); }

}  // namespace immucond::cuda
