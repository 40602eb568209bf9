// The mLSTM's quadratic form for T <= 256 on Hopper (kernels.md 2.4), backward, exact.
//
//   A  S = q k^T              P = s S o D / (N + eps), as bf16 tiles into shared memory
//   B  dP = dh v^T            dv = P^T dh
//      r = sum(P o dP) = dh.h (or given), dbeta = -r / (N + eps) where |beta| counts
//      dS = s (dP / (N + eps) + dbeta) o D, as bf16 over P's tiles
//   C  dq = dS k, dk = dS^T q, and with them q.dq and k.dk in float32, whose difference summed
//      backwards over the segment is the gradient of log f
//
// Roles, ring and slices as in the forward. q and k are read twice (the second time mostly from
// L2), v and dh once, h never. With an initial state dq gets s b (du C_0^T + dbeta n_0); with a
// gradient of the final one dv gets a (k dC) and dk gets a (v dC^T + dn), for which slices come
// again.
#include <algorithm>

#include "kernels/common/cuda_check.h"
#include "kernels/common/launch.cuh"
#include "kernels/common/tma.h"
#include "kernels/mlstm/mlstm_short.h"
#include "kernels/mlstm/mlstm_short_sm90.cuh"

namespace lram::kernels {
namespace mlstm_short {
namespace {

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

template <int kRows>
struct BackwardShared {
  using Shape = BackwardShape<kRows>;
  alignas(1024) unsigned char slots[Shape::kSlots][Shape::kSlotBytes];
  alignas(1024) unsigned char scores[Shape::kScoreTiles][kTileBytes];
  alignas(1024) unsigned char out[kRows == 1 ? 2 : kRows == 2 ? 4 : kRows][kTileBytes];
  float column[2][Shape::kTokens], row_max[2][Shape::kTokens], floor[2][Shape::kTokens],
      inter[2][Shape::kTokens];
  int start[2][Shape::kTokens];
  float q_dq[Shape::kTokens], k_dk[Shape::kTokens], k_dk_state[Shape::kTokens];
  std::uint64_t full[Shape::kSlots], empty[Shape::kSlots], gates_full[2], gates_empty[2], dots_full,
      dots_empty;

