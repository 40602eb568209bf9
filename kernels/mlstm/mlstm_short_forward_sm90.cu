// The mLSTM's quadratic form for T <= 256 on Hopper (kernels.md 2.1), forward.
//
//   S = s Q K^T,  P = S o D,  beta = P 1,  h = P V / (max(|beta|, exp(-m)) + eps)
//
// A persistent CTA takes one head after the other. Its loading warp streams slices of 64 features
// of q and k, then of v, through a ring of slots, ahead into the next head; two warpgroups sum the
// triangle of scores in registers, weigh it by the gates (two warps scan them ahead), keep P
// there as the next product's left operand, and send each 64-wide slice of h out through the copy
// engine. Every input is read once and every output written once. An initial state C_0 (bf16 copy)
// adds s b (Q C_0) to each slice, for which q's slices come again. Limits: T <= 256, bf16, any head
// dims that are multiples of 8.
#include <algorithm>

#include "kernels/common/cuda_check.h"
#include "kernels/common/launch.cuh"
#include "kernels/common/tma.h"
#include "kernels/mlstm/mlstm_short.h"
#include "kernels/mlstm/mlstm_short_sm90.cuh"

namespace lram::kernels {
namespace mlstm_short {
namespace {

struct ForwardArgs {
  GateArgs gates;
  int units, heads, key_slices, value_slices;
  float scale, eps;
  bool normalize, has_initial;
  const float* q_dot_n0;  // [B, H, T]
  float2* saved;          // [B, H, T] 1 / denominator, and the sign of beta where it counts
};

struct ForwardMaps {
  CUtensorMap q, k, v, h, c0;
};

template <int kRows>
struct ForwardShape {
  static constexpr int kTokens = 64 * kRows;
  static constexpr int kSlotBytes = kRows * kTileBytes;
  static constexpr int kSlots = kRows == 4 ? 5 : kRows == 3 ? 7 : 10;
  static constexpr int kConsumerWarps = kRows == 1 ? 4 : 8;
};

template <int kRows>
struct ForwardShared {
  using Shape = ForwardShape<kRows>;
  alignas(1024) unsigned char slots[Shape::kSlots][Shape::kSlotBytes];
  alignas(1024) unsigned char out[kRows == 1 ? 2 : kRows == 2 ? 4 : kRows][kTileBytes];
  float column[2][Shape::kTokens], row_max[2][Shape::kTokens], floor[2][Shape::kTokens],
      inter[2][Shape::kTokens];
  int start[2][Shape::kTokens];
  std::uint64_t full[Shape::kSlots], empty[Shape::kSlots], gates_full[2], gates_empty[2];

