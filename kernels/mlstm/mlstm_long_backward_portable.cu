// mLSTM backward over chunks of 64 for every GPU from sm_80 on: three sweeps (dq forwards in time,
// dk and dv backwards), then the gates' gradients. Exact: kernels.md 2.4.
#include "kernels/mlstm/mlstm_long_portable.h"
#include "kernels/mlstm/mlstm_long_sweep_portable.cuh"

namespace lram::kernels::mlstm_long {
namespace {

struct Workspace {
  float *factors = nullptr, *bias = nullptr, *q_dot = nullptr, *k_dot = nullptr;
  float *k_off = nullptr, *final_inter = nullptr, *checkpoints = nullptr, *state_dot = nullptr;
};
Workspace carve(const MlstmProblem& p, Carver& carver) {
  const Sizes n = sizes_of(p);
  const auto slices = static_cast<std::size_t>(portable_slices(p.key_dim));
  const std::size_t kept = n.sequences() * static_cast<std::size_t>(n.checkpoints) * slices;
  Workspace w;
  w.factors =
      carver.take<float>(n.sequences() * static_cast<std::size_t>(n.chunks * kChunkFloats<true>));
  if (p.normalize) w.bias = carver.take<float>(n.positions());
  w.q_dot = carver.take<float>(slices * n.positions());
  w.k_dot = carver.take<float>(slices * n.positions());
  w.k_off = carver.take<float>(slices * n.positions());
  w.final_inter = carver.take<float>(slices * n.sequences() * kChunk);
  w.checkpoints = carver.take<float>(kept * static_cast<std::size_t>((p.value_dim + 1) * kColumns));
  w.state_dot = carver.take<float>(kept * 8);
  return w;
}

template <typename T>
void run(const MlstmBackward& args) {
  const MlstmProblem& p = args.problem;
  const Sizes n = sizes_of(p);
  Carver carver(args.workspace), saved_carver(const_cast<void*>(args.saved));
  const Workspace w = carve(p, carver);
  const Saved saved = carve_saved(p, saved_carver);

  if (p.normalize) {
    launch_row_dots<T>({.a = args.dh,
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
  launch_chunk_factors<true>(gates, n, args.stream);
  launch_zero_outside<T>({.rows = {args.dq, args.dk, args.dv},
                          .dims = {p.key_dim, p.key_dim, p.value_dim},
                          .gates = {args.di, args.df},
                          .begin = p.begin,
                          .end = p.end,
                          .tokens = p.tokens,
                          .heads = p.heads},
                         p.batch, args.stream);

  PortableSweepArgs common{};
  common.sizes = n;
  common.begin = p.begin;
  common.end = p.end;
  common.factors = w.factors;
  common.normalize = p.normalize;
  common.final_gradient = args.dfinal.c != nullptr;
  common.off_out = w.k_off;
  common.final_inter = w.final_inter;
  common.checkpoints = w.checkpoints;
  common.state_dot = w.state_dot;
  common.part_stride = static_cast<std::int64_t>(n.positions());

  PortableSweepArgs dq = common;  // Z = C^T
  dq.x = args.dh;
  dq.y = p.v;
  dq.z = p.k;
  dq.dot = p.q;
  dq.out = args.dq;
  dq.x_dim = p.value_dim;
  dq.z_dim = p.key_dim;
  dq.c_in = p.initial.c;
  dq.n_in = p.initial.n;
  dq.row_stride = 1;
  dq.column_stride = p.value_dim;
  dq.dot_out = w.q_dot;
  launch_sweep_portable<T, Sweep::kGradQ>(dq, args.stream);

  PortableSweepArgs dk = dq;  // Z = dC^T
  dk.x = p.v;
  dk.y = args.dh;
  dk.z = p.q;
  dk.dot = p.k;
  dk.out = args.dk;
  dk.c_in = args.dfinal.c;
  dk.n_in = args.dfinal.n;
  dk.n_out = args.dinitial.n;
  dk.dot_out = w.k_dot;
  launch_sweep_portable<T, Sweep::kGradK>(dk, args.stream);

  PortableSweepArgs dv = common;  // Z = dC
  dv.x = p.k;
  dv.y = p.q;
  dv.z = args.dh;
  dv.out = args.dv;
  dv.x_dim = p.key_dim;
  dv.z_dim = p.value_dim;
  dv.c_in = args.dfinal.c;
  dv.c_out = args.dinitial.c;
  dv.row_stride = p.value_dim;
  dv.column_stride = 1;
  launch_sweep_portable<T, Sweep::kGradV>(dv, args.stream);

  const int slices = portable_slices(p.key_dim);
  launch_gate_gradients({.gates = gates,
                         .q_dot = w.q_dot,
                         .k_dot = w.k_dot,
                         .k_off = w.k_off,
                         .final_inter = args.dfinal.c != nullptr ? w.final_inter : nullptr,
                         .q_parts = slices,
                         .k_parts = slices,
                         .part_stride = static_cast<std::int64_t>(n.positions()),
                         .state_dot = w.state_dot,
                         .state_parts = slices * 8,
                         .checkpoints = n.checkpoints,
                         .final_rest = nullptr,
                         .rest_parts = 0,
                         .final_gradient = args.dfinal.c != nullptr,
                         .initial_state = p.initial.c != nullptr,
                         .di = args.di,
                         .df = args.df},
                        n, args.stream);
}

}  // namespace

std::size_t portable_backward_bytes(const MlstmProblem& p) {
  Carver carver(nullptr);
  carve(p, carver);
  return carver.used();
}

void portable_backward(const MlstmBackward& args) {
  args.problem.dtype == DType::kFloat32 ? run<float>(args) : run<__nv_bfloat16>(args);
}

}  // namespace lram::kernels::mlstm_long
