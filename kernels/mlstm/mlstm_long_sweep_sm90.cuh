#pragma once
#include "kernels/common/tma.h"
#include "kernels/common/wgmma.cuh"
#include "kernels/mlstm/mlstm_long_rows.cuh"

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

constexpr int kSharedLimit = 226 * 1024;  // dynamic; one more is SweepItem and alignment
constexpr int kFactorBytes = kChunkFloats<false> * 4;
constexpr int kSweepThreads = 384;
// 128 x 24 + 256 x 240 = 384 x 168, what the launch gives: more for either would wait for ever.
constexpr int kProducerRegisters = 24, kConsumerRegisters = 240;
static_assert(128 * kProducerRegisters + 256 * kConsumerRegisters ==
              kSweepThreads * (65536 / kSweepThreads / 8 * 8));

struct SweepMaps {
  CUtensorMap x, y, z, out;
  CUtensorMap dot;  ///< dq: q; dk: k; the output's products with it go to dot_out
};
struct SweepArgs {
  int x_dim, z_dim;  ///< true sizes; the tiles' surplus is zero
  int slices;        ///< of kColumns each in z_dim
  int items;         ///< heads x slices x parts
  Sizes sizes;
  const std::int32_t *begin, *end;
  const float* factors;
  bool normalize;
  float eps;
  /// Z before and behind the chunks as the threads hold it (state_place), [B H, slices,
  /// part_floats], or null: zeros, not wanted. n as the caller stores it.
  const float *z_in, *n_in;
  float *z_out, *n_out;
  const float* z_final;  ///< dk: what dq left in z_out, for <C, dC> at the end; or null
  /// Long sequences on few heads are cut into parts. A first pass (state_only) leaves in part_state
  /// what each part starts with, as if nothing came before its predecessor; combine_parts adds the
  /// rest.
  int parts, chunks_per_part;
  bool state_only;
  float* part_state;           ///< [parts, B H, slices, part_floats]
  float* part_decay;           ///< [parts, B H]
  float *inverse_norm, *sign;  ///< forward, for the backward; or null
  std::uint32_t*
      checkpoints;           ///< dq writes, dk reads: [B H, slices, checkpoints, checkpoint_words]
  float* dot_out;            ///< [2 slices, B H, positions]
  std::int64_t part_stride;  ///< of the slices in dot_out
  float* state_dot;          ///< dk: [B H, checkpoints, 8 slices]
};

/// Of one head and slice: Z and n behind it; Z in bf16 pairs and n.
template <int kRows, int kColumns>
inline constexpr std::size_t kPartFloats = static_cast<std::size_t>(kRows) * kColumns +
                                           (kRows > kColumns ? kRows : kColumns);
template <int kRows, int kColumns>
inline constexpr std::size_t kCheckpointWords =
    static_cast<std::size_t>(kRows) * kColumns / 2 + kColumns;

template <int kRows, int kColumns, bool kDots>
struct SweepTiles {
  static constexpr int kHalf = kColumns / 2;  ///< a warpgroup's columns
  static constexpr int kBlocks = kRows / 64;
  static constexpr int kStateBytes = kRows * kColumns * 2;
  static constexpr int kXBytes = kRows * 128, kZBytes = kColumns * 128;
  static constexpr int kDotBytes = kDots ? kZBytes : 0;
  static constexpr int kStageBytes = kXBytes + kZBytes + kFactorBytes;  ///< y, z, factors
  static constexpr int kVectorFloats = 2 * (kRows > kHalf ? kRows : kHalf) + 8 * kHalf;
  static constexpr int bytes(int x_stages, int stages) {
    return kStateBytes + x_stages * kXBytes + stages * kStageBytes + kDotBytes + kVectorFloats * 4 +
           128;
  }
  static constexpr int kStages = bytes(1, 2) <= kSharedLimit ? 2 : 1;
  static constexpr int kXStages = bytes(2, kStages) <= kSharedLimit ? 2 : 1;
  static constexpr int kBytes = bytes(kXStages, kStages);
  static_assert(kRows % 64 == 0 && kColumns % 64 == 0 && kBytes <= kSharedLimit);
  static_assert(kBlocks * kHalf / 2 <= 128, "Z and the working set fit 240 registers");
};

template <Sweep kSweep>
inline constexpr bool kHasDots = kSweep == Sweep::kGradQ || kSweep == Sweep::kGradK;

