#include "kernels/common/tma.h"

#include <cudaTypedefs.h>

#include "kernels/common/cuda_check.h"
#include "lram/core/error.h"

namespace lram::kernels {
namespace {

PFN_cuTensorMapEncodeTiled_v12000 encode_tiled() {
  static const auto function = [] {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result{};
    LRAM_CUDA_CHECK(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000,
                                                     cudaEnableDefault, &result));
    if (result != cudaDriverEntryPointSuccess || found == nullptr) {
      throw_error(ErrorKind::kResource,
                  "the driver has no cuTensorMapEncodeTiled, wanted one of CUDA 12.0 or later");
    }
    return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(found);
  }();
  return function;
}

}  // namespace

CUtensorMap bf16_tensor_map(const void* data, int rank, const std::uint64_t* sizes,
                            const std::uint64_t* stride_bytes, const std::uint32_t* box) {
  CUtensorMap map;
  const std::uint32_t element_strides[5] = {1, 1, 1, 1, 1};
  const CUresult status =
      encode_tiled()(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, static_cast<std::uint32_t>(rank),
                     const_cast<void*>(data), sizes, stride_bytes, box, element_strides,
                     CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                     CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS) {
    throw_error(ErrorKind::kInternal, "cuTensorMapEncodeTiled refused a map: error {}",
                static_cast<int>(status));
  }
  return map;
}

CUtensorMap head_tensor_map(const void* data, int dim, int heads, int tokens, int batch,
                            std::int64_t stride_h, std::int64_t stride_t, std::int64_t stride_b,
                            int box_tokens) {
  const auto size = [](int n) { return static_cast<std::uint64_t>(n); };
  // The stride of a dimension of one is never used, but the driver wants a valid one.
  const auto bytes = [&](std::int64_t stride, int n) {
    return static_cast<std::uint64_t>(2 * (n > 1 ? stride : (dim + 7) / 8 * 8));
  };
  const std::uint64_t sizes[4] = {size(dim), size(heads), size(tokens), size(batch)};
  const std::uint64_t strides[3] = {bytes(stride_h, heads), bytes(stride_t, tokens),
                                    bytes(stride_b, batch)};
  const std::uint32_t box[4] = {64, 1, static_cast<std::uint32_t>(box_tokens), 1};
  return bf16_tensor_map(data, 4, sizes, strides, box);
}

}  // namespace lram::kernels
