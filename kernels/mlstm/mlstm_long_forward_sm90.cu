// mLSTM forward over chunks of 64 on Hopper; mlstm_long_sweep_sm90.cuh has the kernel.
// Bytes: q, k, v read and h written once, 2 (2 K + 2 V) a token and head, 0.54 ms at 8 x 16 x 8192,
// 128/256 on an H100; products per chunk of 64 there 12.6 MFLOP, 3100 cycles of the tensor cores in
// 7400 of the memory's. So memory bounds it as long as a chunk's chain of steps stays below 7000.
#include "kernels/mlstm/mlstm_implementation.h"
#include "kernels/mlstm/mlstm_long_launch_sm90.cuh"
#include "kernels/mlstm/mlstm_long_sm90.h"

namespace lram::kernels {
namespace mlstm_long {
namespace {

SweepNeeds needs_of(const MlstmProblem& p) {
  return with_tiles<true>(p.key_dim, p.value_dim, [&]<int kRows, int kColumns>() {
    return sweep_needs<kRows, kColumns>(sizes_of(p), p.value_dim);
  });
}

struct Workspace {
  float *m_start = nullptr, *factors = nullptr, *part_state = nullptr, *part_decay = nullptr;
  float *z_in = nullptr, *z_out = nullptr;
};
Workspace carve(const MlstmProblem& p, Carver& carver) {
  const Sizes n = sizes_of(p);
  const SweepNeeds needs = needs_of(p);
  Workspace w;
  if (!p.sigmoid_gate) {
    w.m_start = carver.take<float>(n.sequences() * static_cast<std::size_t>(n.chunks + 1));
  }
  w.factors =
      carver.take<float>(n.sequences() * static_cast<std::size_t>(n.chunks) * kChunkFloats<false>);
  if (p.initial.c != nullptr) w.z_in = carver.take<float>(needs.state);
  w.z_out = carver.take<float>(needs.state);
  w.part_state = carver.take<float>(needs.part_state);
  w.part_decay = carver.take<float>(needs.part_decay);
  return w;
}

const char* refuses(const MlstmProblem& p) {
  if (p.dtype != DType::kBFloat16) return "bfloat16";
  return p.key_dim <= kLargestDim && p.value_dim <= kLargestDim ? nullptr
                                                                : "key_dim and value_dim up to 640";
}
std::size_t saved_bytes(const MlstmProblem& p) {
  Carver carver(nullptr);
  carve_saved(p, carver);
  return carver.used() > 0 ? carver.used() : 256;  // the backward wants an address
}
std::size_t workspace_bytes(const MlstmProblem& p) {
  Carver carver(nullptr);
  carve(p, carver);
  return carver.used();
}

void forward(const MlstmForward& args) {
  const MlstmProblem& p = args.problem;
  const Sizes n = sizes_of(p);
  Carver workspace_carver(args.workspace), saved_carver(args.saved);
  const Workspace w = carve(p, workspace_carver);
  Saved saved;
  if (args.saved != nullptr) saved = carve_saved(p, saved_carver);

  GateArgs gates = gate_args(p, saved.m_start != nullptr ? saved.m_start : w.m_start, w.factors);
  gates.m_final = args.final.m;
  if (!p.sigmoid_gate) launch_chunk_maxima<false>(gates, n, args.stream);
  launch_chunk_factors<false>(gates, n, args.stream);
  launch_zero_outside<__nv_bfloat16>({.rows = {args.h},
                                      .dims = {p.value_dim},
                                      .gates = {},
                                      .begin = p.begin,
                                      .end = p.end,
                                      .tokens = p.tokens,
                                      .heads = p.heads},
                                     p.batch, args.stream);
  const CUtensorMap q = map_of(p.q, p, p.key_dim);
  const SweepMaps maps{q, map_of(p.k, p, p.key_dim), map_of(p.v, p, p.value_dim),
                       map_of(args.h, p, p.value_dim), q};
  SweepArgs sweep = sweep_args(p, w.factors);
  StateBuffers states = as_c(sweep, p, p.initial.c, args.final.c);
  states.z_in = w.z_in;
  states.z_out = w.z_out;
  sweep.part_state = w.part_state;
  sweep.part_decay = w.part_decay;
  sweep.n_in = p.initial.n;
  sweep.n_out = args.final.n;
  sweep.inverse_norm = saved.inverse_norm;
  sweep.sign = saved.norm_sign;
  with_tiles<true>(p.key_dim, p.value_dim, [&]<int kRows, int kColumns>() {
    launch_sweep<kRows, kColumns, Sweep::kForward>(maps, sweep, states, args.stream);
  });
}

}  // namespace
}  // namespace mlstm_long

const MlstmImplementation kMlstmLongSm90 = {"the sm90 long form",
                                            mlstm_long::refuses,
                                            mlstm_long::saved_bytes,
                                            mlstm_long::workspace_bytes,
                                            mlstm_long::sm90_backward_bytes,
                                            mlstm_long::forward,
                                            mlstm_long::sm90_backward};

}  // namespace lram::kernels