/// One head, slice and part of the chunks.
struct SweepItem {
  int slice, head, b, h, part, from, to, chunks;
  Span span;
  bool starts, ends;  ///< in the sweep's direction: takes the caller's state, gives the caller's
  bool runs;
  float decay;  ///< product over the chunks so far
};
template <Sweep kSweep>
__device__ void sweep_item(const SweepArgs& a, int index, SweepItem& item) {
  const int heads = a.sizes.batch * a.sizes.heads;
  const int column = index / a.slices, part = column / heads, head = column % heads;
  const int b = head / a.sizes.heads;
  item.slice = index % a.slices;
  item.head = head;
  item.part = part;
  item.b = b;
  item.h = head % a.sizes.heads;
  const Span span = span_of(a.begin, a.end, b, a.sizes.tokens);
  item.span = span;
  const int chunks = span.chunks(), from = part * a.chunks_per_part;
  const int to = min(chunks, from + a.chunks_per_part);
  item.chunks = chunks;
  item.from = from;
  item.to = to;
  const bool first = part == 0, last = to == chunks;
  const bool ends = kIsReverse<kSweep> ? first : last;
  item.starts = kIsReverse<kSweep> ? last : first;
  item.ends = ends;
  item.runs = (from < to || first) && !(a.state_only && ends);
  item.decay = 1.0f;
}

/// The ring's place of the n-th use, and the parity of that use.
struct RingPlace {
  int stage, parity;
};
template <int kStages>
__device__ RingPlace ring_place(int n) {
  return {n % kStages, (n / kStages) & 1};
}

/// Where a consumer thread stands. Read anew in every phase of a chunk, from a register that the
/// compiler cannot keep: the accumulators leave no room for what can be had again.
__device__ inline void keep_bits(std::uint32_t& x) { asm volatile("" : "+r"(x)::"memory"); }
struct Stand {
  int tid;    ///< among both groups' 256
  int group;  ///< warpgroup
  int warp, lane, quad;
  int row;                 ///< first of the two rows of an accumulator, the other is + 8
  int matrix, matrix_row;  /// of ldmatrix and stmatrix
  __device__ Stand() {
    int thread;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
    tid = thread - 128;
    group = tid / 128;
    warp = tid % 128 / 32;
    lane = tid % 32;
    quad = lane % 4;
    row = 16 * warp + lane / 4;
    matrix = lane / 8;
    matrix_row = lane % 8;
  }
  __device__ int group_tid() const { return tid % 128; }
};

