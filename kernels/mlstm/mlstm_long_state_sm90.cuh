#pragma once
#include "kernels/mlstm/mlstm_long_tiles_sm90.cuh"

/// The state Z of a sweep on Hopper between memory, a consumer warpgroup's accumulators and the
/// bf16 copy in shared memory; n beside it; <C, dC> where the backward wants it.
namespace lram::kernels::mlstm_long {

/// Where a warpgroup finds its half of the columns.
template <int kRows, int kColumns, Sweep kSweep>
struct Half {
  using Tiles = typename SweepShared<kRows, kColumns, kSweep>::Tiles;
  static constexpr bool kForward = kSweep == Sweep::kForward;
  static constexpr int kHalf = Tiles::kHalf, kBlocks = Tiles::kBlocks;
  static constexpr int kStateTile = kRows * 128;  ///< 64 columns of Z's copy
  using Accumulators = float[kBlocks][kHalf / 2];

  /// Of a warpgroup's columns in the copy of Z, in a tile of z, in a row of either.
  __device__ __forceinline__ static std::uint32_t offset(int group, int tile) {
    return static_cast<std::uint32_t>(kHalf >= 64 ? group * (kHalf / 64) * tile : group * 64);
  }
  /// Element (r, c) of the half in tiles of 64 columns that lie `tile` bytes apart.
  __device__ __forceinline__ static unsigned char* address(const Stand& at, unsigned char* base,
                                                           int tile, int r, int c) {
    const int within = at.group * kHalf + c;
    return base + within / 64 * tile +
           swizzle_128(static_cast<std::uint32_t>(r), static_cast<std::uint32_t>(within % 64));
  }
  /// Where this lane's row of four 8x8 matrices goes: rows first + 16 warp + 0 or 8, columns 8 j +
  /// 0 or 8 of the half (j even).
  __device__ __forceinline__ static unsigned char* fragment(const Stand& at, unsigned char* base,
                                                            int tile, int first, int j) {
    const int column = kHalf >= 64 ? 8 * j : 32 * at.group + 8 * j;  // within the half, or the tile
    const int tiles = kHalf >= 64 ? at.group * (kHalf / 64) + column / 64 : 0;
    return base + tiles * tile + first * 128 +
           (16 * at.warp + (at.matrix & 1) * 8 + at.matrix_row) * 128 +
           (((at.matrix >> 1) ^ at.matrix_row) * 16 ^ column % 64 * 2);
  }