  __device__ GateTable gates(int buffer) {
    return {column[buffer], row_max[buffer], floor[buffer], inter[buffer], start[buffer]};
  }
};

template <int kRows>
__device__ void load(const ForwardArgs& a, const ForwardMaps& maps, ForwardShared<kRows>& shared) {
  using Shape = ForwardShape<kRows>;
  Ring<Shape::kSlots> ring{shared.slots[0], shared.full, shared.empty};
  ring.slot_bytes = Shape::kSlotBytes;
  for (int unit = blockIdx.x; unit < a.units; unit += gridDim.x) {
    const int batch = unit / a.heads, head = unit % a.heads;
    for (int c = 0; c < a.key_slices; ++c) {
      load_slice(ring, maps.q, Shape::kSlotBytes, 64 * c, head, 0, batch);
      load_slice(ring, maps.k, Shape::kSlotBytes, 64 * c, head, 0, batch);
    }
    for (int c = 0; c < a.value_slices; ++c) {
      for (int kc = 0; a.has_initial && kc < a.key_slices; ++kc) {
        load_slice(ring, maps.q, Shape::kSlotBytes, 64 * kc, head, 0, batch);
        load_slice(ring, maps.c0, kTileBytes, 64 * c, head, 64 * kc, batch);
      }
      load_slice(ring, maps.v, Shape::kSlotBytes, 64 * c, head, 0, batch);
    }
  }
}

// One warp for each of the two tables: it scans every other head.
template <int kRows>
__device__ void scan(const ForwardArgs& a, ForwardShared<kRows>& shared, int buffer) {
  int n = 0;
  for (int unit = blockIdx.x + buffer * gridDim.x; unit < a.units; unit += 2 * gridDim.x, ++n) {
    mbarrier_wait(&shared.gates_empty[buffer], (n % 2) ^ 1);
    scan_gates<2 * kRows>(a.gates, unit / a.heads, unit % a.heads, shared.gates(buffer));
    __syncwarp();
    warp_arrive(&shared.gates_full[buffer], threadIdx.x % 32);
  }
}

// P of the row tile as bf16 fragments, rows' 1 / (N + eps) and the initial state's weights.
template <int kTile>
__device__ void weigh(const ForwardArgs& a, const GateTable& gates, int head_index, int tokens,
                      const float (&s)[tile_scores(kTile)], std::uint32_t (&p)[16 * (kTile + 1)],
                      float (&inverse)[2], float (&inter)[2]) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
  const int row = 64 * kTile + 16 * warp + lane / 4;
  const float row_max[2] = {gates.row_max[row], gates.row_max[row + 8]};
  const int start[2] = {gates.start[row], gates.start[row + 8]};
  float sum[2] = {0, 0};
#pragma unroll
  for (int j = 0; j < 8 * (kTile + 1); ++j) {
    const int column = 8 * j + 2 * (lane % 4);
    const float2 gate = *reinterpret_cast<const float2*>(&gates.column[column]);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float x[2] = {s[4 * j + 2 * r] * exp2_fast(gate.x - row_max[r]),
                    s[4 * j + 2 * r + 1] * exp2_fast(gate.y - row_max[r])};
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        bool counts = column + c >= start[r];
        if (j >= 8 * kTile) counts = counts && column + c <= row + 8 * r;
        x[c] = counts ? x[c] * a.scale : 0.0f;
        sum[r] += x[c];
      }
      p[2 * j + r] = pack_bf16(x[0], x[1]);
    }
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int t = row + 8 * r;
    sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 1);
    sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 2);
    const bool counts = start[r] != kNoToken;
    const std::int64_t token = static_cast<std::int64_t>(head_index) * tokens + t;
    inter[r] = 0;
    if (a.has_initial) {
      inter[r] = a.scale * gates.inter[t];
      if (counts && a.normalize) sum[r] += inter[r] * a.q_dot_n0[token];
    }
    const float floor = gates.floor[t], size = fabsf(sum[r]);
    inverse[r] = !counts ? 0.0f : a.normalize ? __fdividef(1.0f, fmaxf(size, floor) + a.eps) : 1.0f;
    if (a.saved != nullptr && t < tokens && lane % 4 == 0) {
      const bool differentiable = a.normalize && counts && size > floor;
      a.saved[token] = {inverse[r], differentiable ? copysignf(1.0f, sum[r]) : 0.0f};
    }
  }
}

// o += P V over one slice of 64 features of v.
template <int kTile>
__device__ void accumulate_values(float (&o)[32], const std::uint32_t (&p)[16 * (kTile + 1)],
                                  const unsigned char* values) {
  const std::uint32_t b = shared_address(values);
#pragma unroll
  for (int k = 0; k < 4 * (kTile + 1); ++k) {
    const std::uint32_t fragment[4] = {p[4 * k], p[4 * k + 1], p[4 * k + 2], p[4 * k + 3]};
    wgmma_rs<64, Major::kMn>(o, fragment, wgmma_descriptor(b + 2048 * k), true);
  }
}

// o += Q_tile C_0 over 64 of the key features.
template <int kTile>
__device__ void accumulate_state(float (&o)[32], const unsigned char* rows,
                                 const unsigned char* state) {
  const std::uint32_t a = shared_address(rows) + kTile * kTileBytes, b = shared_address(state);
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    wgmma_ss<64, Major::kK, Major::kMn>(o, wgmma_descriptor(a + 32 * k),
                                        wgmma_descriptor(b + 2048 * k), true);
  }
}

__device__ inline void scale_rows(float (&o)[32], const float (&factor)[2]) {
#pragma unroll
  for (int j = 0; j < 32; ++j) o[j] *= factor[j / 2 % 2];
}

