#pragma once
#include "kernels/mlstm/mlstm_short_sm90.cuh"

/// The warpgroups that compute in the short form's backward (mlstm_short_backward_sm90.cu says
/// what). Both run the same code, told apart by numbers: with a copy for each, the kernel did not
/// fit the instruction caches and waited half of its time for instructions.
namespace lram::kernels::mlstm_short {

struct BackwardArgs {
  GateArgs gates;
  int units, heads, key_slices, value_slices, key_dim;
  float scale;
  bool normalize, has_initial, has_final;
  const float2* saved;
  GateTensor dh_dot_h;
  const float *n0, *dn;  // [B, H, K]
  const float* carried;  // [B, H]
  float* dbeta;          // [B, H, T], with an initial state
  GateTensor di, df;
};

struct BackwardMaps {
  CUtensorMap q, k, v, dh, dq, dk, dv, c0, dc;
};

template <int kRows>
struct BackwardShape {
  static constexpr int kTokens = 64 * kRows;
  static constexpr int kSlotBytes = kRows * kTileBytes;
  static constexpr int kSlots = kRows == 4 ? 3 : kRows == 3 ? 6 : 10;
  static constexpr int kConsumerWarps = kRows == 1 ? 4 : 8;
  static constexpr int kScoreTiles = kRows * (kRows + 1) / 2;
};

/// What the gates' warps hand over for a head.
template <int kTokens>
struct RowTable {
  float column[kTokens], row_max[kTokens], inter[kTokens];
  int start[kTokens];
  float inverse[kTokens];  ///< 1 / (N + eps), 0 in a row that does not count
  float beta[kTokens];     ///< -sign(beta) times that, where |beta| counts; times dh . h if given

  __device__ GateTable gates() { return {column, row_max, inverse, inter, start}; }
};

template <int kRows, bool kStates>
struct BackwardShared {
  using Shape = BackwardShape<kRows>;
  alignas(1024) unsigned char slots[Shape::kSlots][Shape::kSlotBytes];
  alignas(1024) unsigned char scores[Shape::kScoreTiles][kTileBytes];
  alignas(1024) unsigned char out[kRows == 1 ? 2 : kRows == 2 ? 4 : kRows][kTileBytes];
  RowTable<Shape::kTokens> rows[2];
  float q_dq[Shape::kTokens], k_dk[Shape::kTokens];
  float k_dk_state[kStates ? Shape::kTokens : 1], dbeta[kStates ? Shape::kTokens : 1];
  std::uint64_t full[Shape::kSlots], empty[Shape::kSlots], gates_full[2], gates_empty[2], dots_full,
      dots_empty;
};

/// dv before dP, so that their accumulators do not live together; dh comes twice then.
template <int kRows, bool kStates>
constexpr bool kSplit = kStates || kRows == 4;

/// Of four rows of tiles a warpgroup's two take turns: their scores do not fit its registers
/// together. Three go without turns, and without states (four rows take those).
template <int kRows>
constexpr int kTurns = kRows == 4 ? 2 : 1;

__device__ constexpr int score_tile(int row, int column) { return row * (row + 1) / 2 + column; }

/// What a warpgroup computes, told by numbers: its row tiles (of scores, dP and dq) and column
/// tiles (of dk and dv), an accumulator for each. An accumulator has as many products in both
/// warpgroups, so that no wgmma stands in a branch, where ptxas would serialise it; a product too
/// many comes first and is overwritten. Of three rows of tiles the second warpgroup has a single
/// row and a single column, which lie in both accumulators: their sum counts (`merged`).
template <int kRows>
struct Share {
  static constexpr int kAccumulators = kRows >= 3 ? 2 : 1;
  static constexpr bool kNoneTooMany = kRows == 1 || kRows == 3;
  __host__ __device__ static constexpr int most(int accumulator) {
    return kRows <= 2 ? kRows : kRows == 3 ? 1 + accumulator : 2 + 2 * accumulator;
  }
  int group;

