#pragma once
#include <cuda_runtime_api.h>

namespace lram::kernels {

/// Throws Error(kResource) with the call and CUDA's own words unless `status` is success.
void check_cuda(cudaError_t status, const char* call, const char* file, int line);

}  // namespace lram::kernels

/// Around every CUDA call: LRAM_CUDA_CHECK(cudaMemsetAsync(p, 0, n, stream));
#define LRAM_CUDA_CHECK(call) ::lram::kernels::check_cuda((call), #call, __FILE__, __LINE__)
/// After a launch: throws what the launch itself reports; never synchronises.
#define LRAM_CUDA_CHECK_LAUNCH(name) \
  ::lram::kernels::check_cuda(cudaPeekAtLastError(), "launch of " name, __FILE__, __LINE__)
