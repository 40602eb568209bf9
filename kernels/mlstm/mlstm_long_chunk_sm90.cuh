#pragma once
#include "kernels/mlstm/mlstm_long_state_sm90.cuh"

/// What a consumer warpgroup of a sweep on Hopper does with one chunk: its columns of the output,
/// and the step of the state.
namespace lram::kernels::mlstm_long {

// Steps of 16 along the summed dimension, in a descriptor's units.
__device__ __forceinline__ std::uint64_t k_step(int k) {
  return static_cast<std::uint64_t>((k / 4 * 8192 + k % 4 * 32) >> 4);
}
__device__ __forceinline__ std::uint64_t mn_step(int k) {
  return static_cast<std::uint64_t>((k * 2048) >> 4);
}
__device__ __forceinline__ void group_sync(const Stand& at) {
  named_barrier_sync(1 + at.group, 128);
}

/// The chunk as it came in.
struct ChunkTiles {
  unsigned char *x, *y, *z;
  const float* factors;
  int x_stage;
};

/// What lies behind the sequence may be NaN, and 0 NaN is NaN. Every other row of y by each
/// warpgroup, z by the one that has its columns; both meet, once a head.
template <int kRows, int kColumns, Sweep kSweep>
__device__ __forceinline__ void zero_tail(const ChunkTiles& tiles, int count) {
  using H = Half<kRows, kColumns, kSweep>;
  const Stand here;
  const uint4 zero = {0, 0, 0, 0};
  for (int e = here.group_tid(); e < (kChunk - count) * 8; e += 128) {
    const int r = count + e / 8, piece = e % 8;
    for (int block = 0; block < H::kBlocks && r % 2 == here.group; ++block) {
      *reinterpret_cast<uint4*>(tiles.y + block * 8192 + r * 128 + piece * 16) = zero;
    }
    for (int c = 8 * piece; c < H::kHalf; c += 64) {
      *reinterpret_cast<uint4*>(H::address(here, tiles.z, 8192, r, c)) = zero;
    }
  }
  fence_proxy_async();
  named_barrier_sync(3, 256);
}

/// q . n in float32 over 64 columns; a quad's lanes take every fourth 16 bytes of the two rows.
template <int kUnroll>
__device__ __forceinline__ void add_n_dot(const unsigned char* x_tile, const float* n,
                                          const Stand& here, float (&n_dot)[2]) {
#pragma unroll kUnroll
  for (int i = 0; i < 2; ++i) {
    const int piece = 4 * i + here.quad;
    const float4 n_low = *reinterpret_cast<const float4*>(n + 8 * piece);
    const float4 n_high = *reinterpret_cast<const float4*>(n + 8 * piece + 4);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const uint4 q = *reinterpret_cast<const uint4*>(
          x_tile + swizzle_128(static_cast<std::uint32_t>(here.row + 8 * r),
                               static_cast<std::uint32_t>(8 * piece)));
      n_dot[r] +=
          __uint_as_float(q.x << 16) * n_low.x + __uint_as_float(q.x & 0xffff0000u) * n_low.y +
          __uint_as_float(q.y << 16) * n_low.z + __uint_as_float(q.y & 0xffff0000u) * n_low.w +
          __uint_as_float(q.z << 16) * n_high.x + __uint_as_float(q.z & 0xffff0000u) * n_high.y +
          __uint_as_float(q.w << 16) * n_high.z + __uint_as_float(q.w & 0xffff0000u) * n_high.w;
    }
  }
}