  __device__ GateTable gates(int buffer) {
    return {column[buffer], row_max[buffer], floor[buffer], inter[buffer], start[buffer]};
  }
};

// dv before dP, so that their accumulators do not live together; dh comes twice then.
template <int kRows, bool kStates>
constexpr bool kSplit = kStates || kRows == 4;

// A warpgroup's two row tiles take turns where their scores do not fit its registers together.
template <int kRows, bool kStates>
constexpr int kPasses = kRows == 4 || (kStates && kRows == 3) ? 2 : 1;

__host__ __device__ constexpr int score_tile(int row, int column) {
  return row * (row + 1) / 2 + column;
}

template <int kRows, bool kStates>
__device__ void load(const BackwardArgs& a, const BackwardMaps& maps,
                     BackwardShared<kRows>& shared) {
  using Shape = BackwardShape<kRows>;
  constexpr std::uint32_t kBytes = Shape::kSlotBytes;
  const bool has_initial = kStates && a.has_initial, has_final = kStates && a.has_final;
  Ring<Shape::kSlots> ring{shared.slots[0], shared.full, shared.empty};
  ring.slot_bytes = kBytes;
  for (int unit = blockIdx.x; unit < a.units; unit += gridDim.x) {
    const int batch = unit / a.heads, head = unit % a.heads;
    for (int pass = 0; pass < kPasses<kRows, kStates>; ++pass) {
      for (int c = 0; c < a.key_slices; ++c) {
        load_slice(ring, maps.q, kBytes, 64 * c, head, 0, batch);
        load_slice(ring, maps.k, kBytes, 64 * c, head, 0, batch);
      }
    }
    if constexpr (kSplit<kRows, kStates>) {
      for (int c = 0; c < a.value_slices; ++c) {
        for (int kc = 0; has_final && kc < a.key_slices; ++kc) {
          load_slice(ring, maps.k, kBytes, 64 * kc, head, 0, batch);
          load_slice(ring, maps.dc, kTileBytes, 64 * c, head, 64 * kc, batch);
        }
        load_slice(ring, maps.dh, kBytes, 64 * c, head, 0, batch);
      }
    }
    for (int pass = 0; pass < kPasses<kRows, kStates>; ++pass) {
      for (int c = 0; c < a.value_slices; ++c) {
        load_slice(ring, maps.dh, kBytes, 64 * c, head, 0, batch);
        load_slice(ring, maps.v, kBytes, 64 * c, head, 0, batch);
      }
    }
    for (int c = 0; c < a.key_slices; ++c) {
      for (int vc = 0; has_initial && vc < a.value_slices; ++vc) {
        load_slice(ring, maps.dh, kBytes, 64 * vc, head, 0, batch);
        load_slice(ring, maps.c0, kTileBytes, 64 * vc, head, 64 * c, batch);
      }
      for (int vc = 0; has_final && vc < a.value_slices; ++vc) {
        load_slice(ring, maps.v, kBytes, 64 * vc, head, 0, batch);
        load_slice(ring, maps.dc, kTileBytes, 64 * vc, head, 64 * c, batch);
      }
      load_slice(ring, maps.k, kBytes, 64 * c, head, 0, batch);
      load_slice(ring, maps.q, kBytes, 64 * c, head, 0, batch);
    }
  }
}

template <int kRows, bool kStates>
__device__ void scan(const BackwardArgs& a, BackwardShared<kRows>& shared) {
  int n = 0, previous = -1;
  const auto finish = [&] {
    mbarrier_wait(&shared.dots_full, (n - 1) % 2);
    const bool has_final = kStates && a.has_final;
    const float carried = has_final && a.carried != nullptr ? a.carried[previous] : 0.0f;
    gate_gradients<2 * kRows>(
        a.gates, a.di, a.df, previous / a.heads, previous % a.heads, shared.gates((n - 1) % 2),
        {shared.q_dq, shared.k_dk, has_final ? shared.k_dk_state : nullptr}, carried);
    __syncwarp();
    warp_arrive(&shared.dots_empty, threadIdx.x % 32);
  };
  for (int unit = blockIdx.x; unit < a.units; unit += gridDim.x, ++n) {
    const int buffer = n % 2;
    mbarrier_wait(&shared.gates_empty[buffer], (n / 2 % 2) ^ 1);
    scan_gates<2 * kRows>(a.gates, unit / a.heads, unit % a.heads, shared.gates(buffer));
    __syncwarp();
    warp_arrive(&shared.gates_full[buffer], threadIdx.x % 32);
    if (n > 0) finish();
    previous = unit;
  }
  if (n > 0) finish();
}

// The gates' weight D_ts of an accumulator element.
__device__ inline float gate_weight(float column_gate, float row_max, int column, int start,
                                    int row, bool diagonal) {
  const bool counts = column >= start && (!diagonal || column <= row);
  return counts ? exp2_fast(column_gate - row_max) : 0.0f;
}

// What a thread keeps of its two rows of a row tile.
struct RowFactors {
  float inverse[2], sign[2], inter[2];
};

// P = s S o D / (N + eps) of a row tile into shared memory.
template <int kTile>
__device__ void store_probabilities(const BackwardArgs& a, const GateTable& gates, int unit,
                                    float (&s)[tile_scores(kTile)],
                                    unsigned char (*tiles)[kTileBytes], RowFactors& factors) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
  const int row = 64 * kTile + 16 * warp + lane / 4;
  float row_max[2];
  int start[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int t = row + 8 * r;
    row_max[r] = gates.row_max[t];
    start[r] = gates.start[t];
    float2 saved{0, 0};
    if (start[r] != kNoToken) {
      saved = a.saved[static_cast<std::int64_t>(unit) * a.gates.tokens + t];
    }
    factors.inverse[r] = saved.x;
    factors.sign[r] = saved.y;
    factors.inter[r] = a.scale * gates.inter[t];
  }
#pragma unroll
  for (int j = 0; j < 8 * (kTile + 1); ++j) {
    const int column = 8 * j + 2 * (lane % 4);
    const float2 gate = *reinterpret_cast<const float2*>(&gates.column[column]);
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int r = e / 2, c = e % 2;
      s[4 * j + e] *= gate_weight(c == 0 ? gate.x : gate.y, row_max[r], column + c, start[r],
                                  row + 8 * r, j >= 8 * kTile);
    }
  }
#pragma unroll
  for (int tile = 0; tile <= kTile; ++tile) {
    store_tile(tiles[score_tile(kTile, tile)], &s[32 * tile], a.scale * factors.inverse[0],
               a.scale * factors.inverse[1]);
  }
}

// r = sum of P o dP over the row, P from shared memory; then dP becomes dS (times s).
template <int kTile>
__device__ void score_gradients(const BackwardArgs& a, const GateTable& gates, int unit,
                                float (&dp)[tile_scores(kTile)],
                                const unsigned char (*tiles)[kTileBytes], const RowFactors& factors,
                                float (&dbeta)[2]) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
  const int local = 16 * warp + lane / 4, row = 64 * kTile + local;
  float sum[2] = {0, 0};
  const bool given = a.dh_dot_h.data != nullptr;
  if (a.normalize && !given) {
#pragma unroll
    for (int j = 0; j < 8 * (kTile + 1); ++j) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const std::uint32_t pair = *reinterpret_cast<const std::uint32_t*>(
            tiles[score_tile(kTile, j / 8)] +
            swizzle_128(local + 8 * r, 8 * (j % 8) + 2 * (lane % 4)));
        sum[r] += __uint_as_float(pair << 16) * dp[4 * j + 2 * r] +
                  __uint_as_float(pair & 0xffff0000u) * dp[4 * j + 2 * r + 1];
      }
    }
  }
  float row_max[2];
  int start[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int t = row + 8 * r;
    row_max[r] = gates.row_max[t];
    start[r] = gates.start[t];
    sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 1);
    sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 2);
    if (given && start[r] != kNoToken) {
      const GateTensor& g = a.dh_dot_h;
      sum[r] = g.data[unit / a.heads * g.stride_b + t * g.stride_t + unit % a.heads * g.stride_h];
    }
    dbeta[r] = start[r] != kNoToken ? -factors.inverse[r] * factors.sign[r] * sum[r] : 0.0f;
    if (a.has_initial && t < a.gates.tokens && lane % 4 == 0) {
      a.dbeta[static_cast<std::int64_t>(unit) * a.gates.tokens + t] = dbeta[r];
    }
  }
