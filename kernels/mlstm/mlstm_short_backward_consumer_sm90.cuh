#pragma once
#include "kernels/mlstm/mlstm_short_backward_sm90.cuh"

/// A warpgroup of the short form's backward: what it holds, takes and multiplies; its phases are in
/// mlstm_short_backward_phases_sm90.cuh.
namespace lram::kernels::mlstm_short {

template <int kRows, bool kStates>
class BackwardConsumer {
  using Shape = BackwardShape<kRows>;
  using Shared = BackwardShared<kRows, kStates>;
  static_assert(kRows != 3 || !kStates);
  static constexpr bool kBothRows = kRows == 3;
  static constexpr int kAccumulators = Share<kRows>::kAccumulators;
  static constexpr int kBarrier = 3, kBarrierThreads = kRows == 1 ? 128 : 256;

 public:
  __device__ BackwardConsumer(const BackwardArgs& args, const BackwardMaps& maps, Shared& shared,
                              int group)
      : a_(args),
        maps_(maps),
        shared_(shared),
        share_{group},
        ring_{shared.slots[0], shared.full, shared.empty},
        store_{shared.out[group == 0 ? 0 : 2], group, kRows == 3 ? 2 - group : 2} {
    ring_.slot_bytes = Shape::kSlotBytes;
  }

  __device__ void run() {
    int n = 0;
    for (unit_ = blockIdx.x; unit_ < a_.units; unit_ += gridDim.x, ++n) {
      const int batch = unit_ / a_.heads;
      begin_ = a_.gates.begin != nullptr ? a_.gates.begin[batch] : 0;
      end_ = a_.gates.end != nullptr ? a_.gates.end[batch] : a_.gates.tokens;
      clear_ = begin_ > 0 || end_ < a_.gates.tokens;
      rows_ = &shared_.rows[n % 2];
      probabilities(n);
      value_and_score_gradients();
      query_and_key_gradients(n);
      __syncwarp();
      release(&shared_.dots_full);
      release(&shared_.gates_empty[n % 2]);
    }
    if (threadIdx.x % 128 == 0) tma_store_wait<0>();
  }

 private:
  /// Tiles of scores (then dP, dS) in registers: those of one accumulator's row, or of both. Those
  /// past the row's diagonal hold nothing.
  __host__ __device__ static constexpr int held(int row) {
    return kBothRows ? 3 : Share<kRows>::most(row);
  }
  template <int kRow>
  using Scores = float[held(kRow)][32];
  using Dots = float[kAccumulators][2];
  struct Place {
    int row, column;
  };

  const BackwardArgs& a_;
  const BackwardMaps& maps_;
  Shared& shared_;
  const Share<kRows> share_;
  Ring<Shape::kSlots> ring_;
  TileStore store_;
  int unit_ = 0, begin_ = 0, end_ = 0;
  bool clear_ = false;
  RowTable<Shape::kTokens>* rows_ = nullptr;
  std::uint64_t* taken_[2] = {};  // of the slices in hand, to release

  __device__ static int lane() { return threadIdx.x % 32; }
  /// The thread's first row within a tile.
  __device__ static int local() { return 16 * (threadIdx.x / 32 % 4) + lane() / 4; }
  __device__ void release(std::uint64_t* barrier) const { warp_arrive(barrier, lane()); }
  __device__ void release_taken() const {
    release(taken_[0]);
    release(taken_[1]);
  }
  __device__ unsigned char* take_state(int which) {
    ring_.wait_full();
    unsigned char* slot = ring_.data();
    taken_[which] = &ring_.empty[ring_.slot];
    ring_.advance();
    return slot;
  }
  __device__ const unsigned char* take(int which) {
    unsigned char* slot = take_state(which);
    if (clear_) clear_outside(slot, Shape::kTokens, begin_, end_, share_.group);
    return slot;
  }
  __device__ void both_groups() const { named_barrier_sync(kBarrier, kBarrierThreads); }
  __device__ bool has_initial() const { return kStates && a_.has_initial; }
  __device__ bool has_final() const { return kStates && a_.has_final; }

  template <int kRow>
  __device__ Place place(int j) const {
    const int accumulator = kBothRows ? (j > 0) : kRow, within = kBothRows && j > 0 ? j - 1 : j;
    return {share_.row(accumulator), share_.column_in_row(accumulator, within)};
  }
  template <int kRow>
  __device__ bool holds(int j) const {
    return Share<kRows>::kNoneTooMany || j < share_.row_count(kRow);
  }
  __device__ unsigned char* score_tile_at(const Place& p) const {
    return shared_.scores[score_tile(p.row, p.column)];
  }

  // x += rows columns^T
  template <int kRow>
  __device__ void accumulate(Scores<kRow>& x, const unsigned char* rows,
                             const unsigned char* columns) const {
#pragma unroll
    for (int j = 0; j < held(kRow); ++j) {
      const Place p = place<kRow>(j);
      const std::uint32_t a = shared_address(rows) + p.row * kTileBytes,
                          b = shared_address(columns) + p.column * kTileBytes;
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        wgmma_ss<64, Major::kK, Major::kK>(x[j], wgmma_descriptor(a + 32 * k),
                                           wgmma_descriptor(b + 32 * k), true);
      }
    }
  }
  template <int kCount>
  __device__ static void keep_tiles(float (&x)[kCount][32]) {
#pragma unroll
    for (int j = 0; j < kCount; ++j) keep_all(x[j]);
  }
  // x += rows columns^T over all slices of a pair of inputs.
  template <int kRow>
  __device__ void products(Scores<kRow>& x, int slices) {
    constexpr bool kAhead = Shape::kSlots >= 4;  // a pair's products run while the next is taken
    std::uint64_t* previous[2] = {};
#pragma unroll 1
    for (int c = 0; c < slices; ++c) {
      const unsigned char* rows = take(0);
      const unsigned char* columns = take(1);
      wgmma_fence();
      accumulate<kRow>(x, rows, columns);
      wgmma_commit();
      if constexpr (kAhead) {
        if (c > 0) {
          wgmma_wait<1>();
          release(previous[0]);
          release(previous[1]);
        }
        previous[0] = taken_[0];
        previous[1] = taken_[1];
      } else {
        wgmma_wait<0>();
        release_taken();
      }
    }
    wgmma_wait<0>();
    if constexpr (kAhead) release_taken();
    keep_tiles(x);
  }

