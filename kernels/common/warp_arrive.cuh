#pragma once
#include "kernels/common/ptx.cuh"

/// How a whole warp arrives on an mbarrier: one lane for all, after __syncwarp().
namespace lram::kernels {

/// What a warp counts for in mbarrier_init. Builds with LRAM_EVERY_LANE_ARRIVES are for racecheck,
/// which takes an mbarrier to order only what the lanes that arrive themselves did
/// (kernels/README.md); they must otherwise behave alike.
#ifdef LRAM_EVERY_LANE_ARRIVES
constexpr int kArrivalsPerWarp = 32;
#else
constexpr int kArrivalsPerWarp = 1;
#endif

/// Called by all lanes of the warp; `lane` is the caller's.
__device__ inline void warp_arrive(std::uint64_t* barrier, int lane) {
  if (kArrivalsPerWarp > 1 || lane == 0) mbarrier_arrive(barrier);
}

}  // namespace lram::kernels
