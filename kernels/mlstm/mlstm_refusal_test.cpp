// What the launchers refuse: each by the argument's name, what was found and what was wanted,
// before anything is launched.
#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "kernels/common/cuda_check.h"
#include "kernels/common/device.h"
#include "kernels/mlstm/mlstm.h"
#include "kernels/mlstm/mlstm_implementation.h"
#include "lram/core/error.h"

namespace lram::kernels {
namespace {

/// The kind's number and the text of what `call` throws, or "nothing".
std::string refusal(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kUsage) return std::string("not a usage error: ") + error.what();
    return error.what();
  }
  return "nothing";
}

void expect_refusal(const std::string& part, const std::function<void()>& call) {
  const std::string text = refusal(call);
  EXPECT_NE(text.find(part), std::string::npos) << "wanted '" << part << "' in: " << text;
}

MlstmProblem small_problem() {
  MlstmProblem p;
  p.batch = 1, p.tokens = 5, p.heads = 2, p.key_dim = 64, p.value_dim = 32;
  return p;
}

// Sizes and options are looked at before the device: no GPU is needed.
TEST(MlstmRefuses, SizesAndOptions) {
  const struct {
    const char* text;
    std::function<void(MlstmProblem&)> spoil;
  } cases[] = {
      {"batch is 0, wanted at least 1", [](MlstmProblem& p) { p.batch = 0; }},
      {"tokens is 0, wanted at least 1", [](MlstmProblem& p) { p.tokens = 0; }},
      {"heads is -1, wanted at least 1", [](MlstmProblem& p) { p.heads = -1; }},
      {"key_dim is 60, wanted a multiple of 8 from 8 to 1024",
       [](MlstmProblem& p) { p.key_dim = 60; }},
      {"key_dim is 0, wanted a multiple of 8", [](MlstmProblem& p) { p.key_dim = 0; }},
      {"value_dim is 1032, wanted a multiple of 8 from 8 to 1024",
       [](MlstmProblem& p) { p.value_dim = 1032; }},
      {"dtype is neither bfloat16 nor float32",
       [](MlstmProblem& p) { p.dtype = static_cast<DType>(7); }},
      {"normalize is false with the exponential gate, wanted the sigmoid gate",
       [](MlstmProblem& p) { p.normalize = false; }},
      {"eps is -1, wanted 0 or more", [](MlstmProblem& p) { p.eps = -1; }},
      {"eps is nan, wanted 0 or more",
       [](MlstmProblem& p) { p.eps = std::numeric_limits<float>::quiet_NaN(); }},
      {"gate_soft_cap is -15, wanted 0 or more", [](MlstmProblem& p) { p.gate_soft_cap = -15; }},
  };
  for (const auto& c : cases) {
    MlstmProblem p = small_problem();
    c.spoil(p);
    expect_refusal(c.text, [&] { mlstm_saved_bytes(p); });
    expect_refusal(c.text, [&] { mlstm_forward_workspace_bytes(p); });
    expect_refusal(c.text, [&] {
      MlstmForward f;
      f.problem = p;
      mlstm_forward(f);
    });
    expect_refusal(c.text, [&] {
      MlstmBackward b;
      b.problem = p;
      mlstm_backward(b);
    });
  }
}

/// A call that is right in all its arguments, each of which a test then spoils.
class Call {
 public:
  Call() {
    MlstmProblem& p = forward.problem;
    p = small_problem();
    p.q = head(p.key_dim), p.k = head(p.key_dim), p.v = head(p.value_dim);
    p.i = gate(), p.f = gate();
    p.initial = state(true);
    forward.h = head(p.value_dim);
    forward.final = state(true);
    forward.saved = bytes(mlstm_saved_bytes(p));
    forward.workspace_bytes = mlstm_forward_workspace_bytes(p);
    backward.workspace_bytes = mlstm_backward_workspace_bytes(p);
    forward.workspace = bytes(forward.workspace_bytes);
    backward.workspace = bytes(backward.workspace_bytes);
    backward.problem = p;
    backward.h = forward.h, backward.saved = forward.saved, backward.dh = head(p.value_dim);
    backward.dq = head(p.key_dim), backward.dk = head(p.key_dim), backward.dv = head(p.value_dim);
    backward.di = gate(), backward.df = gate();
    backward.dfinal = state(false), backward.dinitial = state(false);
  }
  Call(const Call&) = delete;
  ~Call() {
    for (void* data : owned_) cudaFree(data);
  }
  MlstmForward forward;
  MlstmBackward backward;

  /// Of the sizes that the problem, changed since, now wants.
  void give_workspace() {
    forward.workspace_bytes = mlstm_forward_workspace_bytes(forward.problem);
    backward.workspace_bytes = mlstm_backward_workspace_bytes(backward.problem);
    forward.workspace = bytes(forward.workspace_bytes);
    backward.workspace = bytes(backward.workspace_bytes);
  }