/// S = x y^T and x Z side by side, where x comes in pieces: each is handed back when the next one's
/// products are on their way.
template <int kRows, int kColumns, Sweep kSweep>
__device__ __forceinline__ void products_by_piece(const SweepShared<kRows, kColumns, kSweep>& at,
                                                  unsigned char* y_tile, int group, bool has_n,
                                                  float (&s)[32], float (&o)[kColumns / 4],
                                                  float (&n_dot)[2]) {
  using H = Half<kRows, kColumns, kSweep>;
  using Shared = SweepShared<kRows, kColumns, kSweep>;
  constexpr int kPieces = Shared::kXPieces;
  // A piece has its place and parity whatever the chunk.
  static_assert(kPieces % (2 * Shared::kXStages) == 0);
  const std::uint64_t y_descriptor = wgmma_descriptor(shared_address(y_tile));
  const std::uint64_t state_descriptor =
      wgmma_descriptor(shared_address(at.state) + H::offset(group, H::kStateTile), H::kStateTile);
#pragma unroll
  for (int piece = 0; piece < kPieces; ++piece) {
    const int stage = piece % Shared::kXStages;
    const int parity = piece / Shared::kXStages & 1;
    unsigned char* const x_tile = at.x_ring + stage * H::Tiles::kXPieceBytes;
    const std::uint64_t x_descriptor = wgmma_descriptor(shared_address(x_tile));
    mbarrier_wait(at.x_full + stage, parity);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      wgmma_ss<64, Major::kK, Major::kK>(s, x_descriptor + k_step(k),
                                         y_descriptor + k_step(4 * piece + k), piece + k > 0);
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      wgmma_ss<H::kHalf, Major::kK, Major::kMn>(
          o, x_descriptor + k_step(k), state_descriptor + mn_step(4 * piece + k), piece + k > 0);
    }
    wgmma_commit();
    if (H::kForward && has_n) {
      const Stand here;
      add_n_dot<1>(x_tile, H::n_of(at.vectors, here) + 64 * piece, here, n_dot);
    }
    if (piece > 0) {
      wgmma_wait<1>();
      __syncwarp();
      warp_arrive(at.x_empty + (piece - 1) % Shared::kXStages, Stand().lane);
    }
  }
  wgmma_wait<0>();
  keep_all(s);
  keep_all(o);
  __syncwarp();
  warp_arrive(at.x_empty + (kPieces - 1) % Shared::kXStages, Stand().lane);
}

