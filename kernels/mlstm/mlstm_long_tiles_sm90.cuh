#pragma once
#include "kernels/common/tma.h"
#include "kernels/common/warp_arrive.cuh"
#include "kernels/common/wgmma.cuh"
#include "kernels/mlstm/mlstm_long_rows.cuh"

/// What a sweep on Hopper (mlstm_long_sweep_sm90.cuh) is given, how it lays out shared memory,
/// which part of the work an index means and where its threads stand.
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
  /// Wide x comes in pieces of 64 columns, each gone after its part of S and x Z; else whole.
  static constexpr bool kPiecewise = kRows > 512;
  static constexpr int kXPieces = kPiecewise ? kBlocks : 1;  ///< uses of the ring of x a chunk
  static constexpr int kXPieceBytes = kXBytes / kXPieces;
  static constexpr int kDotBytes = kDots ? kZBytes : 0;
  static constexpr int kStageBytes = kXBytes + kZBytes + kFactorBytes;  ///< y, z, factors
  /// n of both groups, then what it grows by: in dq and dk a warp's sums, in a piecewise forward
  /// all of it.
  static constexpr int kGrowth = kPiecewise && !kDots ? kRows : 4 * kHalf;
  static constexpr int kVectorFloats = 2 * (kRows > kHalf ? kRows : kHalf) + 2 * kGrowth;
  static constexpr int kBarriers = kPiecewise ? 32 : 16;
  static constexpr int bytes(int x_stages, int stages) {
    return kStateBytes + x_stages * kXPieceBytes + stages * kStageBytes + kDotBytes +
           kVectorFloats * 4 + kBarriers * 8;
  }
  static constexpr int kStages = !kPiecewise && bytes(1, 2) <= kSharedLimit ? 2 : 1;
  static constexpr int kXStages = kPiecewise ? 5 : bytes(2, kStages) <= kSharedLimit ? 2 : 1;
  static constexpr int kBytes = bytes(kXStages, kStages);
  static_assert(kRows % 64 == 0 && kColumns % 64 == 0 && kBytes <= kSharedLimit);
  static_assert(2 * kXStages + 4 * kStages + 2 < kBarriers);
  static_assert(kBlocks * kHalf / 2 <= 128 || (kBlocks == 10 && kHalf == 32),
                "Z and the working set fit 240 registers");
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
  int index;    ///< the consumers': of this item
  int before;   ///< the consumers': chunks before this item's `from`
  int step;     ///< the consumers': from `from` to `to`
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

template <Sweep kSweep>
__device__ __forceinline__ int chunk_of(const SweepItem& item, int step) {
  return kIsReverse<kSweep> ? item.to - 1 - (step - item.from) : step;
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
    tid = read_thread_index() - 128;
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

/// A CTA's dynamic shared memory, aligned to 1024.
template <int kRows, int kColumns, Sweep kSweep>
struct SweepShared {
  using Tiles = SweepTiles<kRows, kColumns, kHasDots<kSweep>>;
  static constexpr int kStages = Tiles::kStages, kXStages = Tiles::kXStages;
  static constexpr int kXPieces = Tiles::kXPieces;
  /// The halves of 64 columns share a swizzled tile, so one warp stores both.
  static constexpr int kStorers = Tiles::kHalf >= 64 ? 2 : 1;

  unsigned char *state, *x_ring, *y_ring, *z_ring, *dot_tile, *factor_ring;
  float* vectors;
  std::uint64_t *x_full, *x_empty, *full, *empty;
  std::uint64_t* out_full;  ///< [2 warpgroups, kStages]
  std::uint64_t *dot_full, *dot_empty;
  std::uint64_t* unused;

  __device__ __forceinline__ explicit SweepShared(unsigned char* base)
      : state(base),
        x_ring(state + Tiles::kStateBytes),
        y_ring(x_ring + kXStages * Tiles::kXPieceBytes),
        z_ring(y_ring + kStages * Tiles::kXBytes),
        dot_tile(z_ring + kStages * Tiles::kZBytes),
        factor_ring(dot_tile + Tiles::kDotBytes),
        vectors(reinterpret_cast<float*>(factor_ring + kStages * kFactorBytes)),
        x_full(reinterpret_cast<std::uint64_t*>(vectors + Tiles::kVectorFloats)),
        x_empty(x_full + kXStages),
        full(x_empty + kXStages),
        empty(full + kStages),
        out_full(empty + kStages),
        dot_full(out_full + 2 * kStages),
        dot_empty(dot_full + 1),
        unused(x_full + Tiles::kBarriers - 1) {}

  __device__ __forceinline__ void init_barriers() const {
    for (int s = 0; s < kXStages; ++s) {
      mbarrier_init(x_full + s, 1);
      mbarrier_init(x_empty + s, 8 * kArrivalsPerWarp);
    }
    for (int s = 0; s < kStages; ++s) {
      mbarrier_init(full + s, 1);
      mbarrier_init(empty + s, kStorers);
      mbarrier_init(out_full + s, 4 * kArrivalsPerWarp);
      mbarrier_init(out_full + kStages + s, 4 * kArrivalsPerWarp);
    }
    mbarrier_init(dot_full, 1);
    mbarrier_init(dot_empty, 8 * kArrivalsPerWarp);
    fence_barrier_init();
  }
};

}  // namespace lram::kernels::mlstm_long
