// mLSTM backward over chunks of 64 on Hopper, exact (kernels.md 2.4): three sweeps of the kernel in
// mlstm_long_sweep_sm90.cuh, then the gates' gradients. dq runs with the state C^T and keeps it
// every 512 tokens; dk runs backwards with dC^T, in the same places of the same threads, and takes
// <C, dC> there; dv runs backwards with dC. Both dS are formed with one order of operations, so
// q . dq - k . dk cancels as it should.
// Bytes at 128/256: 896 + 896 + 768 of 2 a token and head, 1.8 ms at 8 x 16 x 8192 on an H100.
#include "kernels/mlstm/mlstm_long_launch_sm90.cuh"
#include "kernels/mlstm/mlstm_long_sm90.h"

namespace lram::kernels::mlstm_long {
namespace {

struct Workspace {
  float *factors = nullptr, *bias = nullptr, *q_dot = nullptr, *k_dot = nullptr;
  float *state_dot = nullptr, *part_state = nullptr, *part_decay = nullptr;
  float *z_in = nullptr, *z_out = nullptr;  ///< z_out: C^T at the end, between dq and dk
  std::uint32_t* checkpoints = nullptr;
  float* final_rest = nullptr;  ///< [B H, rest_blocks]
  SweepPlan narrow;             ///< of the dq and dk sweeps
};

struct FinalDotArgs {
  const float *c, *dc;  ///< C^T and n as dq left them, dC^T, in the order of the sweeps' threads
  const float* dn;      ///< or null
  const std::int32_t *begin, *end;
  Sizes sizes;
  SweepPlan plan;
  float* state_dot;
};
/// <C, dC> behind the last chunk, one block to a head and slice: C in float32, dC in bf16 as the
/// products see it, so that what k . dk has of it cancels.
__global__ __launch_bounds__(256) void final_dot(FinalDotArgs a) {
  const int head = static_cast<int>(blockIdx.x) / a.plan.slices;
  const int slice = static_cast<int>(blockIdx.x) % a.plan.slices;
  const int tid = static_cast<int>(threadIdx.x), numbers = a.plan.rows * a.plan.columns;
  const int last = span_of(a.begin, a.end, head / a.sizes.heads, a.sizes.tokens).chunks() - 1;
  if (last < 0) return;  // gate_gradients asks for nothing then
  const float* const c = a.c + blockIdx.x * a.plan.part_floats;
  const float* const dc = a.dc + blockIdx.x * a.plan.part_floats;
  float sum = 0;
  for (int e = tid; e < numbers; e += 256) sum += rounded(dc[e]) * c[e];
  for (int j = tid; a.dn != nullptr && j < a.plan.columns; j += 256) {
    const int column = slice * a.plan.columns + j;
    if (column >= a.sizes.key_dim) continue;
    sum += a.dn[static_cast<std::int64_t>(head) * a.sizes.key_dim + column] * c[numbers + j];
  }
  for (int d = 16; d > 0; d /= 2) sum += __shfl_xor_sync(kAllLanes, sum, d);
  const std::int64_t row =
      static_cast<std::int64_t>(head) * a.sizes.checkpoints + last / kChunksPerCheckpoint;
  if (tid % 32 == 0) a.state_dot[(row * a.plan.slices + slice) * 8 + tid / 32] = sum;
}

/// Rows of C to a block of final_rest.
constexpr int kRestRows = 32;
inline int rest_blocks(int key_dim) { return (key_dim + kRestRows - 1) / kRestRows; }
struct FinalRestArgs {
  HeadTensor k, v;
  const float *factors, *dc;
  const std::int32_t *begin, *end;
  Sizes sizes;
  float* out;
};
/// What final_dot lacks: the dq sweep adds a token's weighted v to C in bf16,
/// the dk sweep weighs k . dk in float32, and where the gates forget at once df is 20 000 times
/// smaller than either. Sums k . dC (u v - bf16(u v)) over the last chunk.
__global__ __launch_bounds__(256) void final_rest(FinalRestArgs a) {
  constexpr int kPiece = 64;
  __shared__ float keys[kChunk][kRestRows + 1], lost[kChunk][kPiece + 1];
  __shared__ float sums[8];
  const int blocks = (a.sizes.key_dim + kRestRows - 1) / kRestRows;
  const int head = static_cast<int>(blockIdx.x) / blocks;
  const int first = static_cast<int>(blockIdx.x) % blocks * kRestRows;
  const int b = head / a.sizes.heads, h = head % a.sizes.heads;
  const Span span = span_of(a.begin, a.end, b, a.sizes.tokens);
  const int chunk = span.chunks() - 1, tid = static_cast<int>(threadIdx.x);
  if (chunk < 0) return;  // gate_gradients asks for nothing then
  const int count = span.tokens() - chunk * kChunk;
  const float* const weights =
      a.factors + (static_cast<std::int64_t>(head) * a.sizes.chunks + chunk) * kChunkFloats<false> +
      kInterS * kChunk;
  const auto value_of = [&](const HeadTensor& t, int token, int d) {
    const auto* data = static_cast<const __nv_bfloat16*>(t.data);
    const std::int64_t row = span.begin + chunk * kChunk + token;
    return __bfloat162float(data[b * t.stride_b + row * t.stride_t + h * t.stride_h + d]);
  };
  for (int e = tid; e < kChunk * kRestRows; e += 256) {
    const int token = e / kRestRows, d = e % kRestRows;
    const bool inside = token < count && first + d < a.sizes.key_dim;
    keys[token][d] = inside ? value_of(a.k, token, first + d) : 0.0f;
  }
  float sum = 0;
  for (int piece = 0; piece < a.sizes.value_dim; piece += kPiece) {
    __syncthreads();
    for (int e = tid; e < kChunk * kPiece; e += 256) {
      const int token = e / kPiece, d = piece + e % kPiece;
      float weighted = 0;
      if (token < count && d < a.sizes.value_dim)
        weighted = weights[token] * value_of(a.v, token, d);
      lost[token][e % kPiece] = weighted - rounded(weighted);
    }
    __syncthreads();
    for (int e = tid; e < kRestRows * kPiece; e += 256) {
      const int row = first + e / kPiece, column = piece + e % kPiece;
      if (row >= a.sizes.key_dim || column >= a.sizes.value_dim) continue;
      float rest = 0;
      for (int token = 0; token < count; ++token) {
        rest += keys[token][e / kPiece] * lost[token][e % kPiece];
      }
      const std::int64_t at =
          (static_cast<std::int64_t>(head) * a.sizes.key_dim + row) * a.sizes.value_dim + column;
      sum += rest * rounded(a.dc[at]);
    }
  }
  for (int d = 16; d > 0; d /= 2) sum += __shfl_xor_sync(kAllLanes, sum, d);
  if (tid % 32 == 0) sums[tid / 32] = sum;
  __syncthreads();
  if (tid != 0) return;
  for (int warp = 1; warp < 8; ++warp) sum += sums[warp];
  a.out[blockIdx.x] = sum;
}
Workspace carve(const MlstmProblem& p, Carver& carver) {
  const Sizes n = sizes_of(p);
  const SweepNeeds narrow = with_tiles<false>(
      p.value_dim, p.key_dim,
      [&]<int kRows, int kColumns>() { return sweep_needs<kRows, kColumns>(n, p.key_dim); });
  const SweepNeeds wide = with_tiles<true>(p.key_dim, p.value_dim, [&]<int kRows, int kColumns>() {
    return sweep_needs<kRows, kColumns>(n, p.value_dim);
  });
  Workspace w;
  w.narrow = narrow.plan;
  const auto slices = static_cast<std::size_t>(w.narrow.slices);
  w.factors =
      carver.take<float>(n.sequences() * static_cast<std::size_t>(n.chunks) * kChunkFloats<false>);
  if (p.normalize) w.bias = carver.take<float>(n.positions());
  w.q_dot = carver.take<float>(2 * slices * n.positions());
  w.k_dot = carver.take<float>(2 * slices * n.positions());
  w.checkpoints = carver.take<std::uint32_t>(narrow.checkpoint_words);
  w.state_dot =
      carver.take<float>(n.sequences() * static_cast<std::size_t>(n.checkpoints) * slices * 8);
  w.final_rest =
      carver.take<float>(n.sequences() * static_cast<std::size_t>(rest_blocks(p.key_dim)));
  const auto larger = [](std::size_t a, std::size_t b) { return a > b ? a : b; };
  w.z_in = carver.take<float>(larger(narrow.state, wide.state));
  w.z_out = carver.take<float>(larger(narrow.state, wide.state));
  w.part_state = carver.take<float>(larger(narrow.part_state, wide.part_state));
  w.part_decay = carver.take<float>(larger(narrow.part_decay, wide.part_decay));
  return w;
}

template <Sweep kSweep>
void sweep_narrow(const MlstmProblem& p, const SweepMaps& maps, const SweepArgs& a,
                  const StateBuffers& states, cudaStream_t stream) {
  with_tiles<false>(p.value_dim, p.key_dim, [&]<int kRows, int kColumns>() {
    launch_sweep<kRows, kColumns, kSweep>(maps, a, states, stream);
  });
}

}  // namespace

std::size_t sm90_backward_bytes(const MlstmProblem& p) {
  Carver carver(nullptr);
  carve(p, carver);
  return carver.used();
}

void sm90_backward(const MlstmBackward& args) {
  const MlstmProblem& p = args.problem;
  const Sizes n = sizes_of(p);
  Carver carver(args.workspace), saved_carver(const_cast<void*>(args.saved));
  const Workspace w = carve(p, carver);
  const Saved saved = carve_saved(p, saved_carver);

  if (p.normalize) {
    launch_row_dots<__nv_bfloat16>({.a = args.dh,
                                    .b = args.h,
                                    .given = args.dh_dot_h,
                                    .sign = saved.norm_sign,
                                    .begin = p.begin,
                                    .end = p.end,
                                    .batch = p.batch,
                                    .tokens = p.tokens,
                                    .heads = p.heads,
                                    .chunks = n.chunks,
                                    .dim = p.value_dim,
                                    .out = w.bias},
                                   args.stream);
  }
  GateArgs gates = gate_args(p, saved.m_start, w.factors);
  gates.backward = true;
  gates.inverse_norm = saved.inverse_norm;
  gates.bias = w.bias;
  launch_chunk_factors<false>(gates, n, args.stream);
  launch_zero_outside<__nv_bfloat16>({.rows = {args.dq, args.dk, args.dv},
                                      .dims = {p.key_dim, p.key_dim, p.value_dim},
                                      .gates = {args.di, args.df},
                                      .begin = p.begin,
                                      .end = p.end,
                                      .tokens = p.tokens,
                                      .heads = p.heads},
                                     p.batch, args.stream);

  const CUtensorMap q = map_of(p.q, p, p.key_dim), k = map_of(p.k, p, p.key_dim),
                    v = map_of(p.v, p, p.value_dim), dh = map_of(args.dh, p, p.value_dim);
  SweepArgs common = sweep_args(p, w.factors);
  common.checkpoints = w.checkpoints;
  common.state_dot = w.state_dot;
  common.part_state = w.part_state;
  common.part_decay = w.part_decay;

  const auto with_room = [&](StateBuffers states) {
    states.z_in = w.z_in;
    states.z_out = w.z_out;
    return states;
  };

  SweepArgs dq = common;
  StateBuffers dq_states = with_room(as_transposed(dq, p, p.initial.c));
  dq_states.keep_z_out = args.dfinal.c != nullptr;
  dq.dot_out = w.q_dot;
  dq.n_in = p.initial.n;
  sweep_narrow<Sweep::kGradQ>(p, {dh, v, k, map_of(args.dq, p, p.key_dim), q}, dq, dq_states,
                              args.stream);

  SweepArgs dk = common;
  const StateBuffers dk_states = with_room(as_transposed(dk, p, args.dfinal.c));
  dk.dot_out = w.k_dot;
  dk.n_in = args.dfinal.n;
  dk.n_out = args.dinitial.n;
  sweep_narrow<Sweep::kGradK>(p, {v, dh, q, map_of(args.dk, p, p.key_dim), k}, dk, dk_states,
                              args.stream);

  if (args.dfinal.c != nullptr) {  // while z_in and z_out hold dC^T and C^T
    const auto slices =
        static_cast<unsigned>(n.sequences()) * static_cast<unsigned>(w.narrow.slices);
    launch_kernel(final_dot, slices, 256, 0, args.stream, {.c = w.z_out,
                                                .dc = w.z_in,
                                                .dn = args.dfinal.n,
                                                .begin = p.begin,
                                                .end = p.end,
                                                .sizes = n,
                                                .plan = w.narrow,
                                                .state_dot = w.state_dot});
    LRAM_CUDA_CHECK_LAUNCH("final_dot");
    const auto blocks =
        static_cast<unsigned>(n.sequences()) * static_cast<unsigned>(rest_blocks(p.key_dim));
    launch_kernel(final_rest, blocks, 256, 0, args.stream, {.k = p.k,
                                                 .v = p.v,
                                                 .factors = w.factors,
                                                 .dc = args.dfinal.c,
                                                 .begin = p.begin,
                                                 .end = p.end,
                                                 .sizes = n,
                                                 .out = w.final_rest});
    LRAM_CUDA_CHECK_LAUNCH("final_rest");
  }

  SweepArgs dv = common;
  const StateBuffers dv_states = with_room(as_c(dv, p, args.dfinal.c, args.dinitial.c));
  const SweepMaps dv_maps{k, q, dh, map_of(args.dv, p, p.value_dim), k};
  with_tiles<true>(p.key_dim, p.value_dim, [&]<int kRows, int kColumns>() {
    launch_sweep<kRows, kColumns, Sweep::kGradV>(dv_maps, dv, dv_states, args.stream);
  });

  launch_gate_gradients({.gates = gates,
                         .q_dot = w.q_dot,
                         .k_dot = w.k_dot,
                         .k_off = nullptr,
                         .final_inter = nullptr,
                         .q_parts = 2 * w.narrow.slices,
                         .k_parts = 2 * w.narrow.slices,
                         .part_stride = static_cast<std::int64_t>(n.positions()),
                         .state_dot = w.state_dot,
                         .state_parts = 8 * w.narrow.slices,
                         .checkpoints = n.checkpoints,
                         .final_rest = w.final_rest,
                         .rest_parts = rest_blocks(p.key_dim),
                         .final_gradient = args.dfinal.c != nullptr,
                         .initial_state = p.initial.c != nullptr,
                         .di = args.di,
                         .df = args.df},
                        n, args.stream);
}

}  // namespace lram::kernels::mlstm_long
