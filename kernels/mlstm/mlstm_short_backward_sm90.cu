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
#include "kernels/mlstm/mlstm_short_backward_phases_sm90.cuh"

namespace lram::kernels {
namespace mlstm_short {
namespace {

template <int kRows, bool kStates>
__device__ void load(const BackwardArgs& a, const BackwardMaps& maps,
                     BackwardShared<kRows, kStates>& shared) {
  using Shape = BackwardShape<kRows>;
  constexpr std::uint32_t kBytes = Shape::kSlotBytes;
  const bool has_initial = kStates && a.has_initial, has_final = kStates && a.has_final;
  Ring<Shape::kSlots> ring{shared.slots[0], shared.full, shared.empty};
  ring.slot_bytes = kBytes;
  for (int unit = blockIdx.x; unit < a.units; unit += gridDim.x) {
    const int batch = unit / a.heads, head = unit % a.heads;
    for (int turn = 0; turn < kTurns<kRows>; ++turn) {
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
    for (int turn = 0; turn < kTurns<kRows>; ++turn) {
      for (int c = 0; c < a.value_slices; ++c) {
        load_slice(ring, maps.dh, kBytes, 64 * c, head, 0, batch);
        load_slice(ring, maps.v, kBytes, 64 * c, head, 0, batch);
      }
    }
    // With states an accumulator after the other.
    for (int c = 0; c < (kStates ? Share<kRows>::kAccumulators : 1) * a.key_slices; ++c) {
      const int feature = 64 * (kStates ? c / Share<kRows>::kAccumulators : c);
      for (int vc = 0; has_initial && vc < a.value_slices; ++vc) {
        load_slice(ring, maps.dh, kBytes, 64 * vc, head, 0, batch);
        load_slice(ring, maps.c0, kTileBytes, 64 * vc, head, feature, batch);
      }
      for (int vc = 0; has_final && vc < a.value_slices; ++vc) {
        load_slice(ring, maps.v, kBytes, 64 * vc, head, 0, batch);
        load_slice(ring, maps.dc, kTileBytes, 64 * vc, head, feature, batch);
      }
      load_slice(ring, maps.k, kBytes, feature, head, 0, batch);
      load_slice(ring, maps.q, kBytes, feature, head, 0, batch);
    }
  }
}

// One warp for each of the two tables: it prepares every other head.
template <int kRows, bool kStates>
__device__ void scan(const BackwardArgs& a, BackwardShared<kRows, kStates>& shared, int buffer) {
  constexpr int kPerLane = 2 * kRows;
  const int lane = threadIdx.x % 32;
  auto& rows = shared.rows[buffer];
  int n = 0;
  for (int unit = blockIdx.x + buffer * gridDim.x; unit < a.units; unit += 2 * gridDim.x, ++n) {
    const int batch = unit / a.heads, head = unit % a.heads;
    mbarrier_wait(&shared.gates_empty[buffer], (n % 2) ^ 1);
    scan_gates<kPerLane>(a.gates, batch, head, rows.gates());
    __syncwarp();
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) {
      const int t = lane + 32 * j;
      float2 saved{0, 0};
      float given = 1;
      if (rows.start[t] != kNoToken) {
        saved = a.saved[static_cast<std::int64_t>(unit) * a.gates.tokens + t];
        const GateTensor& dot = a.dh_dot_h;
        if (dot.data != nullptr) {
          given = dot.data[batch * dot.stride_b + t * dot.stride_t + head * dot.stride_h];
        }
      }
      rows.inverse[t] = saved.x;
      rows.beta[t] = -saved.x * saved.y * given;
    }
    __syncwarp();
    warp_arrive(&shared.gates_full[buffer], lane);
  }
}

// One warp: di and df of a head, behind the consumers.
template <int kRows, bool kStates>
__device__ void differentiate_gates(const BackwardArgs& a, BackwardShared<kRows, kStates>& shared) {
  const bool has_final = kStates && a.has_final;
  int n = 0;
  for (int unit = blockIdx.x; unit < a.units; unit += gridDim.x, ++n) {
    const int batch = unit / a.heads, head = unit % a.heads;
    const auto gates = load_gates<2 * kRows>(a.gates, batch, head);
    const float carried = has_final && a.carried != nullptr ? a.carried[unit] : 0.0f;
    mbarrier_wait(&shared.dots_full, n % 2);
    gate_gradients<2 * kRows>(a.gates, gates, a.di, a.df, batch, head, shared.rows[n % 2].gates(),
                              {shared.q_dq, shared.k_dk, has_final ? shared.k_dk_state : nullptr},
                              carried);
    __syncwarp();
    warp_arrive(&shared.dots_empty, threadIdx.x % 32);
    warp_arrive(&shared.gates_empty[n % 2], threadIdx.x % 32);
  }
}

template <int kRows, bool kStates>
__global__ void __launch_bounds__(kThreads, 1)
    backward_kernel(const __grid_constant__ BackwardArgs args,
                    const __grid_constant__ BackwardMaps maps) {
  unsigned char* const memory = dynamic_shared();
  auto& shared = *reinterpret_cast<BackwardShared<kRows, kStates>*>(memory);
  using Shape = BackwardShape<kRows>;
  if (threadIdx.x == 0) {
    for (int slot = 0; slot < Shape::kSlots; ++slot) {
      mbarrier_init(&shared.full[slot], 1);
      mbarrier_init(&shared.empty[slot], Shape::kConsumerWarps * kArrivalsPerWarp);
    }
    for (int buffer = 0; buffer < 2; ++buffer) {
      mbarrier_init(&shared.gates_full[buffer], kArrivalsPerWarp);
      mbarrier_init(&shared.gates_empty[buffer], (Shape::kConsumerWarps + 1) * kArrivalsPerWarp);
    }
    mbarrier_init(&shared.dots_full, Shape::kConsumerWarps * kArrivalsPerWarp);
    mbarrier_init(&shared.dots_empty, kArrivalsPerWarp);
    fence_barrier_init();
  }
  __syncthreads();
  // The same in all lanes, and the compiler sees it.
  const int warp = __shfl_sync(0xffffffffu, threadIdx.x / 32, 0);
  if (warp >= kConsumers / 32) {
    set_max_registers_down<kProducerRegisters>();
    const int role = warp - kConsumers / 32;
    if (role == 0) {
      if (elect_one()) load<kRows, kStates>(args, maps, shared);
    } else if (role < 3) {
      scan<kRows, kStates>(args, shared, role - 1);
    } else {
      differentiate_gates<kRows, kStates>(args, shared);
    }
  } else {
    set_max_registers_up<kConsumerRegisters>();
    if (Shape::kConsumerWarps > warp) {
      BackwardConsumer<kRows, kStates>(args, maps, shared, warp / 4).run();
    }
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
  constexpr int kBytes = sizeof(BackwardShared<kRows, kStates>);
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
    case 3:
      return states ? launch<4, true>(b) : launch<3, false>(b);
    default:
      return states ? launch<4, true>(b) : launch<4, false>(b);
  }
}

}  // namespace mlstm_short
}  // namespace lram::kernels
