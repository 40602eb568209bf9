#pragma once
#include "kernels/mlstm/mlstm_long_tiles_sm90.cuh"

/// What the four producer warps of a sweep on Hopper do, one lane of each: warp 0 loads y, z and
/// the factors, warp 3 x and the tile whose products with the output are wanted, warps 1 and 2
/// store the output from the place of its columns of z.
namespace lram::kernels::mlstm_long {

/// Calls `use(item, chunk, token, n)` for every chunk of this CTA's items in the sweep's order: its
/// first token, and how many chunks came before.
template <Sweep kSweep, typename Use>
__device__ __forceinline__ void for_each_chunk(const SweepArgs& a, SweepItem& item,
                                               const Use& use) {
  int n = 0;
  for (int index = static_cast<int>(blockIdx.x); index < a.items;
       index += static_cast<int>(gridDim.x)) {
    sweep_item<kSweep>(a, index, item);
    if (!item.runs) continue;
    for (int step = item.from; step < item.to; ++step, ++n) {
      const int chunk = chunk_of<kSweep>(item, step);
      use(chunk, item.span.begin + chunk * kChunk, n);
    }
  }
}

template <int kRows, int kColumns, Sweep kSweep>
__device__ __forceinline__ void load_y_and_z(const SweepMaps& maps, const SweepArgs& a,
                                             const SweepShared<kRows, kColumns, kSweep>& at,
                                             SweepItem& item) {
  using Shared = SweepShared<kRows, kColumns, kSweep>;
  using Tiles = typename Shared::Tiles;
  for_each_chunk<kSweep>(a, item, [&](int chunk, int token, int n) {
    const RingPlace place = ring_place<Shared::kStages>(n);
    mbarrier_wait(at.empty + place.stage, place.parity ^ 1);
    mbarrier_arrive_expect(at.full + place.stage, Tiles::kStageBytes);
    bulk_load(at.factor_ring + place.stage * kFactorBytes,
              a.factors + (static_cast<std::int64_t>(item.head) * a.sizes.chunks + chunk) *
                              kChunkFloats<false>,
              kFactorBytes, at.full + place.stage);
    for (int block = 0; block < Tiles::kBlocks; ++block) {
      tma_load_4d(at.y_ring + place.stage * Tiles::kXBytes + block * 8192, &maps.y,
                  at.full + place.stage, 64 * block, item.h, token, item.b);
    }
    for (int block = 0; block < kColumns / 64; ++block) {
      tma_load_4d(at.z_ring + place.stage * Tiles::kZBytes + block * 8192, &maps.z,
                  at.full + place.stage, item.slice * kColumns + 64 * block, item.h, token, item.b);
    }
  });
}

template <int kRows, int kColumns, Sweep kSweep>
__device__ __forceinline__ void load_x(const SweepMaps& maps, const SweepArgs& a,
                                       const SweepShared<kRows, kColumns, kSweep>& at,
                                       SweepItem& item) {
  using Shared = SweepShared<kRows, kColumns, kSweep>;
  using Tiles = typename Shared::Tiles;
  for_each_chunk<kSweep>(a, item, [&](int, int token, int n) {
    for (int piece = 0; piece < Shared::kXPieces; ++piece) {
      const RingPlace place = ring_place<Shared::kXStages>(n * Shared::kXPieces + piece);
      mbarrier_wait(at.x_empty + place.stage, place.parity ^ 1);
      mbarrier_arrive_expect(at.x_full + place.stage, Tiles::kXPieceBytes);
      constexpr int kPieceBlocks = Tiles::kBlocks / Shared::kXPieces;
      for (int block = 0; block < kPieceBlocks; ++block) {
        tma_load_4d(at.x_ring + place.stage * Tiles::kXPieceBytes + block * 8192, &maps.x,
                    at.x_full + place.stage, 64 * (piece * kPieceBlocks + block), item.h, token,
                    item.b);
      }
    }
    if (kHasDots<kSweep>) {
      mbarrier_wait(at.dot_empty, (n & 1) ^ 1);
      mbarrier_arrive_expect(at.dot_full, Tiles::kDotBytes);
      for (int block = 0; block < kColumns / 64; ++block) {
        tma_load_4d(at.dot_tile + block * 8192, &maps.dot, at.dot_full,
                    item.slice * kColumns + 64 * block, item.h, token, item.b);
      }
    }
  });
}

template <int kRows, int kColumns, Sweep kSweep>
__device__ __forceinline__ void store_output(const SweepMaps& maps, const SweepArgs& a,
                                             const SweepShared<kRows, kColumns, kSweep>& at,
                                             SweepItem& item, int storer) {
  using Shared = SweepShared<kRows, kColumns, kSweep>;
  using Tiles = typename Shared::Tiles;
  constexpr int kStages = Shared::kStages, kStorers = Shared::kStorers;
  for_each_chunk<kSweep>(a, item, [&](int, int token, int n) {
    const RingPlace place = ring_place<kStages>(n);
    mbarrier_wait(at.out_full + storer * kStages + place.stage, place.parity);
    if (kStorers == 1) mbarrier_wait(at.out_full + kStages + place.stage, place.parity);
    if (!a.state_only) {
      constexpr int kTiles = kColumns / 64 / kStorers;
      for (int block = storer * kTiles; block < (storer + 1) * kTiles; ++block) {
        tma_store_4d(&maps.out, at.z_ring + place.stage * Tiles::kZBytes + block * 8192,
                     item.slice * kColumns + 64 * block, item.h, token, item.b);
      }
      tma_store_commit();
      tma_store_wait_read<0>();
    }
    mbarrier_arrive(at.empty + place.stage);
  });
  tma_store_wait<0>();
}

}  // namespace lram::kernels::mlstm_long
