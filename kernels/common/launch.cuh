#pragma once
#include <cuda_runtime.h>

#include <cstddef>
#include <type_traits>

/// Launches and dynamic shared memory without words of CUDA's own, so that the kernels compile as
/// plain C++ too (tests/kernels/emulation).
namespace lram::kernels {

/// kernel<<<blocks, threads, shared_bytes, stream>>>(arguments...)
template <typename... Parameters>
void launch_kernel(void (*kernel)(Parameters...), dim3 blocks, dim3 threads,
                   std::size_t shared_bytes, cudaStream_t stream,
                   const std::type_identity_t<Parameters>&... arguments) {
  kernel<<<blocks, threads, shared_bytes, stream>>>(arguments...);
}

/// A kernel whose blocks may start before the kernel enqueued before it has ended: it calls
/// dependency_wait (ptx.cuh) before it reads what that one wrote. Not `early`: an ordinary launch,
/// for devices that run code built below sm_90, which does not wait.
template <typename... Parameters>
void launch_dependent_kernel(void (*kernel)(Parameters...), dim3 blocks, dim3 threads,
                             std::size_t shared_bytes, cudaStream_t stream, bool early,
                             const std::type_identity_t<Parameters>&... arguments) {
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = blocks, config.blockDim = threads, config.dynamicSmemBytes = shared_bytes;
  config.stream = stream, config.attrs = &attribute, config.numAttrs = early ? 1 : 0;
  cudaLaunchKernelEx(&config, kernel, arguments...);
}

/// The block's dynamic shared memory, aligned to 1024 bytes.
__device__ inline unsigned char* dynamic_shared() {
  extern __shared__ __align__(1024) unsigned char dynamic_shared_bytes[];
  return dynamic_shared_bytes;
}

}  // namespace lram::kernels
