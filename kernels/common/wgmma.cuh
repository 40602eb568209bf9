#pragma once
#include <cstdint>

#include "kernels/common/ptx.cuh"
#include "kernels/common/wgmma_ptx.cuh"

/// wgmma of one warpgroup: D[64, N] (+)= A[64, 16] B[16, N], bf16 in, float32 out, for tiles that
/// the copy engine laid down with its 128-byte swizzle. Both operands' tiles are rows of 64
/// elements (128 bytes), eight rows to a swizzle atom of 1024 bytes, aligned to 1024.
///
/// An operand is K-major if its rows run along the summed dimension (Q and K in Q K^T), MN-major if
/// they run along M or N (V in P V). D's layout: warp w, lane l holds rows 16 w + l / 4 (+ 8) and
/// columns 8 j + 2 (l % 4) (+ 1): d[4 j + 2 r + c] is row + 8 r, column + c. wgmma_test_sm90.cu
/// holds every layout against plain sums.
namespace lram::kernels {

/// Descriptor of an operand tile at `tile` (shared). K-major: 64 of the summed dimension to a row,
/// M or N rows; step k of 16 is `+ 32 * k` bytes. MN-major: 64 of M or N to a row, one row per
/// summed index; step k is `+ 2048 * k` bytes; where N > 64, the next 64 lie `next_64` bytes on.
__device__ inline std::uint64_t wgmma_descriptor(std::uint32_t tile, std::uint32_t next_64 = 0) {
  return (static_cast<std::uint64_t>(1) << 62) |                      // 128-byte swizzle
         (static_cast<std::uint64_t>(1024 >> 4) << 32) |              // next 8 rows
         (static_cast<std::uint64_t>((next_64 >> 4) & 0x3fff) << 16)  // MN-major: next 64 columns
         | ((tile >> 4) & 0x3fff);
}

template <Major kMajor>
__device__ inline std::uint32_t wgmma_k_step(int k) {
  return static_cast<std::uint32_t>(k) * (kMajor == Major::kK ? 32u : 2048u);
}

/// Byte offset of element (row, column) in such a tile.
__device__ inline std::uint32_t swizzle_128(std::uint32_t row, std::uint32_t column) {
  return row * 128u + ((((column >> 3) ^ row) & 7u) << 4) + (column & 7u) * 2u;
}

/// Call before and after a batch of wgmma on d: pins its registers.
template <int kCount>
__device__ inline void keep_all(float (&d)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) keep(d[i]);
}

}  // namespace lram::kernels