template <int kRows, int kColumns, Sweep kSweep>
__global__ __launch_bounds__(kSweepThreads,
                             1) void sweep_sm90(const __grid_constant__ SweepMaps maps,
                                                const __grid_constant__ SweepArgs a) {
  constexpr bool kReverse = kIsReverse<kSweep>;
  constexpr bool kDots = kHasDots<kSweep>;
  using Tiles = SweepTiles<kRows, kColumns, kDots>;
  constexpr int kHalf = Tiles::kHalf, kBlocks = Tiles::kBlocks;
  constexpr int kStages = Tiles::kStages, kXStages = Tiles::kXStages;
  constexpr bool kForward = kSweep == Sweep::kForward;
  // The halves of 64 columns share a swizzled tile, so one warp stores both.
  constexpr int kStorers = kHalf >= 64 ? 2 : 1;

  extern __shared__ __align__(1024) unsigned char shared[];
  unsigned char* const state = shared;
  unsigned char* const x_ring = state + Tiles::kStateBytes;
  unsigned char* const y_ring = x_ring + kXStages * Tiles::kXBytes;
  unsigned char* const z_ring = y_ring + kStages * Tiles::kXBytes;
  unsigned char* const dot_tile = z_ring + kStages * Tiles::kZBytes;
  unsigned char* const factor_ring = dot_tile + Tiles::kDotBytes;
  float* const vectors = reinterpret_cast<float*>(factor_ring + kStages * kFactorBytes);
  std::uint64_t* const barriers = reinterpret_cast<std::uint64_t*>(vectors + Tiles::kVectorFloats);
  std::uint64_t* const x_full = barriers;
  std::uint64_t* const x_empty = x_full + kXStages;
  std::uint64_t* const full = x_empty + kXStages;
  std::uint64_t* const empty = full + kStages;
  std::uint64_t* const out_full = empty + kStages;  // [2 warpgroups, kStages]
  std::uint64_t* const dot_full = out_full + 2 * kStages;
  std::uint64_t* const dot_empty = dot_full + 1;
  std::uint64_t* const unused = barriers + 15;
  __shared__ SweepItem shared_items[6];  // of the consumers, then of warps 0 to 3

  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  if (threadIdx.x == 0) {
    for (int s = 0; s < kXStages; ++s) {
      mbarrier_init(x_full + s, 1);
      mbarrier_init(x_empty + s, 8);
    }
    for (int s = 0; s < kStages; ++s) {
      mbarrier_init(full + s, 1);
      mbarrier_init(empty + s, kStorers);
      mbarrier_init(out_full + s, 4);
      mbarrier_init(out_full + kStages + s, 4);
    }
    mbarrier_init(dot_full, 1);
    mbarrier_init(dot_empty, 8);
    fence_barrier_init();
  }
  __syncthreads();

  if (warp < 4) {
    set_max_registers_down<kProducerRegisters>();
    SweepItem& item = shared_items[2 + warp];
    if (warp == 0 && lane == 0) {
      int n = 0;
      for (int index = static_cast<int>(blockIdx.x); index < a.items;
           index += static_cast<int>(gridDim.x)) {
        sweep_item<kSweep>(a, index, item);
        if (!item.runs) continue;
        for (int step = item.from; step < item.to; ++step, ++n) {
          const int chunk = kReverse ? item.to - 1 - (step - item.from) : step;
          const int token = item.span.begin + chunk * kChunk;
          const RingPlace place = ring_place<kStages>(n);
          mbarrier_wait(empty + place.stage, place.parity ^ 1);
          mbarrier_arrive_expect(full + place.stage, Tiles::kStageBytes);
          bulk_load(factor_ring + place.stage * kFactorBytes,
                    a.factors + (static_cast<std::int64_t>(item.head) * a.sizes.chunks + chunk) *
                                    kChunkFloats<false>,
                    kFactorBytes, full + place.stage);
          for (int block = 0; block < kBlocks; ++block) {
            tma_load_4d(y_ring + place.stage * Tiles::kXBytes + block * 8192, &maps.y,
                        full + place.stage, 64 * block, item.h, token, item.b);
          }
          for (int block = 0; block < kColumns / 64; ++block) {
            tma_load_4d(z_ring + place.stage * Tiles::kZBytes + block * 8192, &maps.z,
                        full + place.stage, item.slice * kColumns + 64 * block, item.h, token,
                        item.b);
          }
        }
      }
    } else if (warp == 3 && lane == 0 && !a.state_only) {
      int n = 0;
      for (int index = static_cast<int>(blockIdx.x); index < a.items;
           index += static_cast<int>(gridDim.x)) {
        sweep_item<kSweep>(a, index, item);
        if (!item.runs) continue;
        for (int step = item.from; step < item.to; ++step, ++n) {
          const int chunk = kReverse ? item.to - 1 - (step - item.from) : step;
          const int token = item.span.begin + chunk * kChunk;
          const RingPlace place = ring_place<kXStages>(n);
          mbarrier_wait(x_empty + place.stage, place.parity ^ 1);
          mbarrier_arrive_expect(x_full + place.stage, Tiles::kXBytes);
          for (int block = 0; block < kBlocks; ++block) {
            tma_load_4d(x_ring + place.stage * Tiles::kXBytes + block * 8192, &maps.x,
                        x_full + place.stage, 64 * block, item.h, token, item.b);
          }
          if (kDots) {
            mbarrier_wait(dot_empty, (n & 1) ^ 1);
            mbarrier_arrive_expect(dot_full, Tiles::kDotBytes);
            for (int block = 0; block < kColumns / 64; ++block) {
              tma_load_4d(dot_tile + block * 8192, &maps.dot, dot_full,
                          item.slice * kColumns + 64 * block, item.h, token, item.b);
            }
          }
        }
      }
    } else if (warp >= 1 && warp <= kStorers && lane == 0) {
      const int storer = warp - 1;
      int n = 0;
      for (int index = static_cast<int>(blockIdx.x); index < a.items;
           index += static_cast<int>(gridDim.x)) {
        sweep_item<kSweep>(a, index, item);
        if (!item.runs) continue;
        for (int step = item.from; step < item.to; ++step, ++n) {
          const int chunk = kReverse ? item.to - 1 - (step - item.from) : step;
          const int token = item.span.begin + chunk * kChunk;
          const RingPlace place = ring_place<kStages>(n);
          mbarrier_wait(out_full + storer * kStages + place.stage, place.parity);
          if (kStorers == 1) mbarrier_wait(out_full + kStages + place.stage, place.parity);
          if (!a.state_only) {
            constexpr int kTiles = kColumns / 64 / kStorers;
            for (int block = storer * kTiles; block < (storer + 1) * kTiles; ++block) {
              tma_store_4d(&maps.out, z_ring + place.stage * Tiles::kZBytes + block * 8192,
                           item.slice * kColumns + 64 * block, item.h, token, item.b);
            }
            tma_store_commit();
            tma_store_wait_read<0>();
          }
          mbarrier_arrive(empty + place.stage);
        }
      }
      tma_store_wait<0>();
    }
  } else {
    set_max_registers_up<kConsumerRegisters>();
    // Steps of 16 along the summed dimension, in a descriptor's units.
    const auto k_step = [](int k) {
      return static_cast<std::uint64_t>((k / 4 * 8192 + k % 4 * 32) >> 4);
    };
    const auto mn_step = [](int k) { return static_cast<std::uint64_t>((k * 2048) >> 4); };
    const auto group_sync = [](const Stand& at) { named_barrier_sync(1 + at.group, 128); };
    // A warpgroup's columns in the copy of Z, in a tile of z, in a row of either.
    constexpr int kStateTile = kRows * 128;
    // From a shuffle, so that descriptors stay in uniform registers.
    const int group = __shfl_sync(kAllLanes, static_cast<int>(threadIdx.x) / 128 - 1, 0);
    const auto half_offset = [&](int tile) {
      return static_cast<std::uint32_t>(kHalf >= 64 ? group * (kHalf / 64) * tile : group * 64);
    };
    constexpr int kVector = kRows > kHalf ? kRows : kHalf;
    // forward: n over Z's rows; dq, dk: over the group's columns
    const auto n_of = [&](const Stand& at) { return vectors + at.group * kVector; };
    const auto n_parts_of = [&](const Stand& at) {
      return vectors + 2 * kVector + at.group * 4 * kHalf;
    };
    const bool has_n = a.normalize && kSweep != Sweep::kGradV;
    constexpr int kNSize = kForward ? kRows : kHalf;
    // Element (r, c) of the group's half in tiles of 64 columns that lie `tile` bytes apart.
    const auto half_address = [](const Stand& at, unsigned char* base, int tile, int r, int c) {
      const int within = at.group * kHalf + c;
      return base + within / 64 * tile +
             swizzle_128(static_cast<std::uint32_t>(r), static_cast<std::uint32_t>(within % 64));
    };
    // Where this lane's row of four 8x8 matrices goes: rows first + 16 warp + 0 or 8, columns 8 j +
    // 0 or 8 of the half (j even).
    const auto fragment_address = [](const Stand& at, unsigned char* base, int tile, int first,
                                     int j) {
      const int column =
          kHalf >= 64 ? 8 * j : 32 * at.group + 8 * j;  // within the half, or the tile
      const int tiles = kHalf >= 64 ? at.group * (kHalf / 64) + column / 64 : 0;
      return base + tiles * tile + first * 128 +
             (16 * at.warp + (at.matrix & 1) * 8 + at.matrix_row) * 128 +
             (((at.matrix >> 1) ^ at.matrix_row) * 16 ^ column % 64 * 2);
    };

    float z_acc[kBlocks][kHalf / 2];
    int n = 0;
    // Kept in shared memory: the accumulators leave no registers for what a chunk reads once.
    SweepItem& item = shared_items[group];
    for (int index = static_cast<int>(blockIdx.x); index < a.items;
         index += static_cast<int>(gridDim.x)) {
      Stand at;
      group_sync(at);  // the last item's readers of it, of the vectors and of Z's copy are done
      if (at.group_tid() == 0) sweep_item<kSweep>(a, index, item);
      group_sync(at);
      if (!item.runs) continue;
      const auto n_first = [&](const Stand& here) {
        return kForward ? 0 : item.slice * kColumns + here.group * kHalf;
      };
      const auto n_place = [&](const Stand& here, int j) {  // of the caller's n, or -1
        const int limit = kForward ? a.x_dim : a.z_dim, place = n_first(here) + j;
        return place < limit ? static_cast<std::int64_t>(item.head) * limit + place : -1;
      };
      const auto place_of = [&](int part) {
        return ((static_cast<std::size_t>(part) * a.sizes.batch * a.sizes.heads + item.head) *
                    a.slices +
                item.slice) *
               kPartFloats<kRows, kColumns>;
      };
      // --- the state before the first chunk
      const float* from = nullptr;
      if (item.starts) {
        if (a.z_in != nullptr) from = a.z_in + place_of(0);
      } else if (!a.state_only) {
        from = a.part_state + place_of(item.part);
      }
#pragma unroll
      for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
        for (int e = 0; e < kHalf / 2; ++e) {
          z_acc[block][e] = from != nullptr ? from[(block * kHalf / 2 + e) * 256 + at.tid] : 0.0f;
        }
      }
      const auto put_state_dot = [&](float sum, int chunk) {
        for (int d = 16; d > 0; d /= 2) sum += __shfl_xor_sync(kAllLanes, sum, d);
        const int thread = Stand().tid;
        if (thread % 32 == 0) {
          const std::int64_t row = static_cast<std::int64_t>(item.head) * a.sizes.checkpoints +
                                   chunk / kChunksPerCheckpoint;
          a.state_dot[(row * a.slices + item.slice) * 8 + thread / 32] = sum;
        }
      };
      const auto copy_state = [&](const Stand& here) {
#pragma unroll
        for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
          for (int j = 0; j < kHalf / 8; j += 2) {
            const float* z = z_acc[block] + 4 * j;
            stmatrix_x4(fragment_address(here, state, kStateTile, 64 * block, j),
                        pack_bf16(z[0], z[1]), pack_bf16(z[2], z[3]), pack_bf16(z[4], z[5]),
                        pack_bf16(z[6], z[7]));
          }
        }
      };
      if (has_n) {
        for (int j = at.group_tid(); j < kNSize; j += 128) {
          float value = 0;
          if (item.starts) {
            if (a.n_in != nullptr && n_place(at, j) >= 0) value = a.n_in[n_place(at, j)];
          } else if (from != nullptr) {
            value = from[kRows * kColumns + (kForward ? 0 : at.group * kHalf) + j];
          }
          n_of(at)[j] = value;
        }
      }
      if (!a.state_only) copy_state(at);
      fence_proxy_async();
      group_sync(at);
      // <C, dC> where dC is as the products below see it, in bf16: what k . dk has of it cancels.
      const auto rounded = [](float x) { return __bfloat162float(__float2bfloat16(x)); };
      if (kSweep == Sweep::kGradK && item.starts && item.from < item.to && !a.state_only &&
          a.z_final != nullptr) {
        const float* kept = a.z_final + place_of(0);
        float sum = 0;
#pragma unroll
        for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
          for (int e = 0; e < kHalf / 2; ++e) {
            sum += rounded(z_acc[block][e]) * kept[(block * kHalf / 2 + e) * 256 + at.tid];
          }
        }
        if (has_n && at.group_tid() < kHalf) {
          sum +=
              n_of(at)[at.group_tid()] * kept[kRows * kColumns + at.group * kHalf + at.group_tid()];
        }
        put_state_dot(sum, item.chunks - 1);
      }
      const auto at_checkpoint = [&](int chunk) {
        return chunk != item.chunks - 1 && (chunk + 1) % kChunksPerCheckpoint == 0;
      };
      const auto checkpoint_of = [&](int chunk) {
        return a.checkpoints + ((static_cast<std::size_t>(item.head) * a.slices + item.slice) *
                                    a.sizes.checkpoints +
                                chunk / kChunksPerCheckpoint) *
                                   kCheckpointWords<kRows, kColumns>;
      };

      for (int step = item.from; step < item.to; ++step, ++n) {
        const int chunk = kReverse ? item.to - 1 - (step - item.from) : step;
        if (kSweep == Sweep::kGradK && !a.state_only && at_checkpoint(chunk)) {
          const Stand here;
          const std::uint32_t* kept = checkpoint_of(chunk);
          float sum = 0;
#pragma unroll
          for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
            for (int e = 0; e < kHalf / 4; ++e) {
              const std::uint32_t pair = kept[(block * kHalf / 4 + e) * 256 + here.tid];
              sum += rounded(z_acc[block][2 * e]) * __uint_as_float(pair << 16) +
                     rounded(z_acc[block][2 * e + 1]) * __uint_as_float(pair & 0xffff0000u);
            }
          }
          if (has_n && here.group_tid() < kHalf) {
            sum +=
                n_of(here)[here.group_tid()] *
                __uint_as_float(kept[kRows * kColumns / 2 + here.group * kHalf + here.group_tid()]);
          }
          put_state_dot(sum, chunk);
        }
        const RingPlace place = ring_place<kStages>(n);
        unsigned char* const y_tile = y_ring + place.stage * Tiles::kXBytes;
        unsigned char* const z_tile = z_ring + place.stage * Tiles::kZBytes;
        const float* const factors =
            reinterpret_cast<const float*>(factor_ring + place.stage * kFactorBytes);
        mbarrier_wait(full + place.stage, place.parity);
        const auto count_of = [&] { return __float_as_int(factors[kChunkHeader<false> + 1]); };
        if (const int count = count_of(); count < kChunk) {
          // What lies behind the sequence may be NaN, and 0 NaN is NaN.
          const Stand here;
          const uint4 zero = {0, 0, 0, 0};
          for (int e = here.group_tid(); e < (kChunk - count) * 8; e += 128) {
            const int r = count + e / 8, piece = e % 8;
            for (int block = 0; block < kBlocks; ++block) {
              *reinterpret_cast<uint4*>(y_tile + block * 8192 + r * 128 + piece * 16) = zero;
            }
            for (int c = 8 * piece; c < kHalf; c += 64) {
              *reinterpret_cast<uint4*>(half_address(here, z_tile, 8192, r, c)) = zero;
            }
          }
          fence_proxy_async();
          group_sync(here);
        }
        std::uint32_t packed[kHalf / 8][2];
        if (!a.state_only) {
          const RingPlace x_place = ring_place<kXStages>(n);
          unsigned char* const x_tile = x_ring + x_place.stage * Tiles::kXBytes;
          mbarrier_wait(x_full + x_place.stage, x_place.parity);

          // --- S = x y^T
          const std::uint64_t x_descriptor = wgmma_descriptor(shared_address(x_tile));
          const std::uint64_t y_descriptor = wgmma_descriptor(shared_address(y_tile));
          float s[32];
          wgmma_fence();
#pragma unroll
          for (int k = 0; k < kRows / 16; ++k) {
            const std::uint64_t step_k = k_step(k);
            wgmma_ss<64, Major::kK, Major::kK>(s, x_descriptor + step_k, y_descriptor + step_k,
                                               k > 0);
          }
          wgmma_commit();
          const float* const row_exponents =
              factors + (kReverse ? kExponentS : kExponentT) * kChunk;
          const float* const column_exponents =
              factors + (kReverse ? kExponentT : kExponentS) * kChunk;
          const Stand here;
          const int row = here.row, quad = here.quad;
          const auto inter_of = [&](int r) {
            return factors[(kReverse ? kInterS : kInterT) * kChunk + here.row + 8 * r];
          };
          const auto auxiliary_of = [&](int r) {
            return factors[kAuxiliary * kChunk + here.row + 8 * r];
          };
          float n_dot[2] = {0, 0};
          if (kForward && has_n) {
            // q . n in float32; a quad's lanes take every fourth 16 bytes of the two rows.
#pragma unroll
            for (int i = 0; i < kRows / 32; ++i) {
              const int piece = 4 * i + quad;
              const float* const n_here = n_of(here) + 8 * piece;
              const float4 n_low = *reinterpret_cast<const float4*>(n_here);
              const float4 n_high = *reinterpret_cast<const float4*>(n_here + 4);
#pragma unroll
              for (int r = 0; r < 2; ++r) {
                const uint4 q = *reinterpret_cast<const uint4*>(
                    x_tile + piece / 8 * 8192 +
                    swizzle_128(static_cast<std::uint32_t>(row + 8 * r),
                                static_cast<std::uint32_t>(piece % 8 * 8)));
                n_dot[r] += __uint_as_float(q.x << 16) * n_low.x +
                            __uint_as_float(q.x & 0xffff0000u) * n_low.y +
                            __uint_as_float(q.y << 16) * n_low.z +
                            __uint_as_float(q.y & 0xffff0000u) * n_low.w +
                            __uint_as_float(q.z << 16) * n_high.x +
                            __uint_as_float(q.z & 0xffff0000u) * n_high.y +
                            __uint_as_float(q.w << 16) * n_high.z +
                            __uint_as_float(q.w & 0xffff0000u) * n_high.w;
              }
            }
          }
          float row_exponent[2], row_bias[2];
          int low[2], high[2];
#pragma unroll
          for (int r = 0; r < 2; ++r) {
            const int at = row + 8 * r;
            row_exponent[r] = row_exponents[at];
            row_bias[r] = kSweep == Sweep::kGradQ ? auxiliary_of(r) : 0.0f;
            const int document = __float_as_int(factors[kSpan * kChunk + at]);
            low[r] = (kReverse ? at : document & 255) - 2 * quad;
            high[r] = (kReverse ? document >> 8 : at) - 2 * quad;
          }
          wgmma_wait<0>();
          keep_all(s);

          // --- P
          std::uint32_t p[4][4];
          float row_sum[2] = {0, 0};
#pragma unroll
          for (int j = 0; j < 8; ++j) {
            const float2 exponent =
                *reinterpret_cast<const float2*>(column_exponents + 8 * j + 2 * quad);
            float2 bias = {0, 0};
            if (kSweep == Sweep::kGradK) {
              bias = *reinterpret_cast<const float2*>(factors + kAuxiliary * kChunk + 8 * j +
                                                      2 * quad);
            }
#pragma unroll
            for (int r = 0; r < 2; ++r) {
              float value[2];
#pragma unroll
              for (int c = 0; c < 2; ++c) {
                const int column = 8 * j + c;  // less 2 quad, as low and high are
                const float here = kSweep == Sweep::kGradQ ? row_bias[r] : c == 0 ? bias.x : bias.y;
                const float dot = kDots ? s[4 * j + 2 * r + c] + here : s[4 * j + 2 * r + c];
                value[c] = exp2_fast(row_exponent[r] + (c == 0 ? exponent.x : exponent.y)) * dot;
                if (column < low[r] || column > high[r]) value[c] = 0;
                if (kForward) row_sum[r] += value[c];
              }
              p[j / 2][j % 2 * 2 + r] = pack_bf16(value[0], value[1]);
            }
          }

          float row_weight[2] = {1, 1};
          const std::int64_t position =
              (static_cast<std::int64_t>(item.head) * a.sizes.chunks + chunk) * kChunk + row;
          if (kForward && has_n) {
#pragma unroll
            for (int r = 0; r < 2; ++r) {
              float beta = row_sum[r] + inter_of(r) * n_dot[r];
              beta += __shfl_xor_sync(kAllLanes, beta, 1);
              beta += __shfl_xor_sync(kAllLanes, beta, 2);
              const float floor = auxiliary_of(r);
              row_weight[r] = 1.0f / (fmaxf(fabsf(beta), floor) + a.eps);
              if (a.inverse_norm != nullptr && quad == 0 && here.group == 0 && item.slice == 0) {
                a.inverse_norm[position + 8 * r] = row_weight[r];
                a.sign[position + 8 * r] = fabsf(beta) > floor ? copysignf(1.0f, beta) : 0.0f;
              }
            }
          }

          // --- O = ri (x Z) + P z
#pragma unroll
          for (int k = 0; k < 4; ++k) {
#pragma unroll
            for (int i = 0; i < 4; ++i) keep_bits(p[k][i]);  // done before O claims its registers
          }
          if constexpr (kSweep == Sweep::kGradV || kSweep == Sweep::kGradK) {
            // The same for ptxas, which would compute P beside O and then lacks registers for S, P,
            // O and Z together: something of no use that wants all of P.
            std::uint32_t bits = 0;
#pragma unroll
            for (int k = 0; k < 4; ++k) bits |= p[k][0] | p[k][1] | p[k][2] | p[k][3];
            if (__shfl_xor_sync(kAllLanes, bits, 1) == 0x7fa37fa5u) {
              *reinterpret_cast<volatile std::uint32_t*>(unused) = bits;
            }
          }
          const std::uint64_t state_descriptor =
              wgmma_descriptor(shared_address(state) + half_offset(kStateTile), kStateTile);
          const std::uint64_t z_descriptor =
              wgmma_descriptor(shared_address(z_tile) + half_offset(8192), 8192);
          float o[kHalf / 2];
          wgmma_fence();
#pragma unroll
          for (int k = 0; k < kRows / 16; ++k) {
            wgmma_ss<kHalf, Major::kK, Major::kMn>(o, x_descriptor + k_step(k),
                                                   state_descriptor + mn_step(k), k > 0);
          }
          wgmma_commit();
          wgmma_wait<0>();
          keep_all(o);
          __syncwarp();
          if (here.lane == 0) mbarrier_arrive(x_empty + x_place.stage);
          {
            const float inter[2] = {inter_of(0), inter_of(1)};
#pragma unroll
            for (int e = 0; e < kHalf / 2; ++e) o[e] *= inter[e / 2 % 2];
          }
          wgmma_fence();
#pragma unroll
          for (int k = 0; k < 4; ++k) {
            wgmma_rs<kHalf, Major::kMn>(o, p[k], z_descriptor + mn_step(k), true);
          }
          wgmma_commit();
          wgmma_wait<0>();
          keep_all(o);
          const Stand there;
          const int count = count_of();
          float dot[2] = {0, 0}, n_weight[2] = {0, 0};
          if (kDots) {
            mbarrier_wait(dot_full, n & 1);
#pragma unroll
            for (int r = 0; r < 2; ++r) {
              n_weight[r] = kSweep == Sweep::kGradQ ? inter_of(r) * auxiliary_of(r) : inter_of(r);
            }
          }
#pragma unroll
          for (int j = 0; j < kHalf / 8; ++j) {
            float2 n_here = {0, 0};
            if (kDots && has_n)
              n_here = *reinterpret_cast<const float2*>(n_of(there) + 8 * j + 2 * there.quad);
#pragma unroll
            for (int r = 0; r < 2; ++r) {
              float left = o[4 * j + 2 * r], right = o[4 * j + 2 * r + 1];
              if (kForward) {
                left *= row_weight[r];
                right *= row_weight[r];
              }
              if (kDots) {
                left += n_weight[r] * n_here.x;
                right += n_weight[r] * n_here.y;
                const std::uint32_t pair = *reinterpret_cast<const std::uint32_t*>(
                    half_address(there, dot_tile, 8192, there.row + 8 * r, 8 * j + 2 * there.quad));
                dot[r] += left * __uint_as_float(pair << 16) +
                          right * __uint_as_float(pair & 0xffff0000u);
              }
              packed[j][r] = there.row + 8 * r < count ? pack_bf16(left, right) : 0u;
            }
          }
          if (kDots) {
            __syncwarp();
            if (there.lane == 0) mbarrier_arrive(dot_empty);
#pragma unroll
            for (int r = 0; r < 2; ++r) {
              dot[r] += __shfl_xor_sync(kAllLanes, dot[r], 1);
              dot[r] += __shfl_xor_sync(kAllLanes, dot[r], 2);
              if (there.quad == 0) {
                a.dot_out[(2 * item.slice + there.group) * a.part_stride +
                          (static_cast<std::int64_t>(item.head) * a.sizes.chunks + chunk) * kChunk +
                          there.row + 8 * r] = dot[r];
              }
            }
          }
        }

        // --- Z = decay Z + (u y)^T z
        const float* const update = factors + (kReverse ? kInterT : kInterS) * kChunk;
        const Stand here;
        const float decay = factors[kChunkHeader<false>];
        if (a.state_only && here.group_tid() == 0) item.decay *= decay;
        float n_sum[kBlocks][2];
        constexpr int kBuffers = kHalf == 128 ? 1 : 2;  // O takes the registers of the second
        std::uint32_t y_part[kBuffers][4][4];
        const std::uint64_t z_descriptor =
            wgmma_descriptor(shared_address(z_tile) + half_offset(8192), 8192);
