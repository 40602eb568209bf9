#pragma once
#include <cuda.h>

#include <cstdint>

namespace lram::kernels {

/// A bf16 tensor for the copy engine, sizes innermost first (d, H, T, B), strides of H, T, B in
/// elements. Boxes are 64 of d (128 bytes, swizzled) by `box_tokens`; what lies outside the sizes
/// reads as zero and is not written. `box_tokens` at most 256. Pass the map to a kernel by value,
/// as a `const __grid_constant__` parameter. The driver is found at run time: no libcuda is linked.
CUtensorMap head_tensor_map(const void* data, int dim, int heads, int tokens, int batch,
                            std::int64_t stride_h, std::int64_t stride_t, std::int64_t stride_b,
                            int box_tokens);

/// The general form: `rank` 1 to 5, strides in bytes (none for the innermost), 128-byte swizzle.
CUtensorMap bf16_tensor_map(const void* data, int rank, const std::uint64_t* sizes,
                            const std::uint64_t* stride_bytes, const std::uint32_t* box);

}  // namespace lram::kernels
