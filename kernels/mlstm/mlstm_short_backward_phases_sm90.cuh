#pragma once
#include "kernels/mlstm/mlstm_short_backward_consumer_sm90.cuh"

/// The phases A, B and C of mlstm_short_backward_sm90.cu, and the states' parts in them.
namespace lram::kernels::mlstm_short {

template <int kRows, bool kStates>
__device__ void BackwardConsumer<kRows, kStates>::probabilities(int n) {
  if constexpr (kTurns<kRows> == 2) probabilities_of<1>(n);
  probabilities_of<0>(n);
  fence_proxy_async();
  both_groups();
}

template <int kRows, bool kStates>
template <int kRow>
__device__ void BackwardConsumer<kRows, kStates>::probabilities_of(int n) {
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

template <int kRows, bool kStates>
__device__ void BackwardConsumer<kRows, kStates>::value_and_score_gradients() {
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

template <int kRows, bool kStates>
template <int kRow>
__device__ void BackwardConsumer<kRows, kStates>::split_score_gradients() {
  Scores<kRow> dp = {};
  products<kRow>(dp, a_.value_slices);
  score_gradients<kRow>(dp);
  store_score_gradients<kRow>(dp);
}

template <int kRows, bool kStates>
__device__ void BackwardConsumer<kRows, kStates>::value_gradients(int c) {
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

template <int kRows, bool kStates>
template <int kRow>
__device__ void BackwardConsumer<kRows, kStates>::score_gradients(Scores<kRow>& dp) {
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

template <int kRows, bool kStates>
template <int kRow>
__device__ void BackwardConsumer<kRows, kStates>::store_score_gradients(const Scores<kRow>& ds) {
#pragma unroll
  for (int j = 0; j < held(kRow); ++j) {
    if (!holds<kRow>(j)) break;
    store_tile(score_tile_at(place<kRow>(j)), ds[j], a_.scale, a_.scale);
  }
}

template <int kRows, bool kStates>
__device__ void BackwardConsumer<kRows, kStates>::query_and_key_gradients(int n) {
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

template <int kRows, bool kStates>
template <int kAccumulator>
__device__ void BackwardConsumer<kRows, kStates>::gradients_with_states(int c) {
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

template <int kRows, bool kStates>
__device__ void BackwardConsumer<kRows, kStates>::initial_state_part(float (&x)[32], int tile,
                                                                     int c) {
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

template <int kRows, bool kStates>
__device__ void BackwardConsumer<kRows, kStates>::final_state_part(float (&x)[32], int tile,
                                                                   int c) {
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

}  // namespace lram::kernels::mlstm_short