  // A: P = s S o D / (N + eps).
  __device__ void probabilities(int n);
  template <int kRow>
  __device__ void probabilities_of(int n);

  // Weight of a token in the final state: the last row of D.
  __device__ float state_weight(int t) const {
    const bool counts = t < end_ && rows_->start[t] != kNoToken && t >= rows_->start[end_ - 1];
    return counts ? exp2_fast(rows_->column[t] - rows_->row_max[end_ - 1]) : 0.0f;
  }

  // o = (score tiles of a column)^T times 64 features of dh or q, o zero before.
  template <int kAccumulator>
  __device__ void multiply_columns(float (&o)[32], const unsigned char* slot) const {
    constexpr int kMost = Share<kRows>::most(kAccumulator);
    const int more = kMost - share_.column_count(kAccumulator);
    const int column = share_.column(kAccumulator);
#pragma unroll
    for (int j = 0; j < kMost; ++j) {
      const int row = share_.row_in_column(kAccumulator, max(j - more, 0));
      const std::uint32_t a = shared_address(shared_.scores[score_tile(row, column)]),
                          b = shared_address(slot) + row * kTileBytes;
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        wgmma_ss<64, Major::kMn, Major::kMn>(o, wgmma_descriptor(a + 2048 * k),
                                             wgmma_descriptor(b + 2048 * k),
                                             Share<kRows>::kNoneTooMany || k > 0 || j != more);
      }
    }
  }
  // o = (score tiles of a row) times 64 features of k, o zero before.
  template <int kAccumulator>
  __device__ void multiply_rows(float (&o)[32], const unsigned char* slot) const {
    constexpr int kMost = Share<kRows>::most(kAccumulator);
    const int more = kMost - share_.row_count(kAccumulator), row = share_.row(kAccumulator);
#pragma unroll
    for (int j = 0; j < kMost; ++j) {
      const int column = share_.column_in_row(kAccumulator, max(j - more, 0));
      const std::uint32_t a = shared_address(shared_.scores[score_tile(row, column)]),
                          b = shared_address(slot) + column * kTileBytes;
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        wgmma_ss<64, Major::kK, Major::kMn>(o, wgmma_descriptor(a + 32 * k),
                                            wgmma_descriptor(b + 2048 * k),
                                            Share<kRows>::kNoneTooMany || k > 0 || j != more);
      }
    }
  }
  __device__ void multiply_all_columns(float (&o)[kAccumulators][32],
                                       const unsigned char* slot) const {
    multiply_columns<0>(o[0], slot);
    if constexpr (kAccumulators == 2) multiply_columns<1>(o[1], slot);
  }
  __device__ void multiply_all_rows(float (&o)[kAccumulators][32],
                                    const unsigned char* slot) const {
    multiply_rows<0>(o[0], slot);
    if constexpr (kAccumulators == 2) multiply_rows<1>(o[1], slot);
  }
  // Calls use(o, accumulator) for each output tile.
  template <typename Use>
  __device__ void for_each_output(float (&o)[kAccumulators][32], const Use& use) const {
    keep_tiles(o);
    if constexpr (kAccumulators == 2) {
      if (share_.merged()) {
#pragma unroll
        for (int j = 0; j < 32; ++j) o[1][j] += o[0][j];
      } else {
        use(o[0], 0);
      }
      use(o[1], 1);
    } else {
      use(o[0], 0);
    }
  }
  __device__ void send(const CUtensorMap& map, const float (&o)[32], int slice, int tile) {
    store_tile(store_.acquire(), o, 1.0f, 1.0f);
    store_.send(map, 64 * slice, unit_ % a_.heads, 64 * tile, unit_ / a_.heads);
  }

  // B: dv = P^T dh, and dS from dP = dh v^T.
  __device__ void value_and_score_gradients();
  template <int kRow>
  __device__ void split_score_gradients();

  // A slice of dv on its own; with a gradient of the final state a (k dC) is added.
  __device__ void value_gradients(int c);

  // r = sum of P o dP over a row, P from shared memory; then dP becomes dS (but for s).
  template <int kRow>
  __device__ void score_gradients(Scores<kRow>& dp);
  template <int kRow>
  __device__ void store_score_gradients(const Scores<kRow>& ds);

  // C: dq = dS k, dk = dS^T q, and the sums over q.dq and k.dk.
  __device__ void query_and_key_gradients(int n);

  // The same for one accumulator, behind the states' parts of it; all slices come for each.
  template <int kAccumulator>
  __device__ void gradients_with_states(int c);
  // s b (dh C_0^T / (N + eps) + dbeta n_0), of dq
  __device__ void initial_state_part(float (&x)[32], int tile, int c);
  // a (v dC^T + dn), of dk
  __device__ void final_state_part(float (&x)[32], int tile, int c);
  // The rows' sums into shared memory, or on top of what lies there.
  __device__ void leave(float (&sum)[2], float* out, int tile, bool first) const {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 1);
      sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 2);
      float& there = out[64 * tile + local() + 8 * r];
      if (lane() % 4 == 0) there = first ? sum[r] : there + sum[r];
    }
  }
};

}  // namespace lram::kernels::mlstm_short
