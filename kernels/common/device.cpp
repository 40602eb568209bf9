#include "kernels/common/device.h"

#include <cstdlib>
#include <mutex>
#include <string>
#include <vector>

#include "kernels/common/cuda_check.h"
#include "lram/core/error.h"

namespace lram::kernels {

void check_cuda(cudaError_t status, const char* call, const char* file, int line) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // an error that is no longer sticky must not surface in a later call
  throw_error(ErrorKind::kResource, "{}:{}: {} failed: {} ({})", file, line, call,
              cudaGetErrorString(status), cudaGetErrorName(status));
}

bool has_device() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    cudaGetLastError();
    return false;
  }
  return count > 0;
}

const DeviceInfo& current_device() {
  static std::mutex mutex;
  static std::vector<DeviceInfo> known(64);
  int index = 0;
  LRAM_CUDA_CHECK(cudaGetDevice(&index));
  const std::lock_guard lock(mutex);
  DeviceInfo& info = known.at(static_cast<std::size_t>(index));
  if (info.compute_capability == 0) {
    const auto read = [&](cudaDeviceAttr attribute) {
      int value = 0;
      LRAM_CUDA_CHECK(cudaDeviceGetAttribute(&value, attribute, index));
      return value;
    };
    info.index = index;
    info.multiprocessors = read(cudaDevAttrMultiProcessorCount);
    info.max_shared_bytes = read(cudaDevAttrMaxSharedMemoryPerBlockOptin);
    info.l2_bytes = read(cudaDevAttrL2CacheSize);
    info.compute_capability =
        10 * read(cudaDevAttrComputeCapabilityMajor) + read(cudaDevAttrComputeCapabilityMinor);
  }
  return info;
}

KernelPath resolve_path(KernelPath wanted) {
  const int capability = current_device().compute_capability;
  if (wanted == KernelPath::kAuto) {
    const char* variable = std::getenv("LRAM_KERNEL_PATH");
    const std::string word = variable != nullptr ? variable : "";
    LRAM_CHECK(word.empty() || word == "sm90" || word == "portable", "LRAM_KERNEL_PATH is '", word,
               "', wanted sm90 or portable");
    wanted = word == "sm90"       ? KernelPath::kSm90
             : word == "portable" ? KernelPath::kPortable
             : capability == 90   ? KernelPath::kSm90
                                  : KernelPath::kPortable;
  }
  LRAM_CHECK(wanted != KernelPath::kSm90 || capability == 90,
             "path sm90 wants compute capability 9.0, the device has ", capability / 10, ".",
             capability % 10);
  LRAM_CHECK(capability >= 80, "the device has compute capability ", capability / 10, ".",
             capability % 10, ", wanted 8.0 or later");
  return wanted;
}

void check_device_pointer(const void* pointer, std::string_view argument) {
  LRAM_CHECK(pointer != nullptr, argument, " is null, wanted device memory");
  cudaPointerAttributes attributes{};
  LRAM_CUDA_CHECK(cudaPointerGetAttributes(&attributes, pointer));
  const bool on_device =
      attributes.type == cudaMemoryTypeDevice || attributes.type == cudaMemoryTypeManaged;
  LRAM_CHECK(on_device, argument, " is host memory, wanted memory of CUDA device ",
             current_device().index);
  LRAM_CHECK(attributes.device == current_device().index, argument, " lies on CUDA device ",
             attributes.device, ", wanted the current one, ", current_device().index);
}

}  // namespace lram::kernels