template <int kRows, int kGroup>
__device__ void consume(const ForwardArgs& a, const ForwardMaps& maps,
                        ForwardShared<kRows>& shared) {
  using Shape = ForwardShape<kRows>;
  using Tiles = RowTiles<kRows, kGroup>;
  constexpr int kA = Tiles::kA, kB = Tiles::kB;
  if constexpr (kA >= 0) {
    constexpr bool kTwo = kB >= 0;
    constexpr int kTileB = kTwo ? kB : 0;  // never used where there is none
    Ring<Shape::kSlots> ring{shared.slots[0], shared.full, shared.empty};
    ring.slot_bytes = Shape::kSlotBytes;
    const auto release = [&](std::uint64_t* barrier) { warp_arrive(barrier, threadIdx.x % 32); };
    constexpr int kBuffers = kRows < 3 ? 2 : kTwo ? 2 : 1;
    TileStore store{shared.out[kGroup == 0 ? 0 : 2], kGroup, kBuffers};
    int n = 0;
    for (int unit = blockIdx.x; unit < a.units; unit += gridDim.x, ++n) {
      const int batch = unit / a.heads, head = unit % a.heads, tokens = a.gates.tokens;
      const int begin = a.gates.begin != nullptr ? a.gates.begin[batch] : 0;
      const int end = a.gates.end != nullptr ? a.gates.end[batch] : tokens;
      const bool clear = begin > 0 || end < tokens;
      std::uint32_t p_a[16 * (kA + 1)], p_b[kTwo ? 16 * (kTileB + 1) : 1];
      float inverse_a[2], inverse_b[2], inter_a[2], inter_b[2];
      {
        // Zeros, not wgmma's own start from zero: undefined registers would be copied about.
        float s_a[tile_scores(kA)] = {}, s_b[tile_scores(kB)] = {};
        std::uint64_t* previous[2] = {};
        for (int c = 0; c < a.key_slices; ++c) {
          std::uint64_t* current[2];
          ring.wait_full();
          unsigned char* q = ring.data();
          current[0] = &ring.empty[ring.slot];
          ring.advance();
          ring.wait_full();
          unsigned char* k = ring.data();
          current[1] = &ring.empty[ring.slot];
          ring.advance();
          if (clear) {
            clear_outside(q, Shape::kTokens, begin, end, kGroup);
            clear_outside(k, Shape::kTokens, begin, end, kGroup);
          }
          wgmma_fence();
          accumulate_scores<kA>(s_a, q, k);
          if constexpr (kTwo) accumulate_scores<kTileB>(s_b, q, k);
          wgmma_commit();
          if (c > 0) {
            wgmma_wait<1>();
            release(previous[0]);
            release(previous[1]);
          }
          previous[0] = current[0];
          previous[1] = current[1];
        }
        wgmma_wait<0>();
        release(previous[0]);
        release(previous[1]);
        keep_all(s_a);
        if constexpr (kTwo) keep_all(s_b);
        const int buffer = n % 2;
        mbarrier_wait(&shared.gates_full[buffer], n / 2 % 2);
        const GateTable gates = shared.gates(buffer);
        weigh<kA>(a, gates, unit, tokens, s_a, p_a, inverse_a, inter_a);
        if constexpr (kTwo) weigh<kTileB>(a, gates, unit, tokens, s_b, p_b, inverse_b, inter_b);
        __syncwarp();
        release(&shared.gates_empty[buffer]);
      }
      for (int c = 0; c < a.value_slices; ++c) {
        float o_a[32] = {}, o_b[32] = {};
        if (a.has_initial) {
          for (int kc = 0; kc < a.key_slices; ++kc) {
            ring.wait_full();
            unsigned char* q = ring.data();
            std::uint64_t* q_empty = &ring.empty[ring.slot];
            ring.advance();
            ring.wait_full();
            if (clear) clear_outside(q, Shape::kTokens, begin, end, kGroup);
            wgmma_fence();
            accumulate_state<kA>(o_a, q, ring.data());
            if constexpr (kTwo) accumulate_state<kTileB>(o_b, q, ring.data());
            wgmma_commit();
            wgmma_wait<0>();
            release(q_empty);
            release(&ring.empty[ring.slot]);
            ring.advance();
          }
          keep_all(o_a);
          scale_rows(o_a, inter_a);
          if constexpr (kTwo) {
            keep_all(o_b);
            scale_rows(o_b, inter_b);
          }
        }
        ring.wait_full();
        unsigned char* v = ring.data();
        if (clear) clear_outside(v, Shape::kTokens, begin, end, kGroup);
        wgmma_fence();
        accumulate_values<kA>(o_a, p_a, v);
        wgmma_commit();
        if constexpr (kTwo) {
          accumulate_values<kTileB>(o_b, p_b, v);
          wgmma_commit();
          wgmma_wait<1>();
        } else {
          wgmma_wait<0>();
          release(&ring.empty[ring.slot]);
        }
        keep_all(o_a);
        store_tile(store.acquire(), o_a, inverse_a[0], inverse_a[1]);
        store.send(maps.h, 64 * c, head, 64 * kA, batch);
        if constexpr (kTwo) {
          wgmma_wait<0>();
          release(&ring.empty[ring.slot]);
          keep_all(o_b);
          store_tile(store.acquire(), o_b, inverse_b[0], inverse_b[1]);
          store.send(maps.h, 64 * c, head, 64 * kTileB, batch);
        }
        ring.advance();
      }
    }
    if (threadIdx.x % 128 == 0) tma_store_wait<0>();
  }
}

