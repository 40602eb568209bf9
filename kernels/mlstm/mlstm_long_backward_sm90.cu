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
  int slices = 1;  ///< of the dq and dk sweeps
};
Workspace carve(const MlstmProblem& p, Carver& carver) {
  const Sizes n = sizes_of(p);
  const SweepNeeds narrow = with_tiles<false>(
      p.value_dim, p.key_dim,
      [&]<int kRows, int kColumns>() { return sweep_needs<kRows, kColumns>(n, p.key_dim); });
  const SweepNeeds wide = with_tiles<true>(p.key_dim, p.value_dim, [&]<int kRows, int kColumns>() {
    return sweep_needs<kRows, kColumns>(n, p.value_dim);
  });
  Workspace w;
  w.slices = narrow.plan.slices;
  const auto slices = static_cast<std::size_t>(w.slices);
  w.factors =
      carver.take<float>(n.sequences() * static_cast<std::size_t>(n.chunks) * kChunkFloats<false>);
  if (p.normalize) w.bias = carver.take<float>(n.positions());
  w.q_dot = carver.take<float>(2 * slices * n.positions());
  w.k_dot = carver.take<float>(2 * slices * n.positions());
  w.checkpoints = carver.take<std::uint32_t>(narrow.checkpoint_words);
  w.state_dot =
      carver.take<float>(n.sequences() * static_cast<std::size_t>(n.checkpoints) * slices * 8);
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
  dk.z_final = args.dfinal.c != nullptr ? w.z_out : nullptr;
  dk.dot_out = w.k_dot;
  dk.n_in = args.dfinal.n;
  dk.n_out = args.dinitial.n;
  sweep_narrow<Sweep::kGradK>(p, {v, dh, q, map_of(args.dk, p, p.key_dim), k}, dk, dk_states,
                              args.stream);

  SweepArgs dv = common;
  const StateBuffers dv_states = with_room(as_c(dv, p, args.dfinal.c, args.dinitial.c));
  const SweepMaps dv_maps{k, q, dh, map_of(args.dv, p, p.value_dim), k};
  with_tiles<true>(p.key_dim, p.value_dim, [&]<int kRows, int kColumns>() {
    launch_sweep<kRows, kColumns, Sweep::kGradV>(dv_maps, dv, dv_states, args.stream);
  });

  launch_gate_gradients({.gates = gates,
                         .q_dot = w.q_dot,
                         .k_dot = w.k_dot,
                         .q_parts = 2 * w.slices,
                         .k_parts = 2 * w.slices,
                         .part_stride = static_cast<std::int64_t>(n.positions()),
                         .state_dot = w.state_dot,
                         .state_parts = 8 * w.slices,
                         .checkpoints = n.checkpoints,
                         .final_gradient = args.dfinal.c != nullptr,
                         .di = args.di,
                         .df = args.df},
                        n, args.stream);
}

}  // namespace lram::kernels::mlstm_long
