#pragma once
#include <string_view>

namespace lram::kernels {

/// What a launcher asks about the current device; read once per device and process.
struct DeviceInfo {
  int index = 0;
  int compute_capability = 0;  ///< 90 for 9.0
  int multiprocessors = 0;
  int max_shared_bytes = 0;  ///< per block, after opting in
  int l2_bytes = 0;
};
/// Throws Error(kResource) where there is no CUDA device.
const DeviceInfo& current_device();
bool has_device();  ///< false without a driver or a GPU; throws nothing

enum class KernelPath : unsigned char { kAuto, kSm90, kPortable };

/// The path a launcher takes: `wanted`, else LRAM_KERNEL_PATH (sm90 or portable), else sm90 on
/// compute capability 9.0 and portable elsewhere. Throws Error(kUsage) for a path that the device
/// cannot run and for another word in the variable.
KernelPath resolve_path(KernelPath wanted);

/// Throws Error(kUsage) that names the argument unless `pointer` is memory of the current device.
void check_device_pointer(const void* pointer, std::string_view argument);

}  // namespace lram::kernels