template <int kRows>
__global__ void __launch_bounds__(kThreads, 1)
    forward_kernel(const __grid_constant__ ForwardArgs args,
                   const __grid_constant__ ForwardMaps maps) {
  unsigned char* const memory = dynamic_shared();
  auto& shared = *reinterpret_cast<ForwardShared<kRows>*>(memory);
  using Shape = ForwardShape<kRows>;
  if (threadIdx.x == 0) {
    for (int slot = 0; slot < Shape::kSlots; ++slot) {
      mbarrier_init(&shared.full[slot], 1);
      mbarrier_init(&shared.empty[slot], Shape::kConsumerWarps * kArrivalsPerWarp);
    }
    for (int buffer = 0; buffer < 2; ++buffer) {
      mbarrier_init(&shared.gates_full[buffer], kArrivalsPerWarp);
      mbarrier_init(&shared.gates_empty[buffer], Shape::kConsumerWarps * kArrivalsPerWarp);
    }
    fence_barrier_init();
  }
  __syncthreads();
  if (threadIdx.x >= kConsumers) {
    set_max_registers_down<kProducerRegisters>();
    if (threadIdx.x / 32 == kConsumers / 32) {
      if (elect_one()) load<kRows>(args, maps, shared);
    } else if (threadIdx.x / 32 < kConsumers / 32 + 3) {
      scan<kRows>(args, shared, threadIdx.x / 32 - kConsumers / 32 - 1);
    }
  } else if (threadIdx.x < 128) {
    set_max_registers_up<kConsumerRegisters>();
    consume<kRows, 0>(args, maps, shared);
  } else {
    set_max_registers_up<kConsumerRegisters>();
    consume<kRows, 1>(args, maps, shared);
  }
}

template <int kRows>
void launch(const MlstmForward& f) {
  const MlstmProblem& p = f.problem;
  const auto map = [&](const HeadTensor& x, int dim, int box) {
    return head_tensor_map(x.data, dim, p.heads, p.tokens, p.batch, x.stride_h, x.stride_t,
                           x.stride_b, box);
  };
  constexpr int kTokens = 64 * kRows;
  const StateWorkspace workspace = carve_forward(p, f.workspace);
  ForwardMaps maps{map(p.q, p.key_dim, kTokens),
                   map(p.k, p.key_dim, kTokens),
                   map(p.v, p.value_dim, kTokens),
                   map(f.h, p.value_dim, 64),
                   {}};
  ForwardArgs args{gate_args(p),
                   p.batch * p.heads,
                   p.heads,
                   (p.key_dim + 63) / 64,
                   (p.value_dim + 63) / 64,
                   1 / sqrtf(static_cast<float>(p.key_dim)),
                   p.eps,
                   p.normalize,
                   p.initial.c != nullptr,
                   workspace.q_dot_n0,
                   static_cast<float2*>(f.saved)};
  if (args.has_initial) {
    prepare_initial(p, workspace, f.stream);
    maps.c0 = state_map(p, workspace.c0);
  }
  const auto kernel = forward_kernel<kRows>;
  constexpr int kBytes = sizeof(ForwardShared<kRows>);
  static_assert(kBytes <= 227 * 1024);
  LRAM_CUDA_CHECK(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes));
  launch_kernel(kernel, std::min(args.units, current_device().multiprocessors), kThreads, kBytes,
                f.stream, args, maps);
  LRAM_CUDA_CHECK_LAUNCH("mlstm_short_forward_sm90");
  if (f.final.c != nullptr) final_state(f, f.stream);
}

}  // namespace

void forward_sm90(const MlstmForward& f) {
  switch ((f.problem.tokens + 63) / 64) {
    case 1:
      return launch<1>(f);
    case 2:
      return launch<2>(f);
    case 3:
      return launch<3>(f);
    default:
      return launch<4>(f);
  }
}

}  // namespace mlstm_short
}  // namespace lram::kernels
