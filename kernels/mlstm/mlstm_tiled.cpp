// The tiled form on Hopper (mlstm_tiled.h): which kernels run on which group of heads.
//
//   forward   gates | per group: P tiles; h = P v, rows over the normaliser
//   backward  gates | per group: P and dS tiles; dv = P^T dh, dq = dS k, dk = dS^T q | di, df
//
// Where dh . h is not given, dS needs it first: P v once more, its rows dotted with dh in float32.
#include "kernels/mlstm/mlstm_tiled.h"

#include <algorithm>

#include "kernels/mlstm/mlstm_implementation.h"
#include "kernels/mlstm/mlstm_long.h"
#include "lram/core/error.h"

namespace lram::kernels {
namespace mlstm_tiled {

Sizes sizes_of(const MlstmProblem& p) {
  Sizes n;
  n.tiles = (p.tokens + kTile - 1) / kTile;
  n.pairs = (n.tiles + 1) / 2;
  n.rows = n.pairs * kPair;
  n.heads = p.batch * p.heads;
  n.key_slices = (p.key_dim + kPair - 1) / kPair;
  n.value_slices = (p.value_dim + kPair - 1) / kPair;
  n.part = std::int64_t{1} * n.heads * n.rows;
  n.score_bytes = std::int64_t{1} * block_of(n.tiles) * kTile * 64 * 2;
  return n;
}

Workspace carve(const MlstmProblem& p, bool backward, void* workspace, std::size_t bytes) {
  const Sizes n = sizes_of(p);
  mlstm_long::Carver carver(workspace);
  const auto floats = [&](int parts) {
    return carver.take<float>(static_cast<std::size_t>(parts * n.part));
  };
  Workspace out;
  out.gates = {floats(1), floats(1), floats(1), carver.take<int>(static_cast<std::size_t>(n.part))};
  if (backward) {
    out.dh_dot_h = floats(n.value_slices);
    out.q_dq = floats(n.key_slices);
    out.k_dk = floats(n.key_slices);
  } else {
    out.beta = floats(n.pairs);
  }
  // A group's tiles are to stay in L2 beside what streams by, but every multiprocessor is to get
  // two outputs at least.
  const DeviceInfo& device = current_device();
  const int kinds = backward ? 2 : 1;
  const std::int64_t fits = device.l2_bytes / 3 * 2 / (kinds * n.score_bytes);
  const int outputs = n.tiles * (n.value_slices + (backward ? 2 * n.key_slices : 0));
  const std::int64_t least = (2 * device.multiprocessors + outputs - 1) / outputs;
  const std::int64_t wanted =
      bytes == 0 ? std::max(fits, least)
                 : static_cast<std::int64_t>(bytes - carver.used()) / (kinds * n.score_bytes);
  const int most = static_cast<int>(std::clamp<std::int64_t>(wanted, 1, n.heads));
  const int groups = (n.heads + most - 1) / most;
  out.group = (n.heads + groups - 1) / groups;
  for (int kind = 0; kind < kinds; ++kind) {
    out.scores[kind] = carver.take<std::byte>(static_cast<std::size_t>(out.group * n.score_bytes));
  }
  out.bytes = carver.used();
  return out;
}

namespace {

template <typename Body>
void for_each_group(const Sizes& n, const Workspace& w, const Body& body) {
  for (int first = 0; first < n.heads; first += w.group) {
    body(HeadRange{first, std::min(w.group, n.heads - first)});
  }
}

void forward(const MlstmForward& f) {
  const MlstmProblem& p = f.problem;
  LRAM_CHECK(f.final.c == nullptr, "final is given, the tiled form has none: wanted the long form");
  const Sizes n = sizes_of(p);
  const Workspace w = carve(p, false, f.workspace, f.workspace_bytes);
  launch_gates(p, n, w.gates, f.stream);
  for_each_group(n, w, [&](HeadRange heads) {
    ScoreCall scores;
    scores.jobs[0] = {p.q, p.k, p.key_dim, false, w.scores[0]};
    scores.count = 1;
    scores.beta = w.beta;
    launch_scores(p, n, w.gates, heads, scores, f.stream);
    ProductCall products;
    products.jobs[0] = {w.scores[0], false, p.v, p.value_dim, f.h, {}, nullptr};
    products.count = 1;
    products.beta = w.beta;
    products.saved = static_cast<float2*>(f.saved);
    launch_products(p, n, w.gates, heads, products, f.stream);
  });
}

void backward(const MlstmBackward& b) {
  const MlstmProblem& p = b.problem;
  LRAM_CHECK(b.dfinal.c == nullptr,
             "dfinal is given, the tiled form has none: wanted the long form");
  const Sizes n = sizes_of(p);
  const Workspace w = carve(p, true, b.workspace, b.workspace_bytes);
  const bool wants_dots = p.normalize && b.dh_dot_h.data == nullptr;
  void *const probabilities = w.scores[0], *const gradients = w.scores[1];
  launch_gates(p, n, w.gates, b.stream);
  for_each_group(n, w, [&](HeadRange heads) {
    const ScoreJob p_job{p.q, p.k, p.key_dim, false, probabilities};
    const ScoreJob ds_job{b.dh, p.v, p.value_dim, true, gradients};
    ScoreCall scores;
    scores.jobs[0] = p_job;
    scores.jobs[1] = ds_job;
    scores.count = 2;
    scores.saved = static_cast<const float2*>(b.saved);
    scores.dh_dot_h = b.dh_dot_h;
    scores.dh_dot_h_parts = w.dh_dot_h;
    if (wants_dots) {
      scores.count = 1;
      launch_scores(p, n, w.gates, heads, scores, b.stream);
      ProductCall dots;
      dots.jobs[0] = {probabilities, false, p.v, p.value_dim, {}, b.dh, w.dh_dot_h};
      dots.count = 1;
      launch_products(p, n, w.gates, heads, dots, b.stream);
      scores.jobs[0] = ds_job;
    }
    launch_scores(p, n, w.gates, heads, scores, b.stream);
    ProductCall products;
    products.jobs[0] = {gradients, false, p.k, p.key_dim, b.dq, p.q, w.q_dq};
    products.jobs[1] = {gradients, true, p.q, p.key_dim, b.dk, p.k, w.k_dk};
    products.jobs[2] = {probabilities, true, b.dh, p.value_dim, b.dv, {}, nullptr};
    products.count = 3;
    launch_products(p, n, w.gates, heads, products, b.stream);
  });
  launch_gate_gradients(b, n, w);
}

}  // namespace
}  // namespace mlstm_tiled

const MlstmImplementation kMlstmTiledSm90 = {
    "the tiled form on sm90",
    [](const MlstmProblem& p) -> const char* {
      if (p.dtype != DType::kBFloat16) return "bfloat16";
      if (p.initial.c != nullptr) return "no initial state";
      return p.tokens <= mlstm_tiled::kMaxTokens ? nullptr : "at most 4096 tokens";
    },
    [](const MlstmProblem& p) {
      return sizeof(float2) * static_cast<std::size_t>(p.batch) *
             static_cast<std::size_t>(p.heads) * static_cast<std::size_t>(p.tokens);
    },
    [](const MlstmProblem& p) { return mlstm_tiled::carve(p, false, nullptr, 0).bytes; },
    [](const MlstmProblem& p) { return mlstm_tiled::carve(p, true, nullptr, 0).bytes; },
    mlstm_tiled::forward,
    mlstm_tiled::backward,
};

}  // namespace lram::kernels
