#pragma once
#include <type_traits>

#include "tests/kernels/emulation/machine.h"

/// Host version of kernels/common/launch.cuh: the kernel runs before the call returns.
namespace lram::kernels {

template <typename... Parameters>
void launch_kernel(void (*kernel)(Parameters...), dim3 blocks, dim3 threads,
                   std::size_t shared_bytes, cudaStream_t,
                   const std::type_identity_t<Parameters>&... arguments) {
  emulation::run(blocks, threads, shared_bytes, [&] { kernel(arguments...); });
}

template <typename... Parameters>
void launch_dependent_kernel(void (*kernel)(Parameters...), dim3 blocks, dim3 threads,
                             std::size_t shared_bytes, cudaStream_t stream, bool /*early*/,
                             const std::type_identity_t<Parameters>&... arguments) {
  launch_kernel(kernel, blocks, threads, shared_bytes, stream, arguments...);
}

inline unsigned char* dynamic_shared() { return emulation::shared_memory(); }

}  // namespace lram::kernels
