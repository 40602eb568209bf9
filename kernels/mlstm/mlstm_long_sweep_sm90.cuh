#pragma once
#include "kernels/mlstm/mlstm_long_chunk_sm90.cuh"
#include "kernels/mlstm/mlstm_long_copies_sm90.cuh"

/// One sweep of the long form (mlstm_long.h) on Hopper: a CTA walks a head's chunks with kColumns
/// columns of the state Z on chip. Two consumer warpgroups own half of the columns each and share
/// nothing but the tiles that come in: float32 Z in wgmma accumulators, its bf16 copy in shared
/// memory as the B operand of x Z. Per chunk and warpgroup
///   S = x y^T                     both operands from shared memory
///   P = 2^(row + column) (S + bias), masked, in registers: the A operand of P z
///   O = ri (x Z) + P z            to h, dq, dk or dv
///   Z = decay Z + (u y)^T z       y transposed and weighted on its way through registers
/// One warp loads y, z and the factors (TMA, two stages), one x, and one per consumer stores O from
/// the place of its columns of z. S is computed by both warpgroups: 9 % more products, no exchange,
/// no common barrier.
namespace lram::kernels::mlstm_long {

template <int kRows, int kColumns, Sweep kSweep>
__device__ __forceinline__ void consume(const SweepArgs& a,
                                        const SweepShared<kRows, kColumns, kSweep>& shared,
                                        SweepItem* items) {
  using Shared = SweepShared<kRows, kColumns, kSweep>;
  using Tiles = typename Shared::Tiles;
  using H = Half<kRows, kColumns, kSweep>;
  // From a shuffle, so that descriptors stay in uniform registers.
  const int group = __shfl_sync(kAllLanes, static_cast<int>(threadIdx.x) / 128 - 1, 0);
  const bool has_n = a.normalize && kSweep != Sweep::kGradV;
  typename H::Accumulators z_acc;
  // Kept in shared memory: the accumulators leave no registers for what a chunk reads once.
  SweepItem& item = items[group];
  if (Stand().group_tid() == 0) {
    item.index = static_cast<int>(blockIdx.x) - static_cast<int>(gridDim.x);
    item.before = 0;
    item.runs = false;
  }
  while (true) {
    Stand at;
    group_sync(at);  // the last item's readers of it, of the vectors and of Z's copy are done
    if (at.group_tid() == 0) {
      if (item.runs) item.before += item.to - item.from;
      item.index += static_cast<int>(gridDim.x);
      if (item.index < a.items) sweep_item<kSweep>(a, item.index, item);
      item.step = item.from;
    }
    group_sync(at);
    if (item.index >= a.items) break;
    if (!item.runs) continue;
    read_state<kRows, kColumns, kSweep>(a, item, shared.vectors, has_n, z_acc, at);
    if (!a.state_only) copy_state<kRows, kColumns, kSweep>(shared.state, z_acc, at);
    fence_proxy_async();
    group_sync(at);
    while (item.step < item.to) {  // update_state counts
      if (kSweep == Sweep::kGradK && !a.state_only) {
        const int chunk = chunk_of<kSweep>(item, item.step);
        if (at_checkpoint(item, chunk)) {
          checkpoint_dot<kRows, kColumns, kSweep>(a, item, chunk, shared.vectors, has_n, z_acc);
        }
      }
      const int n = item.before + item.step - item.from;
      const RingPlace place = ring_place<Shared::kStages>(n);
      const RingPlace x_place = ring_place<Shared::kXStages>(n * Shared::kXPieces);
      const ChunkTiles tiles{
          shared.x_ring + x_place.stage * Tiles::kXPieceBytes,
          shared.y_ring + place.stage * Tiles::kXBytes,
          shared.z_ring + place.stage * Tiles::kZBytes,
          reinterpret_cast<const float*>(shared.factor_ring + place.stage * kFactorBytes),
          x_place.stage};
      mbarrier_wait(shared.full + place.stage, place.parity);
      const int count = __float_as_int(tiles.factors[kChunkHeader<false> + 1]);
      if (count < kChunk) zero_tail<kRows, kColumns, kSweep>(tiles, count);
      std::uint32_t packed[H::kHalf / 8][2];
      if (!a.state_only) {
        if constexpr (!Tiles::kPiecewise) {
          mbarrier_wait(shared.x_full + x_place.stage, x_place.parity);
        }
        output_of_chunk<kRows, kColumns, kSweep>(a, item, shared, tiles, group, has_n, packed);
      }
      update_state<kRows, kColumns, kSweep>(a, item, shared, tiles, place.stage, group, has_n,
                                            z_acc, packed);
      if (kSweep == Sweep::kGradQ && !a.state_only) {
        const int passed = chunk_of<kSweep>(item, item.step - 1);
        if (at_checkpoint(item, passed)) {
          keep_checkpoint<kRows, kColumns, kSweep>(a, item, passed, shared.vectors, has_n, z_acc,
                                                   Stand());
        }
      }
    }
    write_state<kRows, kColumns, kSweep>(a, item, shared.vectors, has_n, z_acc);
  }
}

template <int kRows, int kColumns, Sweep kSweep>
__global__ __launch_bounds__(kSweepThreads,
                             1) void sweep_sm90(const __grid_constant__ SweepMaps maps,
                                                const __grid_constant__ SweepArgs a) {
  unsigned char* const bytes = dynamic_shared();
  __shared__ SweepItem items[6];  // of the consumers, then of warps 0 to 3
  const SweepShared<kRows, kColumns, kSweep> shared(bytes);
  if (threadIdx.x == 0) shared.init_barriers();
  __syncthreads();

  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  if (warp < 4) {
    set_max_registers_down<kProducerRegisters>();
    SweepItem& item = items[2 + warp];
    if (warp == 0 && lane == 0) {
      load_y_and_z<kRows, kColumns, kSweep>(maps, a, shared, item);
    } else if (warp == 3 && lane == 0 && !a.state_only) {
      load_x<kRows, kColumns, kSweep>(maps, a, shared, item);
    } else if (warp >= 1 && warp <= shared.kStorers && lane == 0) {
      store_output<kRows, kColumns, kSweep>(maps, a, shared, item, warp - 1);
    }
  } else {
    set_max_registers_up<kConsumerRegisters>();
    consume<kRows, kColumns, kSweep>(a, shared, items);
  }
}

}  // namespace lram::kernels::mlstm_long
