#pragma once
#include <cuda.h>

#include "kernels/common/warp_arrive.cuh"
#include "kernels/common/wgmma.cuh"
#include "kernels/mlstm/mlstm_gates.cuh"

/// What the short form's forward and backward on sm90 share. A head of at most 64 kRows tokens is
/// one unit of work. Its inputs come as slices of 64 features for all tokens (a slot of
/// kRows x 64 x 64 bf16) through one ring, so nothing depends on the head dims but loop counts; its
/// lower triangle of 64 x 64 tiles of scores lives in registers, spread over two warpgroups.
namespace lram::kernels::mlstm_short {

constexpr int kTileRows = 64;
constexpr int kTileBytes = kTileRows * 128;
constexpr int kConsumers = 256;             // two warpgroups
constexpr int kThreads = kConsumers + 128;  // and one that loads: warp 0 tiles, 1 and 2 gates
// Registers a thread, of the loading warpgroup and of the consumers: the first and twice the second
// are the 3 x 168 of the launch; with one more the second consumer would wait in setmaxnreg for
// ever.
constexpr int kProducerRegisters = 72, kConsumerRegisters = (3 * 168 - kProducerRegisters) / 2;

/// Tiles of 64 rows of a warpgroup in the forward; -1 is none. Chosen so that both warpgroups get
/// about as many of the triangle's tiles.
template <int kRows, int kGroup>
struct RowTiles {
  static constexpr int kA = kRows == 3 ? (kGroup == 0 ? 0 : 2) : kGroup < kRows ? kGroup : -1;
  static constexpr int kB = kRows == 4 ? (kGroup == 0 ? 3 : 2) : kRows == 3 && kGroup == 0 ? 1 : -1;
};
__host__ __device__ constexpr int tile_scores(int tile) { return tile < 0 ? 1 : 32 * (tile + 1); }

/// A ring of slots between the loading warp and the consumers; every thread that uses it keeps its
/// own copy and advances it alike.
template <int kSlots>
struct Ring {
  unsigned char* slots;
  std::uint64_t *full, *empty;
  int slot = 0;
  std::uint32_t phase = 0;
  int slot_bytes = 0;

  __device__ unsigned char* data() const { return slots + slot * slot_bytes; }
  __device__ void advance() {
    if (++slot == kSlots) {
      slot = 0;
      phase ^= 1;
    }
  }
  __device__ void wait_full() { mbarrier_wait(&full[slot], phase); }
  __device__ void wait_empty() { mbarrier_wait(&empty[slot], phase ^ 1); }
};

/// Loads the next slice: `bytes` of it land in the slot.
template <int kSlots>
__device__ inline void load_slice(Ring<kSlots>& ring, const CUtensorMap& map, std::uint32_t bytes,
                                  int feature, int head, int token, int batch) {
  ring.wait_empty();
  mbarrier_arrive_expect(&ring.full[ring.slot], bytes);
  tma_load_4d(ring.data(), &map, &ring.full[ring.slot], feature, head, token, batch);
  ring.advance();
}

/// Zeroes the rows of a slot that hold tokens outside [begin, end), which may be NaN. Both
/// warpgroups do it, each before it reads: equal zeros from both.
__device__ inline void clear_outside(unsigned char* slot, int rows, int begin, int end, int group) {
  const int thread = threadIdx.x % 128;
  for (int row = thread / 8; row < rows; row += 16) {
    if (row >= begin && row < end) continue;
    *reinterpret_cast<uint4*>(slot + row * 128 + thread % 8 * 16) = uint4{0, 0, 0, 0};
  }
  fence_proxy_async();
  named_barrier_sync(1 + group, 128);
}

/// Accumulator fragment of a 64 x 64 tile into swizzled shared memory, as bf16, row r and r + 8
/// times scale[0] and scale[1].
__device__ inline void store_tile(unsigned char* tile, const float* d, float scale0, float scale1) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
  const int row = 16 * warp + lane % 16;
#pragma unroll
  for (int j = 0; j < 8; j += 2) {
    const int chunk = j + lane / 16;
    stmatrix_x4(tile + row * 128 + ((chunk ^ (row & 7)) << 4),
                pack_bf16(d[4 * j] * scale0, d[4 * j + 1] * scale0),
                pack_bf16(d[4 * j + 2] * scale1, d[4 * j + 3] * scale1),
                pack_bf16(d[4 * j + 4] * scale0, d[4 * j + 5] * scale0),
                pack_bf16(d[4 * j + 6] * scale1, d[4 * j + 7] * scale1));
  }
}

/// Output tiles of one warpgroup on their way to memory: one or two tiles of shared memory in turn.
struct TileStore {
  unsigned char* buffers;
  int group, count;
  int next = 0;

  /// The buffer to fill next, once the copy engine has read it.
  __device__ unsigned char* acquire() {
    if (threadIdx.x % 128 == 0) {
      if (count == 2) {
        tma_store_wait_read<1>();
      } else {
        tma_store_wait_read<0>();
      }
    }
    named_barrier_sync(1 + group, 128);
    return buffers + next * kTileBytes;
  }
  __device__ void send(const CUtensorMap& map, int feature, int head, int token, int batch) {
    fence_proxy_async();
    named_barrier_sync(1 + group, 128);
    if (threadIdx.x % 128 == 0) {
      tma_store_4d(&map, buffers + next * kTileBytes, feature, head, token, batch);
      tma_store_commit();
    }
    next = next + 1 == count ? 0 : next + 1;
  }
};

/// S += Q_tile K^T over one slice of 64 features, columns 0 to 64 (kTile + 1).
template <int kTile>
__device__ inline void accumulate_scores(float (&s)[tile_scores(kTile)], const unsigned char* rows,
                                         const unsigned char* columns) {
  const std::uint32_t a = shared_address(rows) + kTile * kTileBytes, b = shared_address(columns);
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    wgmma_ss<64 * (kTile + 1), Major::kK, Major::kK>(s, wgmma_descriptor(a + 32 * k),
                                                     wgmma_descriptor(b + 32 * k), true);
  }
}

}  // namespace lram::kernels::mlstm_short