/// The output's pairs of bf16 in stmatrix's order; with kDots its products too. `n`: chunks before.
template <int kRows, int kColumns, Sweep kSweep>
__device__ __forceinline__ void output_of_chunk(const SweepArgs& a, const SweepItem& item,
                                                const SweepShared<kRows, kColumns, kSweep>& at,
                                                const ChunkTiles& tiles, int group, bool has_n,
                                                std::uint32_t (&packed)[kColumns / 16][2]) {
  using H = Half<kRows, kColumns, kSweep>;
  constexpr bool kForward = kSweep == Sweep::kForward, kReverse = kIsReverse<kSweep>;
  constexpr bool kDots = kHasDots<kSweep>;
  constexpr int kHalf = H::kHalf;
  unsigned char *const x_tile = tiles.x, *const y_tile = tiles.y, *const z_tile = tiles.z;
  const float* const factors = tiles.factors;
  const int x_stage = tiles.x_stage;
  constexpr bool kPiecewise = H::Tiles::kPiecewise;
  const std::uint64_t x_descriptor = wgmma_descriptor(shared_address(x_tile));
  const std::uint64_t y_descriptor = wgmma_descriptor(shared_address(y_tile));
  float s[32], o[kHalf / 2], n_dot[2] = {0, 0};
  if constexpr (kPiecewise) {
    products_by_piece<kRows, kColumns, kSweep>(at, y_tile, group, has_n, s, o, n_dot);
  } else {
    // --- S = x y^T
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < kRows / 16; ++k) {
      const std::uint64_t step_k = k_step(k);
      wgmma_ss<64, Major::kK, Major::kK>(s, x_descriptor + step_k, y_descriptor + step_k, k > 0);
    }
    wgmma_commit();
  }
  const float* const row_exponents = factors + (kReverse ? kExponentS : kExponentT) * kChunk;
  const float* const column_exponents = factors + (kReverse ? kExponentT : kExponentS) * kChunk;
  const Stand here;
  const int row = here.row, quad = here.quad;
  const auto inter_of = [&](int r) {
    return factors[(kReverse ? kInterS : kInterT) * kChunk + here.row + 8 * r];
  };
  const auto auxiliary_of = [&](int r) { return factors[kAuxiliary * kChunk + here.row + 8 * r]; };
  if (kForward && has_n && !kPiecewise) {
#pragma unroll
    for (int block = 0; block < kRows / 64; ++block) {
      add_n_dot<2>(x_tile + block * 8192, H::n_of(at.vectors, here) + 64 * block, here, n_dot);
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
  if constexpr (!kPiecewise) {
    wgmma_wait<0>();
    keep_all(s);
  }

  // --- P
  std::uint32_t p[4][4];
  float row_sum[2] = {0, 0};
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const float2 exponent = *reinterpret_cast<const float2*>(column_exponents + 8 * j + 2 * quad);
    float2 bias = {0, 0};
    if (kSweep == Sweep::kGradK) {
      bias = *reinterpret_cast<const float2*>(factors + kAuxiliary * kChunk + 8 * j + 2 * quad);
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
  // Asked of the item each time: the accumulators leave no registers to keep it.
  const auto position = [&](int r) {
    const int chunk = chunk_of<kSweep>(item, item.step);
    return (static_cast<std::int64_t>(item.head) * a.sizes.chunks + chunk) * kChunk + r;
  };
  if (kForward && has_n) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float beta = row_sum[r] + inter_of(r) * n_dot[r];
      beta += __shfl_xor_sync(kAllLanes, beta, 1);
      beta += __shfl_xor_sync(kAllLanes, beta, 2);
      const float floor = auxiliary_of(r);
      row_weight[r] = 1.0f / (fmaxf(fabsf(beta), floor) + a.eps);
      if (a.inverse_norm != nullptr && quad == 0 && here.group == 0 && item.slice == 0) {
        a.inverse_norm[position(row + 8 * r)] = row_weight[r];
        a.sign[position(row + 8 * r)] = fabsf(beta) > floor ? copysignf(1.0f, beta) : 0.0f;
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
      *reinterpret_cast<volatile std::uint32_t*>(at.unused) = bits;
    }
  }
  const std::uint64_t z_descriptor =
      wgmma_descriptor(shared_address(z_tile) + H::offset(group, 8192), 8192);
  if constexpr (!kPiecewise) {
    const std::uint64_t state_descriptor =
        wgmma_descriptor(shared_address(at.state) + H::offset(group, H::kStateTile), H::kStateTile);
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
    warp_arrive(at.x_empty + x_stage, here.lane);
  }
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
  const int count = __float_as_int(factors[kChunkHeader<false> + 1]);
  float dot[2] = {0, 0}, n_weight[2] = {0, 0};
  if (kDots) {
    mbarrier_wait(at.dot_full, (item.before + item.step - item.from) & 1);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      n_weight[r] = kSweep == Sweep::kGradQ ? inter_of(r) * auxiliary_of(r) : inter_of(r);
    }
  }
#pragma unroll
  for (int j = 0; j < kHalf / 8; ++j) {
    float2 n_here = {0, 0};
    if (kDots && has_n)
      n_here =
          *reinterpret_cast<const float2*>(H::n_of(at.vectors, there) + 8 * j + 2 * there.quad);
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
            H::address(there, at.dot_tile, 8192, there.row + 8 * r, 8 * j + 2 * there.quad));
        dot[r] += left * __uint_as_float(pair << 16) + right * __uint_as_float(pair & 0xffff0000u);
      }
      packed[j][r] = there.row + 8 * r < count ? pack_bf16(left, right) : 0u;
    }
  }
  if (kDots) {
    __syncwarp();
    warp_arrive(at.dot_empty, there.lane);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      dot[r] += __shfl_xor_sync(kAllLanes, dot[r], 1);
      dot[r] += __shfl_xor_sync(kAllLanes, dot[r], 2);
      if (there.quad == 0) {
        a.dot_out[(2 * item.slice + there.group) * a.part_stride + position(there.row + 8 * r)] =
            dot[r];
      }
    }
  }
}