#pragma unroll
  for (int j = 0; j < 8 * (kTile + 1); ++j) {
    const int column = 8 * j + 2 * (lane % 4);
    const float2 gate = *reinterpret_cast<const float2*>(&gates.column[column]);
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int r = e / 2, c = e % 2;
      const float weight = gate_weight(c == 0 ? gate.x : gate.y, row_max[r], column + c, start[r],
                                       row + 8 * r, j >= 8 * kTile);
      dp[4 * j + e] = (dp[4 * j + e] * factors.inverse[r] + dbeta[r]) * weight;
    }
  }
}

template <int kTile>
__device__ void store_score_gradients(float scale, const float (&ds)[tile_scores(kTile)],
                                      unsigned char (*tiles)[kTileBytes]) {
#pragma unroll
  for (int tile = 0; tile <= kTile; ++tile) {
    store_tile(tiles[score_tile(kTile, tile)], &ds[32 * tile], scale, scale);
  }
}

// o += (tiles of row kTile) times 64 features of k.
template <int kTile>
__device__ void multiply_rows(float (&o)[32], const unsigned char (*tiles)[kTileBytes],
                              const unsigned char* slot) {
  const std::uint32_t b = shared_address(slot);
#pragma unroll
  for (int j = 0; j <= kTile; ++j) {
    const std::uint32_t a = shared_address(tiles[score_tile(kTile, j)]);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      wgmma_ss<64, Major::kK, Major::kMn>(o, wgmma_descriptor(a + 32 * k),
                                          wgmma_descriptor(b + j * kTileBytes + 2048 * k), true);
    }
  }
}

// o += (tiles of column kTile)^T times 64 features of dh or q.
template <int kRows, int kTile>
__device__ void multiply_columns(float (&o)[32], const unsigned char (*tiles)[kTileBytes],
                                 const unsigned char* slot) {
  const std::uint32_t b = shared_address(slot);
#pragma unroll
  for (int i = kTile; i < kRows; ++i) {
    const std::uint32_t a = shared_address(tiles[score_tile(i, kTile)]);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      wgmma_ss<64, Major::kMn, Major::kMn>(o, wgmma_descriptor(a + 2048 * k),
                                           wgmma_descriptor(b + i * kTileBytes + 2048 * k), true);
    }
  }
}

// o += 64 rows of a slot times a 64 x 64 tile of a state, or its transpose (kMajor kK).
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

// sum[r] += x . d over the 64 features, x the same rows of a slot.
__device__ inline void add_row_dots(float (&sum)[2], const float (&d)[32],
                                    const unsigned char* slot, int tile) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
  const int row = 16 * warp + lane / 4;
  const unsigned char* rows = slot + tile * kTileBytes;
