#pragma once
#include "kernels/common/tma.h"
#include "kernels/common/warp_arrive.cuh"
#include "kernels/common/wgmma.cuh"
#include "kernels/mlstm/mlstm_short_sm90.cuh"
#include "kernels/mlstm/mlstm_tiled.h"

/// The matrix product that both kernels of the tiled form are made of: 128 rows by 128 or 256
/// columns an item, 64 of the summed dimension a step, through a ring that one warp fills ahead
/// into the next item. Two warpgroups have 64 rows each, and up to 128 accumulators a thread.
namespace lram::kernels::mlstm_tiled {

using mlstm_short::kTileBytes;  // 64 x 64 bf16
using Ring = mlstm_short::Ring<4>;

constexpr int kStages = 4;
constexpr int kConsumers = 256, kThreads = kConsumers + 128;
// Of the 3 x 168 registers of the launch the loading warpgroup gives away what it does not need.
constexpr int kProducerRegisters = 40, kConsumerRegisters = 232;
constexpr int kLeftBytes = 2 * kTileBytes;  // 128 rows (or columns) of the left operand
constexpr int kStageBytes = kLeftBytes + 4 * kTileBytes;  // and up to 256 of the right one

struct Shared {
  alignas(1024) unsigned char slots[kStages][kStageBytes];
  alignas(1024) unsigned char out[2][2][kTileBytes];  // two for each warpgroup
  std::uint64_t full[kStages], empty[kStages];
};
static_assert(sizeof(Shared) <= 227 * 1024);

__device__ inline Shared& start_block() {
  auto& shared = *reinterpret_cast<Shared*>(dynamic_shared());
  if (threadIdx.x == 0) {
    for (int slot = 0; slot < kStages; ++slot) {
      mbarrier_init(&shared.full[slot], 1);
      mbarrier_init(&shared.empty[slot], kConsumers / 32 * kArrivalsPerWarp);
    }
    fence_barrier_init();
  }
  __syncthreads();
  return shared;
}
__device__ inline Ring ring_of(Shared& shared) {
  Ring ring{shared.slots[0], shared.full, shared.empty};
  ring.slot_bytes = kStageBytes;
  return ring;
}
__device__ inline void release(const Ring& ring, int slot) {
  warp_arrive(&ring.empty[slot], static_cast<int>(threadIdx.x % 32));
}

/// d += the warpgroup's 64 rows of the left operand times the right one, over `steps` stages.
/// `prepare(slot, step)` is called before a stage is read.
template <int kN, Major kLeft, Major kRight, typename Prepare>
__device__ inline void multiply(float (&d)[kN / 2], Ring& ring, int steps, const Prepare& prepare) {
  const int group = static_cast<int>(threadIdx.x / 128);
  int previous = -1;
#pragma unroll 1
  for (int step = 0; step < steps; ++step) {
    ring.wait_full();
    prepare(ring.data(), step);
    const std::uint32_t slot = shared_address(ring.data());
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      wgmma_ss<kN, kLeft, kRight>(
          d, wgmma_descriptor(slot + group * kTileBytes + wgmma_k_step<kLeft>(k)),
          wgmma_descriptor(slot + kLeftBytes + wgmma_k_step<kRight>(k), kTileBytes), true);
    }
    wgmma_commit();
    if (previous >= 0) {
      wgmma_wait<1>();
      release(ring, previous);
    }
    previous = ring.slot;
    ring.advance();
  }
  wgmma_wait<0>();
  if (previous >= 0) release(ring, previous);
  keep_all(d);
}

/// Sends a warpgroup's 64 x kN accumulators out as bf16, 64 columns at a time: `send(tile, c)`
/// issues the copy of column block c, of which there are `blocks`.
template <int kN, typename Send>
__device__ inline void store_rows(Shared& shared, const float (&d)[kN / 2], int blocks,
                                  const Send& send) {
  const int group = static_cast<int>(threadIdx.x / 128);
#pragma unroll
  for (int c = 0; c < kN / 64; ++c) {
    if (c >= blocks) break;
    unsigned char* tile = shared.out[group][c % 2];
    if (threadIdx.x % 128 == 0) tma_store_wait_read<1>();
    named_barrier_sync(1 + group, 128);
    mlstm_short::store_tile(tile, &d[32 * c], 1.0f, 1.0f);
    fence_proxy_async();
    named_barrier_sync(1 + group, 128);
    if (threadIdx.x % 128 == 0) {
      send(tile, c);
      tma_store_commit();
    }
  }
  // An odd number of blocks would have the next item begin with the buffer used last.
  if (blocks % 2 != 0 && threadIdx.x % 128 == 0) tma_store_wait_read<0>();
}

/// The lane's first row of the warpgroup's 64 (the second is 8 further).
__device__ inline int lane_row() {
  return static_cast<int>(16 * (threadIdx.x / 32 % 4) + threadIdx.x % 32 / 4);
}
/// Of all four lanes of a row.
__device__ inline float sum_of_row(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

inline CUtensorMap tile_map(const MlstmProblem& p, const HeadTensor& x, int dim, int box_tokens) {
  return head_tensor_map(x.data, dim, p.heads, p.tokens, p.batch, x.stride_h, x.stride_t,
                         x.stride_b, box_tokens);
}
/// A group's tiles as rows of 64: block after block, head after head, boxes of 64 x 64.
inline CUtensorMap score_map(const Sizes& n, const void* scores, int heads) {
  const int rows = block_of(n.tiles) * kTile;
  return head_tensor_map(scores, 64, 1, rows, heads, 64, 64, std::int64_t{64} * rows, 64);
}

}  // namespace lram::kernels::mlstm_tiled
