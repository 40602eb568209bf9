// mLSTM forward over chunks of 64 for every GPU from sm_80 on; mlstm_long.h has the scheme. All
// products are float32 FMAs from shared memory and every 16 columns of the state repeat q . k, so
// this is bound by arithmetic, 1 to 2 % of a Hopper GPU's tensor rate: the judge of the sm90 path
// and the fallback elsewhere.
#include "kernels/mlstm/mlstm_implementation.h"
#include "kernels/mlstm/mlstm_long_portable.h"
#include "kernels/mlstm/mlstm_long_sweep_portable.cuh"

namespace lram::kernels {
namespace mlstm_long {
namespace {

struct Workspace {
  float* m_start = nullptr;
  float* factors = nullptr;
};
Workspace carve(const MlstmProblem& p, Carver& carver) {
  const Sizes n = sizes_of(p);
  Workspace w;
  if (!p.sigmoid_gate)
    w.m_start = carver.take<float>(n.sequences() * static_cast<std::size_t>(n.chunks + 1));
  w.factors =
      carver.take<float>(n.sequences() * static_cast<std::size_t>(n.chunks * kChunkFloats<true>));
  return w;
}

const char* refuses(const MlstmProblem& p) {
  return p.key_dim <= kMaxDim && p.value_dim <= kMaxDim ? nullptr
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

template <typename T>
void run(const MlstmForward& args) {
  const MlstmProblem& p = args.problem;
  const Sizes n = sizes_of(p);
  Carver workspace_carver(args.workspace), saved_carver(args.saved);
  const Workspace w = carve(p, workspace_carver);
  Saved saved;
  if (args.saved != nullptr) saved = carve_saved(p, saved_carver);

  GateArgs gates = gate_args(p, saved.m_start != nullptr ? saved.m_start : w.m_start, w.factors);
  gates.m_final = args.final.m;
  if (!p.sigmoid_gate) launch_chunk_maxima<true>(gates, n, args.stream);
  launch_chunk_factors<true>(gates, n, args.stream);
  launch_zero_outside<T>({.rows = {args.h},
                          .dims = {p.value_dim},
                          .gates = {},
                          .begin = p.begin,
                          .end = p.end,
                          .tokens = p.tokens,
                          .heads = p.heads},
                         p.batch, args.stream);
  PortableSweepArgs sweep{};
  sweep.x = p.q;
  sweep.y = p.k;
  sweep.z = p.v;
  sweep.out = args.h;
  sweep.x_dim = p.key_dim;
  sweep.z_dim = p.value_dim;
  sweep.sizes = n;
  sweep.begin = p.begin;
  sweep.end = p.end;
  sweep.factors = w.factors;
  sweep.normalize = p.normalize;
  sweep.eps = p.eps;
  sweep.c_in = p.initial.c;
  sweep.n_in = p.initial.n;
  sweep.c_out = args.final.c;
  sweep.n_out = args.final.n;
  sweep.row_stride = p.value_dim;
  sweep.column_stride = 1;
  sweep.inverse_norm = saved.inverse_norm;
  sweep.sign = saved.norm_sign;
  launch_sweep_portable<T, Sweep::kForward>(sweep, args.stream);
}

void forward(const MlstmForward& args) {
  args.problem.dtype == DType::kFloat32 ? run<float>(args) : run<__nv_bfloat16>(args);
}

}  // namespace
}  // namespace mlstm_long

const MlstmImplementation kMlstmLongPortable = {"the portable long form",
                                                mlstm_long::refuses,
                                                mlstm_long::saved_bytes,
                                                mlstm_long::workspace_bytes,
                                                mlstm_long::portable_backward_bytes,
                                                mlstm_long::forward,
                                                mlstm_long::portable_backward};

}  // namespace lram::kernels