#pragma unroll
  for (int j = 0; j < 8; ++j) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const std::uint32_t pair = *reinterpret_cast<const std::uint32_t*>(
          rows + swizzle_128(row + 8 * r, 8 * j + 2 * (lane % 4)));
      sum[r] += __uint_as_float(pair << 16) * d[4 * j + 2 * r] +
                __uint_as_float(pair & 0xffff0000u) * d[4 * j + 2 * r + 1];
    }
  }
}

// o = factor[row] (o + weight[row] vector[column])
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

template <int kRows, int kGroup, bool kStates>
__device__ void consume(const BackwardArgs& a, const BackwardMaps& maps,
                        BackwardShared<kRows>& shared) {
  using Shape = BackwardShape<kRows>;
  constexpr int kA = RowTiles<kRows, kGroup>::kA, kB = RowTiles<kRows, kGroup>::kB;
  constexpr int kColA = ColumnTiles<kRows, kGroup>::kA, kColB = ColumnTiles<kRows, kGroup>::kB;
  if constexpr (kA >= 0) {
    constexpr bool kTwo = kB >= 0;
    static_assert(kTwo == (kColB >= 0));
    const bool has_initial = kStates && a.has_initial, has_final = kStates && a.has_final;
    constexpr int kTileB = kTwo ? kB : 0, kColumnB = kTwo ? kColB : 0;  // unused where none
    constexpr int kBarrier = 3, kBarrierThreads = kRows == 1 ? 128 : 256;
    constexpr int kBuffers = kRows < 3 ? 2 : kTwo ? 2 : 1;
    Ring<Shape::kSlots> ring{shared.slots[0], shared.full, shared.empty};
    ring.slot_bytes = Shape::kSlotBytes;
    TileStore<kBuffers> store{shared.out[kGroup == 0 ? 0 : 2], kGroup};
    const int lane = threadIdx.x % 32, local = 16 * (threadIdx.x / 32 % 4) + lane / 4;
    const auto release = [&](std::uint64_t* barrier) { warp_arrive(barrier, lane); };
    int begin = 0, end = 0;
    bool clear = false;
    std::uint64_t* empty_slot[2] = {};  // of the slices in hand
    const auto take = [&](int which) {
      ring.wait_full();
      unsigned char* slot = ring.data();
      empty_slot[which] = &ring.empty[ring.slot];
      ring.advance();
      if (clear) clear_outside(slot, Shape::kTokens, begin, end, kGroup);
      return slot;
    };
    const auto take_state = [&](int which) {
      ring.wait_full();
      unsigned char* slot = ring.data();
      empty_slot[which] = &ring.empty[ring.slot];
      ring.advance();
      return slot;
    };
    int n = 0;
    for (int unit = blockIdx.x; unit < a.units; unit += gridDim.x, ++n) {
      const int batch = unit / a.heads, head = unit % a.heads, tokens = a.gates.tokens;
      begin = a.gates.begin != nullptr ? a.gates.begin[batch] : 0;
      end = a.gates.end != nullptr ? a.gates.end[batch] : tokens;
      clear = begin > 0 || end < tokens;
      const int buffer = n % 2;
      const GateTable gates = shared.gates(buffer);
      RowFactors factors_a, factors_b;
      float dbeta_a[2], dbeta_b[2];
      // Scores of one or two (kOther >= 0) row tiles over all slices of a pair of inputs.
      const auto products = [&]<int kTile, int kOther>(float(&x)[tile_scores(kTile)],
                                                       float(&y)[tile_scores(kOther)], int slices) {
        std::uint64_t* previous[2] = {};
        for (int c = 0; c < slices; ++c) {
          const unsigned char* rows = take(0);
          const unsigned char* columns = take(1);
          wgmma_fence();
          accumulate_scores<kTile>(x, rows, columns);
          if constexpr (kOther >= 0) accumulate_scores<kOther>(y, rows, columns);
          wgmma_commit();
          if (c > 0) {
            wgmma_wait<1>();
            release(previous[0]);
            release(previous[1]);
          }
          previous[0] = empty_slot[0];
          previous[1] = empty_slot[1];
        }
        wgmma_wait<0>();
        release(previous[0]);
        release(previous[1]);
        keep_all(x);
        if constexpr (kOther >= 0) keep_all(y);
      };
      // The other warpgroup's turn: this one has a single row tile.
      const auto pass_over = [&](int slices) {
        for (int c = 0; c < 2 * slices; ++c) {
          take_state(0);
          __syncwarp();
          release(empty_slot[0]);
        }
      };
      {  // A
        // The last head's products with dS are over in both warpgroups before P takes their place.
        if constexpr (kPasses<kRows, kStates> == 2) {
          float none[1];
          if constexpr (kTwo) {
            float s[tile_scores(kTileB)] = {};
            products.template operator()<kTileB, -1>(s, none, a.key_slices);
            mbarrier_wait(&shared.gates_full[buffer], n / 2 % 2);
            named_barrier_sync(kBarrier, kBarrierThreads);
            store_probabilities<kTileB>(a, gates, unit, s, shared.scores, factors_b);
          } else {
            pass_over(a.key_slices);
            mbarrier_wait(&shared.gates_full[buffer], n / 2 % 2);
            named_barrier_sync(kBarrier, kBarrierThreads);
          }
          float s[tile_scores(kA)] = {};
          products.template operator()<kA, -1>(s, none, a.key_slices);
          store_probabilities<kA>(a, gates, unit, s, shared.scores, factors_a);
        } else {
          float s_a[tile_scores(kA)] = {}, s_b[tile_scores(kB)] = {};
          products.template operator()<kA, kB>(s_a, s_b, a.key_slices);
          mbarrier_wait(&shared.gates_full[buffer], n / 2 % 2);
          named_barrier_sync(kBarrier, kBarrierThreads);
          store_probabilities<kA>(a, gates, unit, s_a, shared.scores, factors_a);
          if constexpr (kTwo) {
            store_probabilities<kTileB>(a, gates, unit, s_b, shared.scores, factors_b);
          }
        }
        fence_proxy_async();
        named_barrier_sync(kBarrier, kBarrierThreads);
      }
      // Weight of a token in the final state: the last row of D.
      float state_weight_a[2] = {0, 0}, state_weight_b[2] = {0, 0};
      if (has_final && end > begin) {
        const float last_max = gates.row_max[end - 1];
        const int last_start = gates.start[end - 1];
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          const int t_a = 64 * kColA + local + 8 * r, t_b = 64 * kColumnB + local + 8 * r;
          if (t_a < end) {
            state_weight_a[r] = gate_weight(gates.column[t_a], last_max, t_a, last_start, 0, false);
          }
          if (t_b < end) {
            state_weight_b[r] = gate_weight(gates.column[t_b], last_max, t_b, last_start, 0, false);
          }
        }
      }
      constexpr float kNone[2] = {0, 0};
      {  // B
        const auto send = [&](float(&o)[32], int c, int tile) {
          keep_all(o);
          store_tile(store.acquire(), o, 1.0f, 1.0f);
          store.send(maps.dv, 64 * c, head, 64 * tile, batch);
        };
        if constexpr (kSplit<kRows, kStates>) {
          for (int c = 0; c < a.value_slices; ++c) {
            float o[32] = {}, second[32] = {};
            if (has_final) {
              for (int kc = 0; kc < a.key_slices; ++kc) {
                const unsigned char* k = take(0);
                const unsigned char* dc = take_state(1);
                wgmma_fence();
                multiply_state<Major::kMn>(o, k, kColA, dc);
                if constexpr (kTwo) multiply_state<Major::kMn>(second, k, kColumnB, dc);
                wgmma_commit();
                wgmma_wait<0>();
                release(empty_slot[0]);
                release(empty_slot[1]);
              }
              keep_all(o);
              scale_and_add(o, state_weight_a, kNone, nullptr, 0);
              if constexpr (kTwo) {
                keep_all(second);
                scale_and_add(second, state_weight_b, kNone, nullptr, 0);
              }
            }
            const unsigned char* dh = take(0);
            wgmma_fence();
            multiply_columns<kRows, kColA>(o, shared.scores, dh);
            if constexpr (kTwo) multiply_columns<kRows, kColumnB>(second, shared.scores, dh);
            wgmma_commit();
            wgmma_wait<0>();
            release(empty_slot[0]);
            send(o, c, kColA);
            if constexpr (kTwo) send(second, c, kColumnB);
          }
        }
        if constexpr (kPasses<kRows, kStates> == 2) {
          named_barrier_sync(kBarrier,
                             kBarrierThreads);  // both warpgroups are done with P's columns
          float none[1];
          if constexpr (kTwo) {
            float dp[tile_scores(kTileB)] = {};
            products.template operator()<kTileB, -1>(dp, none, a.value_slices);
            score_gradients<kTileB>(a, gates, unit, dp, shared.scores, factors_b, dbeta_b);
            store_score_gradients<kTileB>(a.scale, dp, shared.scores);
          } else {
            pass_over(a.value_slices);
          }
          float dp[tile_scores(kA)] = {};
          products.template operator()<kA, -1>(dp, none, a.value_slices);
          score_gradients<kA>(a, gates, unit, dp, shared.scores, factors_a, dbeta_a);
          store_score_gradients<kA>(a.scale, dp, shared.scores);
        } else {
          float dp_a[tile_scores(kA)] = {}, dp_b[tile_scores(kB)] = {};
          if constexpr (kSplit<kRows, kStates>) {
            products.template operator()<kA, kB>(dp_a, dp_b, a.value_slices);
          } else {
            for (int c = 0; c < a.value_slices; ++c) {
              const unsigned char* dh = take(0);
              const unsigned char* v = take(1);
              float o[32] = {};
              wgmma_fence();
              multiply_columns<kRows, kColA>(o, shared.scores, dh);
              wgmma_commit();
              accumulate_scores<kA>(dp_a, dh, v);
              if constexpr (kTwo) accumulate_scores<kTileB>(dp_b, dh, v);
              wgmma_commit();
              wgmma_wait<1>();
              send(o, c, kColA);
              if constexpr (kTwo) {
                float second[32] = {};
                wgmma_fence();
                multiply_columns<kRows, kColumnB>(second, shared.scores, dh);
                wgmma_commit();
                wgmma_wait<0>();
                release(empty_slot[0]);
                release(empty_slot[1]);
                send(second, c, kColumnB);
              } else {
                wgmma_wait<0>();
                release(empty_slot[0]);
                release(empty_slot[1]);
              }
            }
            keep_all(dp_a);
            if constexpr (kTwo) keep_all(dp_b);
          }
          score_gradients<kA>(a, gates, unit, dp_a, shared.scores, factors_a, dbeta_a);
          if constexpr (kTwo) {
            score_gradients<kTileB>(a, gates, unit, dp_b, shared.scores, factors_b, dbeta_b);
          }
          named_barrier_sync(kBarrier, kBarrierThreads);  // both warpgroups are done with P
          store_score_gradients<kA>(a.scale, dp_a, shared.scores);
          if constexpr (kTwo) store_score_gradients<kTileB>(a.scale, dp_b, shared.scores);
        }
        fence_proxy_async();
        named_barrier_sync(kBarrier, kBarrierThreads);
      }
      // C
      float q_dq_a[2] = {0, 0}, q_dq_b[2] = {0, 0}, k_dk_a[2] = {0, 0}, k_dk_b[2] = {0, 0};
      float state_a[2] = {0, 0}, state_b[2] = {0, 0};
      for (int c = 0; c < a.key_slices; ++c) {
        float dq_a[32] = {}, dq_b[32] = {}, dk_a[32] = {}, dk_b[32] = {};
        if (has_initial) {
          for (int vc = 0; vc < a.value_slices; ++vc) {
            const unsigned char* dh = take(0);
            const unsigned char* c0 = take_state(1);
            wgmma_fence();
            multiply_state<Major::kK>(dq_a, dh, kA, c0);
            if constexpr (kTwo) multiply_state<Major::kK>(dq_b, dh, kTileB, c0);
            wgmma_commit();
            wgmma_wait<0>();
            release(empty_slot[0]);
            release(empty_slot[1]);
          }
          // s b (dh C_0^T / (N + eps) + dbeta n_0), the quotient taken out of the brackets.
          const float* n0 = a.n0 != nullptr
                                ? a.n0 + static_cast<std::int64_t>(unit) * a.key_dim + 64 * c
                                : nullptr;
          const auto add = [&](float(&o)[32], const RowFactors& f, const float(&dbeta)[2]) {
            keep_all(o);
            const float one[2] = {f.inter[0], f.inter[1]};
#pragma unroll
            for (int j = 0; j < 32; ++j) o[j] *= f.inverse[j / 2 % 2];
            scale_and_add(o, one, dbeta, n0, a.key_dim - 64 * c);
          };
          add(dq_a, factors_a, dbeta_a);
          if constexpr (kTwo) add(dq_b, factors_b, dbeta_b);
        }
        if (has_final) {
          for (int vc = 0; vc < a.value_slices; ++vc) {
            const unsigned char* v = take(0);
            const unsigned char* dc = take_state(1);
            wgmma_fence();
            multiply_state<Major::kK>(dk_a, v, kColA, dc);
            if constexpr (kTwo) multiply_state<Major::kK>(dk_b, v, kColumnB, dc);
            wgmma_commit();
            wgmma_wait<0>();
            release(empty_slot[0]);
            release(empty_slot[1]);
          }
          const float* dn = a.dn != nullptr
                                ? a.dn + static_cast<std::int64_t>(unit) * a.key_dim + 64 * c
                                : nullptr;
          constexpr float kOne[2] = {1, 1};
          keep_all(dk_a);
          scale_and_add(dk_a, state_weight_a, kOne, dn, a.key_dim - 64 * c);
          if constexpr (kTwo) {
            keep_all(dk_b);
            scale_and_add(dk_b, state_weight_b, kOne, dn, a.key_dim - 64 * c);
          }
        }
        const unsigned char* k = take(0);
        const unsigned char* q = take(1);
        if (has_final) {
          add_row_dots(state_a, dk_a, k, kColA);
          if constexpr (kTwo) add_row_dots(state_b, dk_b, k, kColumnB);
        }
        wgmma_fence();
        multiply_rows<kA>(dq_a, shared.scores, k);
        wgmma_commit();
        multiply_columns<kRows, kColA>(dk_a, shared.scores, q);
        wgmma_commit();
        if constexpr (kTwo) {
          multiply_rows<kTileB>(dq_b, shared.scores, k);
          wgmma_commit();
          multiply_columns<kRows, kColumnB>(dk_b, shared.scores, q);
          wgmma_commit();
        }
        const auto finish = [&](float(&o)[32], float(&dots)[2], const unsigned char* x, int tile,
                                const CUtensorMap& map) {
          keep_all(o);
          add_row_dots(dots, o, x, tile);
          store_tile(store.acquire(), o, 1.0f, 1.0f);
          store.send(map, 64 * c, head, 64 * tile, batch);
        };
        wgmma_wait<kTwo ? 3 : 1>();
        finish(dq_a, q_dq_a, q, kA, maps.dq);
        wgmma_wait<kTwo ? 2 : 0>();
        finish(dk_a, k_dk_a, k, kColA, maps.dk);
        if constexpr (kTwo) {
          wgmma_wait<1>();
          finish(dq_b, q_dq_b, q, kTileB, maps.dq);
          wgmma_wait<0>();
          finish(dk_b, k_dk_b, k, kColumnB, maps.dk);
        }
        release(empty_slot[0]);
        release(empty_slot[1]);
      }
      mbarrier_wait(&shared.dots_empty, (n % 2) ^ 1);
      const auto leave = [&](float(&sum)[2], float* out, int tile) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 1);
          sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 2);
          if (lane % 4 == 0) out[64 * tile + local + 8 * r] = sum[r];
        }
      };
      if (has_final) {
        // The sums over k.dk hold the state's part too.
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          k_dk_a[r] -= state_a[r];
          k_dk_b[r] -= state_b[r];
        }
        leave(state_a, shared.k_dk_state, kColA);
        if constexpr (kTwo) leave(state_b, shared.k_dk_state, kColumnB);
      }
      leave(q_dq_a, shared.q_dq, kA);
      leave(k_dk_a, shared.k_dk, kColA);
      if constexpr (kTwo) {
        leave(q_dq_b, shared.q_dq, kTileB);
        leave(k_dk_b, shared.k_dk, kColumnB);
      }
      __syncwarp();
      release(&shared.dots_full);
      release(&shared.gates_empty[buffer]);
    }
    if (threadIdx.x % 128 == 0) tma_store_wait<0>();
  }
}

