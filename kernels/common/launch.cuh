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

/// The block's dynamic shared memory, aligned to 1024 bytes.
__device__ inline unsigned char* dynamic_shared() {
  extern __shared__ __align__(1024) unsigned char dynamic_shared_bytes[];
  return dynamic_shared_bytes;
}

}  // namespace lram::kernels
