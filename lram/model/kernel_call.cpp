#include "lram/model/kernel_call.h"

#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace lram::model {
namespace {
std::atomic<KernelUse> use_now = KernelUse::kWhereQuicker;
}

KernelUse set_kernel_use(KernelUse use) { return use_now.exchange(use); }
KernelUse kernel_use() { return use_now; }

#ifdef LRAM_HAVE_KERNELS
using torch::Tensor;

bool kernels_take(const Tensor& x) {
  return use_now != KernelUse::kNever && x.is_cuda() && x.numel() > 0 &&
         (x.scalar_type() == torch::kBFloat16 || x.scalar_type() == torch::kFloat);
}

cudaStream_t current_stream(const Tensor& x) {
  // Not through c10/cuda, whose headers want the toolkit's.
  const c10::impl::VirtualGuardImpl cuda(torch::kCUDA);
  return static_cast<cudaStream_t>(cuda.getStreamNativeHandle(cuda.getStream(x.device())));
}

Tensor fitting(const Tensor& x) {
  const std::int64_t unit = 16 / x.element_size();
  bool fits = x.stride(3) == 1 && reinterpret_cast<std::uintptr_t>(x.const_data_ptr()) % 16 == 0;
  for (std::int64_t dim = 0; dim < 3; ++dim)
    fits = fits && (x.size(dim) == 1 || (x.stride(dim) > 0 && x.stride(dim) % unit == 0));
  return fits ? x : x.clone(at::MemoryFormat::Contiguous);
}

kernels::DType kernel_dtype(const Tensor& x) {
  return x.scalar_type() == torch::kBFloat16 ? kernels::DType::kBFloat16 : kernels::DType::kFloat32;
}

// The kernels' structs hold inputs and outputs alike, so they know no const.
kernels::HeadTensor head_view(const Tensor& x) {
  if (!x.defined()) return {};
  return {const_cast<void*>(x.const_data_ptr()), x.stride(0), x.stride(1), x.stride(2)};
}

kernels::GateTensor gate_view(const Tensor& x) {
  if (!x.defined()) return {};
  return {const_cast<float*>(x.const_data_ptr<float>()), x.stride(0), x.stride(1), x.stride(2)};
}

float* floats(const Tensor& x) {
  return x.defined() ? const_cast<float*>(x.const_data_ptr<float>()) : nullptr;
}

Tensor device_bytes(std::size_t count, const Tensor& x) {
  // An empty tensor has no address, which would mean an absent one.
  const auto size = static_cast<std::int64_t>(std::max<std::size_t>(count, 1));
  return at::empty({size}, x.options().dtype(torch::kUInt8));
}
#else
bool kernels_take(const torch::Tensor&) { return false; }
#endif

}  // namespace lram::model