template <int kRows, bool kStates>
__global__ void __launch_bounds__(kThreads, 1)
    backward_kernel(const __grid_constant__ BackwardArgs args,
                    const __grid_constant__ BackwardMaps maps) {
  unsigned char* const memory = dynamic_shared();
  auto& shared = *reinterpret_cast<BackwardShared<kRows>*>(memory);
  using Shape = BackwardShape<kRows>;
  if (threadIdx.x == 0) {
    for (int slot = 0; slot < Shape::kSlots; ++slot) {
      mbarrier_init(&shared.full[slot], 1);
      mbarrier_init(&shared.empty[slot], Shape::kConsumerWarps * kArrivalsPerWarp);
    }
    for (int buffer = 0; buffer < 2; ++buffer) {
      mbarrier_init(&shared.gates_full[buffer], kArrivalsPerWarp);
      mbarrier_init(&shared.gates_empty[buffer], Shape::kConsumerWarps * kArrivalsPerWarp);
    }
    mbarrier_init(&shared.dots_full, Shape::kConsumerWarps * kArrivalsPerWarp);
    mbarrier_init(&shared.dots_empty, kArrivalsPerWarp);
    fence_barrier_init();
  }
  __syncthreads();
  if (threadIdx.x >= kConsumers) {
    set_max_registers_down<kProducerRegisters<kRows, kStates>>();
    if (threadIdx.x / 32 == kConsumers / 32) {
      if (elect_one()) load<kRows, kStates>(args, maps, shared);
    } else if (threadIdx.x / 32 == kConsumers / 32 + 1) {
      scan<kRows, kStates>(args, shared);
    }
  } else if (threadIdx.x < 128) {
    set_max_registers_up<kConsumerRegisters<kRows, kStates>>();
    consume<kRows, 0, kStates>(args, maps, shared);
  } else {
    set_max_registers_up<kConsumerRegisters<kRows, kStates>>();
    consume<kRows, 1, kStates>(args, maps, shared);
  }
}