#pragma unroll
        for (int block = 0; block < kBlocks; ++block) {
          if (block >= kBuffers) wgmma_wait<kBuffers - 1>();
          n_sum[block][0] = n_sum[block][1] = 0;
#pragma unroll
          for (int k = 0; k < 4; ++k) {
            std::uint32_t(&part_k)[4] = y_part[block % kBuffers][k];
            ldmatrix_x4_transposed(
                y_tile + block * 8192 +
                    swizzle_128(static_cast<std::uint32_t>(16 * k + (here.matrix >> 1) * 8 +
                                                           here.matrix_row),
                                static_cast<std::uint32_t>(16 * here.warp + (here.matrix & 1) * 8)),
                part_k);
#pragma unroll
            for (int i = 0; i < 4; ++i) {
              const float2 weight =
                  *reinterpret_cast<const float2*>(update + 16 * k + i / 2 * 8 + 2 * here.quad);
              const float left = __uint_as_float(part_k[i] << 16) * weight.x;
              const float right = __uint_as_float(part_k[i] & 0xffff0000u) * weight.y;
              if (kForward) n_sum[block][i % 2] += left + right;
              part_k[i] = pack_bf16(left, right);
            }
          }
#pragma unroll
          for (int e = 0; e < kHalf / 2; ++e) z_acc[block][e] *= decay;
          wgmma_fence();
#pragma unroll
          for (int k = 0; k < 4; ++k) {
            wgmma_rs<kHalf, Major::kMn>(z_acc[block], y_part[block % kBuffers][k],
                                        z_descriptor + mn_step(k), true);
          }
          wgmma_commit();
        }
        if (kDots && has_n) {
          // Column sums of the weighted z: a warp takes 16 tokens, a lane two columns.
          const float* const bias = factors + kAuxiliary * kChunk;
          for (int c = 2 * here.lane; c < kHalf; c += 64) {
            float2 sum = {0, 0};
            for (int t = 16 * here.warp; t < 16 * here.warp + 16; ++t) {
              const float weight = kReverse ? update[t] * bias[t] : update[t];
              const std::uint32_t pair =
                  *reinterpret_cast<const std::uint32_t*>(half_address(here, z_tile, 8192, t, c));
              sum.x += weight * __uint_as_float(pair << 16);
              sum.y += weight * __uint_as_float(pair & 0xffff0000u);
            }
            *reinterpret_cast<float2*>(n_parts_of(here) + here.warp * kHalf + c) = sum;
          }
        }
        wgmma_wait<0>();