 private:
  void* bytes(std::size_t count) {
    void* data = nullptr;
    LRAM_CUDA_CHECK(cudaMalloc(&data, count + 256));
    LRAM_CUDA_CHECK(cudaMemset(data, 0, count + 256));
    owned_.push_back(data);
    return data;
  }
  HeadTensor head(int dim) {
    const MlstmProblem p = small_problem();
    return {bytes(static_cast<std::size_t>(2 * p.tokens * p.heads * dim)),
            std::int64_t{1} * p.tokens * p.heads * dim, std::int64_t{1} * p.heads * dim, dim};
  }
  GateTensor gate() {
    const MlstmProblem p = small_problem();
    return {static_cast<float*>(bytes(static_cast<std::size_t>(4 * p.tokens * p.heads))),
            p.tokens * p.heads, p.heads, 1};
  }
  MlstmStateView state(bool with_m) {
    const MlstmProblem p = small_problem();
    const auto floats = [&](int count) {
      return static_cast<float*>(bytes(static_cast<std::size_t>(4 * p.heads * count)));
    };
    return {floats(p.key_dim * p.value_dim), floats(p.key_dim), with_m ? floats(1) : nullptr};
  }
  std::vector<void*> owned_;
};

TEST(MlstmRefuses, MemoryAndStrides) {
  if (!has_device() || current_device().compute_capability < 80) GTEST_SKIP() << "no GPU";
  alignas(256) static float on_host[4096];
  const struct {
    const char* text;
    std::function<void(MlstmForward&, MlstmBackward&)> spoil;
    bool forward = true, backward = true;  // which of the calls sees it
  } cases[] = {
      {"q is null, wanted device memory",
       [](auto& f, auto& b) { f.problem.q.data = b.problem.q.data = nullptr; }},
      {"k is host memory, wanted memory of CUDA device 0",
       [](auto& f, auto& b) { f.problem.k.data = b.problem.k.data = on_host; }},
      {"v is not aligned, wanted an address that is a multiple of 16",
       [](auto& f, auto& b) {
         f.problem.v.data = b.problem.v.data = static_cast<char*>(f.problem.v.data) + 8;
       }},
      {"q.stride_t is 248 bytes, wanted a multiple of 16",
       [](auto& f, auto& b) { f.problem.q.stride_t = b.problem.q.stride_t = 124; }},
      {"v.stride_h is 0, wanted at least 1",
       [](auto& f, auto& b) { f.problem.v.stride_h = b.problem.v.stride_h = 0; }},
      {"i is null, wanted device memory",
       [](auto& f, auto& b) { f.problem.i.data = b.problem.i.data = nullptr; }},
      {"f is host memory", [](auto& f, auto& b) { f.problem.f.data = b.problem.f.data = on_host; }},
      {"begin is host memory",
       [](auto& f, auto& b) {
         f.problem.begin = b.problem.begin = reinterpret_cast<std::int32_t*>(on_host);
       }},
      {"initial.n is null, wanted device memory",
       [](auto& f, auto& b) { f.problem.initial.n = b.problem.initial.n = nullptr; }},
      {"initial.c is null but n is given, wanted all of them or none",
       [](auto& f, auto& b) { f.problem.initial.c = b.problem.initial.c = nullptr; }},
      {"initial.m is given, wanted null with the sigmoid gate",
       [](auto& f, auto& b) { f.problem.sigmoid_gate = b.problem.sigmoid_gate = true; }},
      {"h is null, wanted device memory", [](auto& f, auto& b) { f.h.data = b.h.data = nullptr; }},
      {"final.m is null", [](auto& f, auto&) { f.final.m = nullptr; }, true, false},
      {"saved is host memory", [](auto& f, auto&) { f.saved = on_host; }, true, false},
      {"saved is null", [](auto&, auto& b) { b.saved = nullptr; }, false, true},
      {"dh.stride_t is 66 bytes", [](auto&, auto& b) { b.dh.stride_t = 33; }, false, true},
      {"dq is null", [](auto&, auto& b) { b.dq.data = nullptr; }, false, true},
      {"dk is host memory", [](auto&, auto& b) { b.dk.data = on_host; }, false, true},
      {"di is null", [](auto&, auto& b) { b.di.data = nullptr; }, false, true},
      {"dfinal.m is given, wanted null (m has no gradient)",
       [](auto&, auto& b) { b.dfinal.m = b.di.data; }, false, true},
      {"dinitial is given without initial, wanted null",
       [](auto&, auto& b) { b.problem.initial = {}; }, false, true},
  };
  for (const auto& c : cases) {
    Call call;
    c.spoil(call.forward, call.backward);
    if (c.forward) expect_refusal(c.text, [&] { mlstm_forward(call.forward); });
    if (c.backward) expect_refusal(c.text, [&] { mlstm_backward(call.backward); });
  }
}