template <int kRows, bool kStates>
void launch(const MlstmBackward& b) {
  const MlstmProblem& p = b.problem;
  const auto map = [&](const HeadTensor& x, int dim, int box) {
    return head_tensor_map(x.data, dim, p.heads, p.tokens, p.batch, x.stride_h, x.stride_t,
                           x.stride_b, box);
  };
  constexpr int kTokens = 64 * kRows;
  const StateWorkspace workspace = carve_backward(p, b.workspace);
  BackwardMaps maps{map(p.q, p.key_dim, kTokens),
                    map(p.k, p.key_dim, kTokens),
                    map(p.v, p.value_dim, kTokens),
                    map(b.dh, p.value_dim, kTokens),
                    map(b.dq, p.key_dim, 64),
                    map(b.dk, p.key_dim, 64),
                    map(b.dv, p.value_dim, 64),
                    {},
                    {}};
  BackwardArgs args{gate_args(p),
                    p.batch * p.heads,
                    p.heads,
                    (p.key_dim + 63) / 64,
                    (p.value_dim + 63) / 64,
                    p.key_dim,
                    1 / sqrtf(static_cast<float>(p.key_dim)),
                    p.normalize,
                    p.initial.c != nullptr,
                    b.dfinal.c != nullptr,
                    static_cast<const float2*>(b.saved),
                    b.dh_dot_h,
                    p.initial.n,
                    b.dfinal.n,
                    nullptr,
                    workspace.dbeta,
                    b.di,
                    b.df};
  if (args.has_initial || args.has_final) {
    prepare_backward(b, workspace, b.stream);
    if (args.has_initial) maps.c0 = state_map(p, workspace.c0);
    if (args.has_final) maps.dc = state_map(p, workspace.dc);
    if (args.has_initial && args.has_final) args.carried = workspace.carried;
    if (args.has_initial && p.normalize && b.dh_dot_h.data == nullptr) {
      args.dh_dot_h = {workspace.dh_dot_h, std::int64_t{1} * p.heads * p.tokens, 1, p.tokens};
    }
  }
  const auto kernel = backward_kernel<kRows, kStates>;
  constexpr int kBytes = sizeof(BackwardShared<kRows>);
  static_assert(kBytes <= 227 * 1024);
  LRAM_CUDA_CHECK(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes));
  launch_kernel(kernel, std::min(args.units, current_device().multiprocessors), kThreads, kBytes,
                b.stream, args, maps);
  LRAM_CUDA_CHECK_LAUNCH("mlstm_short_backward_sm90");
  if (b.dinitial.c != nullptr) initial_gradient(b, workspace, b.stream);
}

}  // namespace

void backward_sm90(const MlstmBackward& b) {
  const bool states = b.problem.initial.c != nullptr || b.dfinal.c != nullptr;
  switch ((b.problem.tokens + 63) / 64) {
    case 1:
      return states ? launch<1, true>(b) : launch<1, false>(b);
    case 2:
      return states ? launch<2, true>(b) : launch<2, false>(b);
    default:
      return states ? launch<3, true>(b) : launch<3, false>(b);
  }
}

}  // namespace mlstm_short
}  // namespace lram::kernels
