// Each wgmma layout of wgmma.cuh on one warpgroup, tiles brought by the copy engine.
#include <cuda_bf16.h>

#include "kernels/common/cuda_check.h"
#include "kernels/common/launch.cuh"
#include "kernels/common/tma.h"
#include "kernels/common/wgmma.cuh"
#include "kernels/common/wgmma_test.h"

namespace lram::kernels {
namespace {

// A is [64, 64] or its transpose in memory, B [kN, 64] (K-major) or [64, kN] (MN-major, as tiles of
// 64 columns).
template <int kN, Major kMajorA, Major kMajorB, bool kRegisters>
__global__ void __launch_bounds__(128)
    product(const __grid_constant__ CUtensorMap map_a, const __grid_constant__ CUtensorMap map_b,
            float* out) {
  unsigned char* const shared = dynamic_shared();
  constexpr std::uint32_t kTileBytes = 64 * 128;
  constexpr int kTilesB = (kN + 63) / 64;
  __shared__ std::uint64_t barrier;
  unsigned char* a = shared;
  unsigned char* b = shared + kTileBytes;
  if (threadIdx.x == 0) {
    mbarrier_init(&barrier, 1);
    fence_barrier_init();
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    mbarrier_arrive_expect(&barrier, kTileBytes * (1 + kTilesB));
    tma_load_4d(a, &map_a, &barrier, 0, 0, 0, 0);
    for (int tile = 0; tile < kTilesB; ++tile) {
      if (kMajorB == Major::kK) {
        tma_load_4d(b + tile * kTileBytes, &map_b, &barrier, 0, 0, 64 * tile, 0);
      } else {
        tma_load_4d(b + tile * kTileBytes, &map_b, &barrier, 64 * tile, 0, 0, 0);
      }
    }
  }
  mbarrier_wait(&barrier, 0);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  float d[kN / 2];
  keep_all(d);
  wgmma_fence();
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const std::uint64_t b_tile =
        wgmma_descriptor(shared_address(b) + wgmma_k_step<kMajorB>(k), kTileBytes);
    if constexpr (kRegisters) {
      std::uint32_t fragment[4];
      for (int j = 0; j < 4; ++j) {
        const int row = 16 * warp + lane / 4 + 8 * (j % 2);
        const int column = 16 * k + 2 * (lane % 4) + 8 * (j / 2);
        fragment[j] = *reinterpret_cast<std::uint32_t*>(a + swizzle_128(row, column));
      }
      wgmma_rs<kN, kMajorB>(d, fragment, b_tile, k > 0);
    } else {
      wgmma_ss<kN, kMajorA, kMajorB>(
          d, wgmma_descriptor(shared_address(a) + wgmma_k_step<kMajorA>(k)), b_tile, k > 0);
    }
  }
  wgmma_commit();
  wgmma_wait<0>();
  keep_all(d);
  for (int j = 0; j < kN / 8; ++j) {
    for (int r = 0; r < 2; ++r) {
      for (int c = 0; c < 2; ++c) {
        out[(16 * warp + lane / 4 + 8 * r) * kN + 8 * j + 2 * (lane % 4) + c] =
            d[4 * j + 2 * r + c];
      }
    }
  }
}

template <int kN, Major kMajorA, Major kMajorB, bool kRegisters>
void launch(const void* a, const void* b, float* out) {
  const CUtensorMap map_a = head_tensor_map(a, 64, 1, 64, 1, 64, 64, 64 * 64, 64);
  constexpr bool kRowsAreN = kMajorB == Major::kK;
  const int columns = kRowsAreN ? 64 : kN, rows = kRowsAreN ? kN : 64;
  const CUtensorMap map_b = head_tensor_map(b, columns, 1, rows, 1, columns, columns, 0, 64);
  const auto kernel = product<kN, kMajorA, kMajorB, kRegisters>;
  const int bytes = 64 * 128 * (1 + (kN + 63) / 64);
  LRAM_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  launch_kernel(kernel, 1, 128, bytes, nullptr, map_a, map_b, out);
  LRAM_CUDA_CHECK_LAUNCH("wgmma test");
}

template <int kN>
void launch_layout(const WgmmaLayout& layout, const void* a, const void* b, float* out) {
  constexpr Major kK = Major::kK, kMn = Major::kMn;
  if (layout.a_in_registers) {
    return layout.b_mn_major ? launch<kN, kK, kMn, true>(a, b, out)
                             : launch<kN, kK, kK, true>(a, b, out);
  }
  if (layout.a_mn_major) {
    return layout.b_mn_major ? launch<kN, kMn, kMn, false>(a, b, out)
                             : launch<kN, kMn, kK, false>(a, b, out);
  }
  return layout.b_mn_major ? launch<kN, kK, kMn, false>(a, b, out)
                           : launch<kN, kK, kK, false>(a, b, out);
}

}  // namespace

void wgmma_product(const WgmmaLayout& layout, const void* a, const void* b, float* out) {
  switch (layout.n) {
    case 32:
      return launch_layout<32>(layout, a, b, out);
    case 64:
      return launch_layout<64>(layout, a, b, out);
    case 128:
      return launch_layout<128>(layout, a, b, out);
    case 192:
      return launch_layout<192>(layout, a, b, out);
    default:
      return launch_layout<256>(layout, a, b, out);
  }
}

}  // namespace lram::kernels