TEST(MlstmRefuses, Workspaces) {
  if (!has_device() || current_device().compute_capability < 80) GTEST_SKIP() << "no GPU";
  Call call;
  const auto spoil_size = [](auto& args, void (*launch)(decltype(args))) {
    const std::size_t wanted = args.workspace_bytes;
    ASSERT_GT(wanted, 0u);
    args.workspace_bytes = wanted - 1;
    expect_refusal("workspace_bytes is " + std::to_string(wanted - 1) + ", wanted at least " +
                       std::to_string(wanted),
                   [&] { launch(args); });
    args.workspace_bytes = wanted;
    void* const kept = args.workspace;
    args.workspace = static_cast<char*>(kept) + 16;
    expect_refusal("workspace is not aligned, wanted an address that is a multiple of 256",
                   [&] { launch(args); });
    args.workspace = nullptr;
    expect_refusal("workspace is null, wanted device memory", [&] { launch(args); });
    args.workspace = kept;
  };
  spoil_size(
      call.forward, +[](MlstmForward& f) { mlstm_forward(f); });
  spoil_size(
      call.backward, +[](MlstmBackward& b) { mlstm_backward(b); });
  EXPECT_EQ(refusal([&] { mlstm_forward(call.forward); }), "nothing");
  EXPECT_EQ(refusal([&] { mlstm_backward(call.backward); }), "nothing");
  LRAM_CUDA_CHECK(cudaDeviceSynchronize());
}

TEST(MlstmRefuses, FormsThatAreNotThere) {
  if (!has_device() || current_device().compute_capability < 80) GTEST_SKIP() << "no GPU";
  MlstmProblem p = small_problem();
  p.form = MlstmForm::kShort, p.path = KernelPath::kPortable;
  expect_refusal("this form of the mLSTM is not built for this path",
                 [&] { mlstm_saved_bytes(p); });
  if (current_device().compute_capability != 90) return;
  p.path = KernelPath::kSm90, p.tokens = 1000;
  expect_refusal("the short form on sm90 wants at most", [&] { mlstm_saved_bytes(p); });
  p.tokens = 5, p.dtype = DType::kFloat32;
  expect_refusal("the short form on sm90 wants bfloat16", [&] { mlstm_saved_bytes(p); });
  p.form = MlstmForm::kTiled;
  expect_refusal("the tiled form on sm90 wants bfloat16", [&] { mlstm_saved_bytes(p); });
  p.dtype = DType::kBFloat16, p.tokens = 4097;
  expect_refusal("the tiled form on sm90 wants at most 4096 tokens", [&] { mlstm_saved_bytes(p); });
  float state = 0;
  p.tokens = 5, p.initial.c = &state;
  expect_refusal("the tiled form on sm90 wants no initial state", [&] { mlstm_saved_bytes(p); });
}

TEST(MlstmRefuses, FinalStatesWhereNoneWasAnnounced) {
  if (!has_device() || current_device().compute_capability < 80) GTEST_SKIP() << "no GPU";
  Call call;
  for (MlstmProblem* p : {&call.forward.problem, &call.backward.problem}) p->final_state = false;
  expect_refusal("final is given, wanted null: final_state is false",
                 [&] { mlstm_forward(call.forward); });
  expect_refusal("dfinal is given, wanted null: final_state is false",
                 [&] { mlstm_backward(call.backward); });
}

TEST(MlstmChooses, TheQuickestFormThatTakesTheProblem) {
  if (!has_device() || current_device().compute_capability != 90) GTEST_SKIP() << "no Hopper GPU";
  struct Choice {
    int tokens, dim;
    bool final_state;
    const char* form;
  };
  for (const Choice& c : {Choice{256, 128, true, "the short form on sm90"},
                          {257, 128, false, "the sm90 long form"},
                          {400, 256, false, "the tiled form on sm90"},
                          {400, 256, true, "the sm90 long form"},
                          {600, 256, false, "the sm90 long form"},
                          {1024, 640, false, "the tiled form on sm90"},
                          {8192, 640, false, "the sm90 long form"}}) {
    MlstmProblem p;
    p.batch = p.heads = 1, p.tokens = c.tokens, p.key_dim = p.value_dim = c.dim;
    p.final_state = c.final_state;
    EXPECT_STREQ(mlstm_implementation(p).name, c.form) << c.tokens << " tokens, " << c.dim;
  }
}

TEST(MlstmRefuses, FinalStatesInTheTiledForm) {
  if (!has_device() || current_device().compute_capability != 90) GTEST_SKIP() << "no Hopper GPU";
  Call call;
  for (MlstmProblem* p : {&call.forward.problem, &call.backward.problem}) {
    p->form = MlstmForm::kTiled, p->initial = {};
  }
  call.give_workspace();
  expect_refusal("final is given, the tiled form has none: wanted the long form",
                 [&] { mlstm_forward(call.forward); });
  call.backward.dinitial = {};
  expect_refusal("dfinal is given, the tiled form has none: wanted the long form",
                 [&] { mlstm_backward(call.backward); });
}

}  // namespace
}  // namespace lram::kernels