#pragma unroll
        for (int block = 0; block < kBlocks; ++block) keep_all(z_acc[block]);
        const Stand late;
        group_sync(late);  // all four warps are done with z, Z's copy and n
        if (!a.state_only) {
#pragma unroll
          for (int j = 0; j < kHalf / 8; j += 2) {
            stmatrix_x4(fragment_address(late, z_tile, 8192, 0, j), packed[j][0], packed[j][1],
                        packed[j + 1][0], packed[j + 1][1]);
          }
          fence_proxy_async();
        }
        __syncwarp();
        if (late.lane == 0) mbarrier_arrive(out_full + late.group * kStages + place.stage);
        if (kForward && has_n) {
#pragma unroll
          for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
            for (int r = 0; r < 2; ++r) {
              float sum = n_sum[block][r];
              sum += __shfl_xor_sync(kAllLanes, sum, 1);
              sum += __shfl_xor_sync(kAllLanes, sum, 2);
              float& entry = n_of(late)[64 * block + late.row + 8 * r];
              if (late.quad == 0) entry = decay * entry + sum;
            }
          }
        }
        if (kDots && has_n && late.group_tid() < kHalf) {
          float& entry = n_of(late)[late.group_tid()];
          float sum = decay * entry;
          for (int i = 0; i < 4; ++i) sum += n_parts_of(late)[i * kHalf + late.group_tid()];
          entry = sum;
        }
        if (!a.state_only) {
          copy_state(late);
          fence_proxy_async();
        }
        group_sync(late);
        if (kSweep == Sweep::kGradQ && !a.state_only && at_checkpoint(chunk)) {
          std::uint32_t* keep_at = checkpoint_of(chunk);
#pragma unroll
          for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
            for (int e = 0; e < kHalf / 4; ++e) {
              keep_at[(block * kHalf / 4 + e) * 256 + late.tid] =
                  pack_bf16(z_acc[block][2 * e], z_acc[block][2 * e + 1]);
            }
          }
          if (has_n && late.group_tid() < kHalf) {
            keep_at[kRows * kColumns / 2 + late.group * kHalf + late.group_tid()] =
                __float_as_uint(n_of(late)[late.group_tid()]);
          }
        }
      }

      // --- the state behind the last chunk
      const Stand end;
      float* to = nullptr;
      if (a.state_only) {
        to = a.part_state + place_of(item.part + (kReverse ? -1 : 1));
        if (end.tid == 0 && item.slice == 0) {
          a.part_decay[item.part * a.sizes.batch * a.sizes.heads + item.head] = item.decay;
        }
      } else if (item.ends && a.z_out != nullptr) {
        to = a.z_out + place_of(0);
      }
      if (to != nullptr) {
#pragma unroll
        for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
          for (int e = 0; e < kHalf / 2; ++e) {
            to[(block * kHalf / 2 + e) * 256 + end.tid] = z_acc[block][e];
          }
        }
        if (has_n && (!kForward || end.group == 0)) {
          for (int j = end.group_tid(); j < kNSize; j += 128) {
            to[kRows * kColumns + (kForward ? 0 : end.group * kHalf) + j] = n_of(end)[j];
          }
        }
      }
      if (!a.state_only && item.ends && has_n && a.n_out != nullptr &&
          (!kForward || (end.group == 0 && item.slice == 0))) {
        for (int j = end.group_tid(); j < kNSize; j += 128) {
          if (n_place(end, j) >= 0) a.n_out[n_place(end, j)] = n_of(end)[j];
        }
      }
    }
  }
}

}  // namespace lram::kernels::mlstm_long
