#pragma once
#include "kernels/mlstm/mlstm_short_sm90.cuh"

/// What the short form's backward is made of (mlstm_short_backward_sm90.cu): its arguments, its
/// shared memory, the shares of its two computing warpgroups. Both run the same code, told apart by
/// numbers: with a copy for each, the kernel did not fit the instruction caches and waited half of
/// its time for instructions.
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

}  // namespace lram::kernels::mlstm_short