  // n: in the forward over Z's rows; in dq and dk over the group's columns.
  static constexpr int kNSize = kForward ? kRows : kHalf;
  static constexpr int kVector = kRows > kHalf ? kRows : kHalf;
  __device__ __forceinline__ static float* n_of(float* vectors, const Stand& at) {
    return vectors + at.group * kVector;
  }
  __device__ __forceinline__ static float* n_parts_of(float* vectors, const Stand& at) {
    return vectors + 2 * kVector + at.group * Tiles::kGrowth;
  }
  /// Of the caller's n, or -1.
  __device__ __forceinline__ static std::int64_t n_place(const SweepArgs& a, const SweepItem& item,
                                                         const Stand& at, int j) {
    const int first = kForward ? 0 : item.slice * kColumns + at.group * kHalf;
    const int limit = kForward ? a.x_dim : a.z_dim, place = first + j;
    return place < limit ? static_cast<std::int64_t>(item.head) * limit + place : -1;
  }
  /// Of this head's and slice's state among those of a part.
  __device__ __forceinline__ static std::size_t place(const SweepArgs& a, const SweepItem& item,
                                                      int part) {
    return ((static_cast<std::size_t>(part) * a.sizes.batch * a.sizes.heads + item.head) *
                a.slices +
            item.slice) *
           kPartFloats<kRows, kColumns>;
  }
  __device__ __forceinline__ static std::uint32_t* checkpoint(const SweepArgs& a,
                                                              const SweepItem& item, int chunk) {
    return a.checkpoints +
           ((static_cast<std::size_t>(item.head) * a.slices + item.slice) * a.sizes.checkpoints +
            chunk / kChunksPerCheckpoint) *
               kCheckpointWords<kRows, kColumns>;
  }
};
__device__ __forceinline__ bool at_checkpoint(const SweepItem& item, int chunk) {
  return chunk != item.chunks - 1 && (chunk + 1) % kChunksPerCheckpoint == 0;
}

/// Z's copy for the tensor cores.
template <int kRows, int kColumns, Sweep kSweep>
__device__ __forceinline__ void copy_state(
    unsigned char* state, const typename Half<kRows, kColumns, kSweep>::Accumulators& z_acc,
    const Stand& here) {
  using H = Half<kRows, kColumns, kSweep>;
#pragma unroll
  for (int block = 0; block < H::kBlocks; ++block) {
#pragma unroll
    for (int j = 0; j < H::kHalf / 8; j += 2) {
      const float* z = z_acc[block] + 4 * j;
      stmatrix_x4(H::fragment(here, state, H::kStateTile, 64 * block, j), pack_bf16(z[0], z[1]),
                  pack_bf16(z[2], z[3]), pack_bf16(z[4], z[5]), pack_bf16(z[6], z[7]));
    }
  }
}

/// Z and n before an item's first chunk.
template <int kRows, int kColumns, Sweep kSweep>
__device__ __forceinline__ void read_state(
    const SweepArgs& a, const SweepItem& item, float* vectors, bool has_n,
    typename Half<kRows, kColumns, kSweep>::Accumulators& z_acc, const Stand& at) {
  using H = Half<kRows, kColumns, kSweep>;
  const float* from = nullptr;
  if (item.starts) {
    if (a.z_in != nullptr) from = a.z_in + H::place(a, item, 0);
  } else if (!a.state_only) {
    from = a.part_state + H::place(a, item, item.part);
  }
#pragma unroll
  for (int block = 0; block < H::kBlocks; ++block) {
#pragma unroll
    for (int e = 0; e < H::kHalf / 2; ++e) {
      z_acc[block][e] = from != nullptr ? from[(block * H::kHalf / 2 + e) * 256 + at.tid] : 0.0f;
    }
  }
  if (has_n) {
    for (int j = at.group_tid(); j < H::kNSize; j += 128) {
      float value = 0;
      if (item.starts) {
        if (a.n_in != nullptr && H::n_place(a, item, at, j) >= 0) {
          value = a.n_in[H::n_place(a, item, at, j)];
        }
      } else if (from != nullptr) {
        value = from[kRows * kColumns + (H::kForward ? 0 : at.group * H::kHalf) + j];
      }
      H::n_of(vectors, at)[j] = value;
    }
  }
}

/// Z and n behind an item's last chunk.
template <int kRows, int kColumns, Sweep kSweep>
__device__ __forceinline__ void write_state(
    const SweepArgs& a, const SweepItem& item, float* vectors, bool has_n,
    const typename Half<kRows, kColumns, kSweep>::Accumulators& z_acc) {
  using H = Half<kRows, kColumns, kSweep>;
  const Stand end;
  float* to = nullptr;
  if (a.state_only) {
    to = a.part_state + H::place(a, item, item.part + (kIsReverse<kSweep> ? -1 : 1));
    if (end.tid == 0 && item.slice == 0) {
      a.part_decay[item.part * a.sizes.batch * a.sizes.heads + item.head] = item.decay;
    }
  } else if (item.ends && a.z_out != nullptr) {
    to = a.z_out + H::place(a, item, 0);
  }
  if (to != nullptr) {
#pragma unroll
    for (int block = 0; block < H::kBlocks; ++block) {
#pragma unroll
      for (int e = 0; e < H::kHalf / 2; ++e) {
        to[(block * H::kHalf / 2 + e) * 256 + end.tid] = z_acc[block][e];
      }
    }
    if (has_n && (!H::kForward || end.group == 0)) {
      for (int j = end.group_tid(); j < H::kNSize; j += 128) {
        to[kRows * kColumns + (H::kForward ? 0 : end.group * H::kHalf) + j] =
            H::n_of(vectors, end)[j];
      }
    }
  }
  if (!a.state_only && item.ends && has_n && a.n_out != nullptr &&
      (!H::kForward || (end.group == 0 && item.slice == 0))) {
    for (int j = end.group_tid(); j < H::kNSize; j += 128) {
      if (H::n_place(a, item, end, j) >= 0) {
        a.n_out[H::n_place(a, item, end, j)] = H::n_of(vectors, end)[j];
      }
    }
  }
}

/// dq keeps C and n for dk.
template <int kRows, int kColumns, Sweep kSweep>
__device__ __forceinline__ void keep_checkpoint(
    const SweepArgs& a, const SweepItem& item, int chunk, float* vectors, bool has_n,
    const typename Half<kRows, kColumns, kSweep>::Accumulators& z_acc, const Stand& late) {
  using H = Half<kRows, kColumns, kSweep>;
  std::uint32_t* keep_at = H::checkpoint(a, item, chunk);
#pragma unroll
  for (int block = 0; block < H::kBlocks; ++block) {
#pragma unroll
    for (int e = 0; e < H::kHalf / 4; ++e) {
      keep_at[(block * H::kHalf / 4 + e) * 256 + late.tid] =
          pack_bf16(z_acc[block][2 * e], z_acc[block][2 * e + 1]);
    }
  }
  if (has_n && late.group_tid() < H::kHalf) {
    keep_at[kRows * kColumns / 2 + late.group * H::kHalf + late.group_tid()] =
        __float_as_uint(H::n_of(vectors, late)[late.group_tid()]);
  }
}

// <C, dC> where dC is as the products see it, in bf16: what k . dk has of it cancels.
__device__ __forceinline__ float rounded(float x) { return __bfloat162float(__float2bfloat16(x)); }
__device__ __forceinline__ void put_state_dot(const SweepArgs& a, const SweepItem& item, float sum,
                                              int chunk) {
  for (int d = 16; d > 0; d /= 2) sum += __shfl_xor_sync(kAllLanes, sum, d);
  const int thread = Stand().tid;
  if (thread % 32 == 0) {
    const std::int64_t row =
        static_cast<std::int64_t>(item.head) * a.sizes.checkpoints + chunk / kChunksPerCheckpoint;
    a.state_dot[(row * a.slices + item.slice) * 8 + thread / 32] = sum;
  }
}
/// Behind `chunk`, with what dq kept.
template <int kRows, int kColumns, Sweep kSweep>
__device__ __forceinline__ void checkpoint_dot(
    const SweepArgs& a, const SweepItem& item, int chunk, float* vectors, bool has_n,
    const typename Half<kRows, kColumns, kSweep>::Accumulators& z_acc) {
  using H = Half<kRows, kColumns, kSweep>;
  const Stand here;
  const std::uint32_t* kept = H::checkpoint(a, item, chunk);
  float sum = 0;
#pragma unroll
  for (int block = 0; block < H::kBlocks; ++block) {
#pragma unroll
    for (int e = 0; e < H::kHalf / 4; ++e) {
      const std::uint32_t pair = kept[(block * H::kHalf / 4 + e) * 256 + here.tid];
      sum += rounded(z_acc[block][2 * e]) * __uint_as_float(pair << 16) +
             rounded(z_acc[block][2 * e + 1]) * __uint_as_float(pair & 0xffff0000u);
    }
  }
  if (has_n && here.group_tid() < H::kHalf) {
    sum += H::n_of(vectors, here)[here.group_tid()] *
           __uint_as_float(kept[kRows * kColumns / 2 + here.group * H::kHalf + here.group_tid()]);
  }
  put_state_dot(a, item, sum, chunk);
}

}  // namespace lram::kernels::mlstm_long