/// Z, and n with it; `packed` waits in registers until z, in whose place it goes, is done with.
template <int kRows, int kColumns, Sweep kSweep>
__device__ __forceinline__ void update_state(
    const SweepArgs& a, SweepItem& item, const SweepShared<kRows, kColumns, kSweep>& at,
    const ChunkTiles& tiles, int stage, int group, bool has_n,
    typename Half<kRows, kColumns, kSweep>::Accumulators& z_acc,
    const std::uint32_t (&packed)[kColumns / 16][2]) {
  using H = Half<kRows, kColumns, kSweep>;
  constexpr bool kForward = kSweep == Sweep::kForward, kReverse = kIsReverse<kSweep>;
  constexpr bool kDots = kHasDots<kSweep>;
  constexpr int kHalf = H::kHalf, kBlocks = H::kBlocks;
  unsigned char *const y_tile = tiles.y, *const z_tile = tiles.z;
  const float* const factors = tiles.factors;
  // --- Z = decay Z + (u y)^T z
  const float* const update = factors + (kReverse ? kInterT : kInterS) * kChunk;
  const Stand here;
  const float decay = factors[kChunkHeader<false>];
  if (a.state_only && here.group_tid() == 0) item.decay *= decay;
  float n_sum[kBlocks][2];
  constexpr bool kPiecewise = H::Tiles::kPiecewise;
  // Elsewhere O, or all of Z, takes the registers of the second.
  constexpr int kBuffers = kHalf == 128 || (kPiecewise && kSweep != Sweep::kGradV) ? 1 : 2;
  std::uint32_t y_part[kBuffers][4][4];
  const std::uint64_t z_descriptor =
      wgmma_descriptor(shared_address(z_tile) + H::offset(group, 8192), 8192);
#pragma unroll
  for (int block = 0; block < kBlocks; ++block) {
    if (block >= kBuffers) wgmma_wait<kBuffers - 1>();
    n_sum[block][0] = n_sum[block][1] = 0;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      std::uint32_t(&part_k)[4] = y_part[block % kBuffers][k];
      ldmatrix_x4_transposed(
          y_tile + block * 8192 +
              swizzle_128(
                  static_cast<std::uint32_t>(16 * k + (here.matrix >> 1) * 8 + here.matrix_row),
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
    if (kForward && has_n && kPiecewise) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        float sum = n_sum[block][r];
        sum += __shfl_xor_sync(kAllLanes, sum, 1);
        sum += __shfl_xor_sync(kAllLanes, sum, 2);
        const Stand there;
        if (there.quad == 0) {
          H::n_parts_of(at.vectors, there)[64 * block + there.row + 8 * r] = sum;
        }
      }
    }
  }
  if (kDots && has_n) {
    // Column sums of the weighted z: a warp takes 16 tokens, a lane two columns.
    const float* const bias = factors + kAuxiliary * kChunk;
    for (int c = 2 * here.lane; c < kHalf; c += 64) {
      float2 sum = {0, 0};
      for (int t = 16 * here.warp; t < 16 * here.warp + 16; ++t) {
        const float weight = kReverse ? update[t] * bias[t] : update[t];
        const std::uint32_t pair =
            *reinterpret_cast<const std::uint32_t*>(H::address(here, z_tile, 8192, t, c));
        sum.x += weight * __uint_as_float(pair << 16);
        sum.y += weight * __uint_as_float(pair & 0xffff0000u);
      }
      *reinterpret_cast<float2*>(H::n_parts_of(at.vectors, here) + here.warp * kHalf + c) = sum;
    }
  }
  wgmma_wait<0>();
#pragma unroll
  for (int block = 0; block < kBlocks; ++block) keep_all(z_acc[block]);
  const Stand late;
  group_sync(late);  // all four warps are done with z, Z's copy, n and the step
  if (late.group_tid() == 0) ++item.step;
  if (!a.state_only) {
#pragma unroll
    for (int j = 0; j < kHalf / 8; j += 2) {
      stmatrix_x4(H::fragment(late, z_tile, 8192, 0, j), packed[j][0], packed[j][1],
                  packed[j + 1][0], packed[j + 1][1]);
    }
    fence_proxy_async();
  }
  __syncwarp();
  warp_arrive(at.out_full + late.group * at.kStages + stage, late.lane);
  if (kForward && has_n) {
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        float sum = 0;
        if (kPiecewise) {
          sum = H::n_parts_of(at.vectors, late)[64 * block + late.row + 8 * r];
        } else {
          sum = n_sum[block][r];
          sum += __shfl_xor_sync(kAllLanes, sum, 1);
          sum += __shfl_xor_sync(kAllLanes, sum, 2);
        }
        float& entry = H::n_of(at.vectors, late)[64 * block + late.row + 8 * r];
        if (late.quad == 0) entry = decay * entry + sum;
      }
    }
  }
  if (kDots && has_n && late.group_tid() < kHalf) {
    float& entry = H::n_of(at.vectors, late)[late.group_tid()];
    float sum = decay * entry;
    for (int i = 0; i < 4; ++i) {
      sum += H::n_parts_of(at.vectors, late)[i * kHalf + late.group_tid()];
    }
    entry = sum;
  }
  if (!a.state_only) {
    copy_state<kRows, kColumns, kSweep>(at.state, z_acc, late);
    fence_proxy_async();
  }
  group_sync(late);
}

}  // namespace lram::kernels::mlstm_long