  __device__ bool merged() const { return kRows == 3 && group == 1; }
  __device__ int row(int accumulator) const {
    if constexpr (kRows <= 2) return group;
    if constexpr (kRows == 3) return group == 0 ? accumulator : 2;
    return accumulator == 0 ? group : 3 - group;
  }
  __device__ int column(int accumulator) const {
    if constexpr (kRows <= 2) return group;
    if constexpr (kRows == 3) return group == 0 ? 2 - accumulator : 0;
    return accumulator == 0 ? 3 - group : group;
  }
  /// Products of an accumulator.
  __device__ int row_count(int accumulator) const {
    return kNoneTooMany ? most(accumulator) : row(accumulator) + 1;
  }
  __device__ int column_count(int accumulator) const {
    return kNoneTooMany ? most(accumulator) : kRows - column(accumulator);
  }
  /// Column of the j-th product with the row, row of the j-th with the column.
  __device__ int column_in_row(int accumulator, int j) const {
    return merged() ? accumulator + j : j;
  }
  __device__ int row_in_column(int accumulator, int j) const {
    return merged() ? accumulator + j : column(accumulator) + j;
  }
};

/// The gates' weights D_ts of a thread's two rows, for columns counted from `first`.
struct RowWeights {
  float max[2];
  int from[2], to[2];  // the columns that count

  template <typename Table>
  __device__ RowWeights(const Table& table, int row, int first) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      max[r] = table.row_max[row + 8 * r];
      from[r] = table.start[row + 8 * r] - first;  // kNoToken lies behind every column
      to[r] = row + 8 * r - first;
    }
  }
  __device__ float of(float column_gate, int column, int r) const {
    return from[r] <= column && column <= to[r] ? exp2_fast(column_gate - max[r]) : 0.0f;
  }
};

/// sum[r] += x . d over 64 columns, x the same rows of a tile in shared memory.
__device__ inline void add_row_dots(float (&sum)[2], const float (&d)[32],
                                    const unsigned char* tile) {
  const int lane = threadIdx.x % 32, row = 16 * (threadIdx.x / 32 % 4) + lane % 16;
#pragma unroll
  for (int j = 0; j < 8; j += 2) {
    std::uint32_t x[4];
    ldmatrix_x4(tile + row * 128 + (((j + lane / 16) ^ (row & 7)) << 4), x);
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int at = 4 * j + 2 * e;
      sum[e % 2] +=
          __uint_as_float(x[e] << 16) * d[at] + __uint_as_float(x[e] & 0xffff0000u) * d[at + 1];
    }
  }
}

/// o = factor[row] (o + weight[row] vector[column])
__device__ inline void scale_and_add(float (&o)[32], const float (&factor)[2],
                                     const float (&weight)[2], const float* vector, int columns) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int j = 0; j < 8; ++j) {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const int column = 8 * j + 2 * (lane % 4) + c;
      const float x = vector != nullptr && column < columns ? vector[column] : 0.0f;
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        float& value = o[4 * j + 2 * r + c];
        value = factor[r] * (value + weight[r] * x);
      }
    }
  }
}

/// o += 64 rows of a slot times a 64 x 64 tile of a state, or its transpose (kMajor kK).
template <Major kMajor>
__device__ void multiply_state(float (&o)[32], const unsigned char* slot, int tile,
                               const unsigned char* state) {
  const std::uint32_t a = shared_address(slot) + tile * kTileBytes, b = shared_address(state);
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    wgmma_ss<64, Major::kK, kMajor>(o, wgmma_descriptor(a + 32 * k),
                                    wgmma_descriptor(b + wgmma_k_step<kMajor>(k)), true);
  }
}

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
  __device__ const unsigned char* take_state(int which) {
    ring_.wait_full();
    const unsigned char* slot = ring_.data();
    taken_[which] = &ring_.empty[ring_.slot];
    ring_.advance();
    return slot;
  }
  __device__ const unsigned char* take(int which) {
    ring_.wait_full();
    unsigned char* slot = ring_.data();
    taken_[which] = &ring_.empty[ring_.slot];
    ring_.advance();
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
  __device__ void probabilities(int n) {
    if constexpr (kTurns<kRows> == 2) probabilities_of<1>(n);
    probabilities_of<0>(n);
    fence_proxy_async();
    both_groups();
  }
  template <int kRow>
  __device__ void probabilities_of(int n) {
    Scores<kRow> s = {};
    products<kRow>(s, a_.key_slices);
    if (kRow == kTurns<kRows> - 1) {
      mbarrier_wait(&shared_.gates_full[n % 2], n / 2 % 2);
      both_groups();  // the last head's products with dS are over
    }
#pragma unroll
    for (int j = 0; j < held(kRow); ++j) {
      if (!holds<kRow>(j)) break;
      const Place p = place<kRow>(j);
      const int row = 64 * p.row + local();
      const int first = 64 * p.column + 2 * (lane() % 4);
      const RowWeights weights(*rows_, row, first);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const float2 gate = *reinterpret_cast<const float2*>(&rows_->column[first + 8 * i]);
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          s[j][4 * i + 2 * r] *= weights.of(gate.x, 8 * i, r);
          s[j][4 * i + 2 * r + 1] *= weights.of(gate.y, 8 * i + 1, r);
        }
      }
      store_tile(score_tile_at(p), s[j], a_.scale * rows_->inverse[row],
                 a_.scale * rows_->inverse[row + 8]);
    }
  }

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
  __device__ void value_and_score_gradients() {
    if constexpr (kSplit<kRows, kStates>) {
#pragma unroll 1
      for (int c = 0; c < a_.value_slices; ++c) value_gradients(c);
      both_groups();  // done with P's columns
      if constexpr (kTurns<kRows> == 2) split_score_gradients<1>();
      split_score_gradients<0>();
    } else {
      Scores<0> dp = {};
#pragma unroll 1
      for (int c = 0; c < a_.value_slices; ++c) {
        const unsigned char* dh = take(0);
        const unsigned char* v = take(1);
        float dv[kAccumulators][32] = {};
        wgmma_fence();
        multiply_all_columns(dv, dh);
        wgmma_commit();
        accumulate<0>(dp, dh, v);
        wgmma_commit();
        wgmma_wait<1>();
        for_each_output(dv, [&](const float(&o)[32], int accumulator) {
          send(maps_.dv, o, c, share_.column(accumulator));
        });
        wgmma_wait<0>();
        release_taken();
        keep_tiles(dp);
      }
      score_gradients<0>(dp);
      both_groups();  // done with P
      store_score_gradients<0>(dp);
    }
    fence_proxy_async();
    both_groups();
  }
  template <int kRow>
  __device__ void split_score_gradients() {
    Scores<kRow> dp = {};
    products<kRow>(dp, a_.value_slices);
    score_gradients<kRow>(dp);
    store_score_gradients<kRow>(dp);
  }

  // A slice of dv on its own; with a gradient of the final state a (k dC) is added.
  __device__ void value_gradients(int c) {
    float state[kAccumulators][32] = {};
    if (has_final()) {
#pragma unroll 1
      for (int kc = 0; kc < a_.key_slices; ++kc) {
        const unsigned char* k = take(0);
        const unsigned char* dc = take_state(1);
        wgmma_fence();
#pragma unroll
        for (int o = 0; o < kAccumulators; ++o) {
          multiply_state<Major::kMn>(state[o], k, share_.column(o), dc);
        }
        wgmma_commit();
        wgmma_wait<0>();
        release_taken();
      }
      keep_tiles(state);
    }
    const unsigned char* dh = take(0);
    float dv[kAccumulators][32] = {};
    wgmma_fence();
    multiply_all_columns(dv, dh);
    wgmma_commit();
    wgmma_wait<0>();
    release(taken_[0]);
    for_each_output(dv, [&](float(&o)[32], int accumulator) {
      if (has_final()) {
        const int t = 64 * share_.column(accumulator) + local();
        const float weight[2] = {state_weight(t), state_weight(t + 8)};
#pragma unroll
        for (int j = 0; j < 32; ++j) o[j] += weight[j / 2 % 2] * state[accumulator][j];
      }
      send(maps_.dv, o, c, share_.column(accumulator));
    });
  }

  // r = sum of P o dP over a row, P from shared memory; then dP becomes dS (but for s).
  template <int kRow>
  __device__ void score_gradients(Scores<kRow>& dp) {
    float sum[2][2] = {};  // of the rows of accumulators 0 and 1
    const bool given = a_.dh_dot_h.data != nullptr;
    if (a_.normalize && !given) {
#pragma unroll
      for (int j = 0; j < held(kRow); ++j) {
        if (!holds<kRow>(j)) break;
        add_row_dots(sum[kBothRows ? j > 0 : kRow], dp[j], score_tile_at(place<kRow>(j)));
      }
#pragma unroll
      for (int r = 0; r < 2; ++r) {
#pragma unroll
        for (int o = 0; o < 2; ++o) {
          sum[o][r] += __shfl_xor_sync(0xffffffffu, sum[o][r], 1);
          sum[o][r] += __shfl_xor_sync(0xffffffffu, sum[o][r], 2);
        }
        if (share_.merged()) sum[0][r] = sum[1][r] += sum[0][r];
      }
    }
#pragma unroll
    for (int j = 0; j < held(kRow); ++j) {
      if (!holds<kRow>(j)) break;
      const Place p = place<kRow>(j);
      const int row = 64 * p.row + local();
      const int first = 64 * p.column + 2 * (lane() % 4);
      const RowWeights weights(*rows_, row, first);
      float inverse[2], dbeta[2];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int t = row + 8 * r;
        inverse[r] = rows_->inverse[t];
        dbeta[r] = rows_->beta[t] * (given ? 1.0f : sum[kBothRows ? j > 0 : kRow][r]);
        if (kStates && lane() % 4 == 0 && p.column == 0) {
          shared_.dbeta[t] = dbeta[r];
          if (has_initial() && t < a_.gates.tokens) {
            a_.dbeta[static_cast<std::int64_t>(unit_) * a_.gates.tokens + t] = dbeta[r];
          }
        }
      }
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const float2 gate = *reinterpret_cast<const float2*>(&rows_->column[first + 8 * i]);
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          float* const x = &dp[j][4 * i + 2 * r];
          x[0] = (x[0] * inverse[r] + dbeta[r]) * weights.of(gate.x, 8 * i, r);
          x[1] = (x[1] * inverse[r] + dbeta[r]) * weights.of(gate.y, 8 * i + 1, r);
        }
      }
    }
  }
  template <int kRow>
  __device__ void store_score_gradients(const Scores<kRow>& ds) {
#pragma unroll
    for (int j = 0; j < held(kRow); ++j) {
      if (!holds<kRow>(j)) break;
      store_tile(score_tile_at(place<kRow>(j)), ds[j], a_.scale, a_.scale);
    }
  }

  // C: dq = dS k, dk = dS^T q, and the sums over q.dq and k.dk.
  __device__ void query_and_key_gradients(int n) {
    Dots q_dq = {}, k_dk = {};
    if constexpr (kStates) mbarrier_wait(&shared_.dots_empty, (n % 2) ^ 1);
#pragma unroll 1
    for (int c = 0; c < a_.key_slices; ++c) {
      if constexpr (kStates) {
        gradients_with_states<0>(c);
        if constexpr (kAccumulators == 2) gradients_with_states<1>(c);
        continue;
      }
      const unsigned char* k = take(0);
      const unsigned char* q = take(1);
      float dq[kAccumulators][32] = {}, dk[kAccumulators][32] = {};
      wgmma_fence();
      multiply_all_rows(dq, k);
      wgmma_commit();
      multiply_all_columns(dk, q);
      wgmma_commit();
      wgmma_wait<1>();
      for_each_output(dq, [&](const float(&o)[32], int accumulator) {
        const int row = share_.row(accumulator);
        add_row_dots(q_dq[accumulator], o, q + row * kTileBytes);
        send(maps_.dq, o, c, row);
      });
      wgmma_wait<0>();
      for_each_output(dk, [&](const float(&o)[32], int accumulator) {
        const int column = share_.column(accumulator);
        add_row_dots(k_dk[accumulator], o, k + column * kTileBytes);
        send(maps_.dk, o, c, column);
      });
      release_taken();
    }
    if constexpr (kStates) return;
    mbarrier_wait(&shared_.dots_empty, (n % 2) ^ 1);
#pragma unroll
    for (int o = 0; o < kAccumulators; ++o) {
      if (o == 0 && share_.merged()) continue;
      leave(q_dq[o], shared_.q_dq, share_.row(o), true);
      leave(k_dk[o], shared_.k_dk, share_.column(o), true);
    }
  }

  // The same for one accumulator, behind the states' parts of it; all slices come for each.
  template <int kAccumulator>
  __device__ void gradients_with_states(int c) {
    const int row = share_.row(kAccumulator), column = share_.column(kAccumulator);
    float q_state[32] = {}, k_state[32] = {};
    if (has_initial()) initial_state_part(q_state, row, c);
    if (has_final()) final_state_part(k_state, column, c);
    const unsigned char* k = take(0);
    const unsigned char* q = take(1);
    float dq[32] = {}, dk[32] = {};
    wgmma_fence();
    multiply_rows<kAccumulator>(dq, k);
    multiply_columns<kAccumulator>(dk, q);
    wgmma_commit();
    wgmma_wait<0>();
    keep_all(dq);
    keep_all(dk);
    float q_dq[2] = {}, k_dk[2] = {}, k_dk_state[2] = {};
    add_row_dots(k_dk, dk, k + column * kTileBytes);
    add_row_dots(k_dk_state, k_state, k + column * kTileBytes);
#pragma unroll
    for (int j = 0; j < 32; ++j) {
      dq[j] += q_state[j];
      dk[j] += k_state[j];
    }
    add_row_dots(q_dq, dq, q + row * kTileBytes);
    leave(q_dq, shared_.q_dq, row, c == 0);
    leave(k_dk, shared_.k_dk, column, c == 0);
    leave(k_dk_state, shared_.k_dk_state, column, c == 0);
    send(maps_.dq, dq, c, row);
    send(maps_.dk, dk, c, column);
    release_taken();
  }
  // s b (dh C_0^T / (N + eps) + dbeta n_0), of dq
  __device__ void initial_state_part(float (&x)[32], int tile, int c) {
#pragma unroll 1
    for (int vc = 0; vc < a_.value_slices; ++vc) {
      const unsigned char* dh = take(0);
      const unsigned char* c0 = take_state(1);
      wgmma_fence();
      multiply_state<Major::kK>(x, dh, tile, c0);
      wgmma_commit();
      wgmma_wait<0>();
      release_taken();
    }
    keep_all(x);
    const float* n0 =
        a_.n0 != nullptr ? a_.n0 + static_cast<std::int64_t>(unit_) * a_.key_dim + 64 * c : nullptr;
    const int row = 64 * tile + local();
    const float inverse[2] = {rows_->inverse[row], rows_->inverse[row + 8]};
    const float inter[2] = {a_.scale * rows_->inter[row], a_.scale * rows_->inter[row + 8]};
    const float dbeta[2] = {shared_.dbeta[row], shared_.dbeta[row + 8]};
#pragma unroll
    for (int j = 0; j < 32; ++j) x[j] *= inverse[j / 2 % 2];
    scale_and_add(x, inter, dbeta, n0, a_.key_dim - 64 * c);
  }
  // a (v dC^T + dn), of dk
  __device__ void final_state_part(float (&x)[32], int tile, int c) {
#pragma unroll 1
    for (int vc = 0; vc < a_.value_slices; ++vc) {
      const unsigned char* v = take(0);
      const unsigned char* dc = take_state(1);
      wgmma_fence();
      multiply_state<Major::kK>(x, v, tile, dc);
      wgmma_commit();
      wgmma_wait<0>();
      release_taken();
    }
    keep_all(x);
    const float* dn =
        a_.dn != nullptr ? a_.dn + static_cast<std::int64_t>(unit_) * a_.key_dim + 64 * c : nullptr;
    const int t = 64 * tile + local();
    const float weight[2] = {state_weight(t), state_weight(t + 8)};
    constexpr float kOne[2] = {1, 1};
    scale_and_add(x, weight, kOne, dn, a_.key_dim - 64 * c);
  }
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
