#include "kernels/mlstm/mlstm.h"

#include <algorithm>
#include <string>

#include "kernels/common/cuda_check.h"
#include "kernels/mlstm/mlstm_implementation.h"
#include "lram/core/error.h"

namespace lram::kernels {
namespace {

// Up to which T the quadratic forms are quicker than chunks, which pay for K V numbers of a state:
// measured, the table in README.md.
constexpr int kLongestShort = 256;
int longest_tiled(const MlstmProblem& p) {
  const int dim = std::min(p.key_dim, p.value_dim);
  return dim >= 512 ? 2048 : dim >= 384 ? 1600 : dim >= 320 ? 1300 : dim >= 256 ? 512 : 0;
}

const MlstmImplementation* find(MlstmForm form, KernelPath path) {
  const bool sm90 = path == KernelPath::kSm90;
  if (form == MlstmForm::kShort) return sm90 ? &kMlstmShortSm90 : nullptr;
  if (form == MlstmForm::kTiled) return sm90 ? &kMlstmTiledSm90 : nullptr;
  return sm90 ? &kMlstmLongSm90 : &kMlstmLongPortable;
}

void check_stride(std::int64_t stride, int size, int element_bytes, std::string_view argument,
                  const char* axis) {
  LRAM_CHECK(size == 1 || stride > 0, argument, ".stride_", axis, " is ", stride,
             ", wanted at least 1");
  LRAM_CHECK(size == 1 || stride * element_bytes % 16 == 0, argument, ".stride_", axis, " is ",
             stride * element_bytes, " bytes, wanted a multiple of 16");
}

void check_head_tensor(const HeadTensor& x, const MlstmProblem& p, std::string_view argument) {
  check_device_pointer(x.data, argument);
  LRAM_CHECK(reinterpret_cast<std::uintptr_t>(x.data) % 16 == 0, argument,
             " is not aligned, wanted an address that is a multiple of 16");
  const int bytes = p.dtype == DType::kBFloat16 ? 2 : 4;
  check_stride(x.stride_b, p.batch, bytes, argument, "b");
  check_stride(x.stride_t, p.tokens, bytes, argument, "t");
  check_stride(x.stride_h, p.heads, bytes, argument, "h");
}

void check_state(const MlstmStateView& s, const MlstmProblem& p, bool gradient,
                 std::string_view argument) {
  const std::string name(argument);
  if (s.c == nullptr) {
    LRAM_CHECK(s.n == nullptr && s.m == nullptr, argument, ".c is null but ",
               s.n != nullptr ? "n" : "m", " is given, wanted all of them or none");
    return;
  }
  check_device_pointer(s.c, name + ".c");
  LRAM_CHECK(reinterpret_cast<std::uintptr_t>(s.c) % 16 == 0, argument,
             ".c is not aligned, wanted an address that is a multiple of 16");
  if (p.normalize) {
    check_device_pointer(s.n, name + ".n");
  } else {
    LRAM_CHECK(s.n == nullptr, argument, ".n is given, wanted null without normaliser");
  }
  if (!p.sigmoid_gate && !gradient) {
    check_device_pointer(s.m, name + ".m");
  } else {
    LRAM_CHECK(s.m == nullptr, argument, ".m is given, wanted null ",
               gradient ? "(m has no gradient)" : "with the sigmoid gate");
  }
}

void check_problem(const MlstmProblem& p) {
  const auto at_least_1 = [](int value, const char* name) {
    LRAM_CHECK(value >= 1, name, " is ", value, ", wanted at least 1");
  };
  at_least_1(p.batch, "batch");
  at_least_1(p.tokens, "tokens");
  at_least_1(p.heads, "heads");
  for (const auto& [value, name] : {std::pair(p.key_dim, "key_dim"), {p.value_dim, "value_dim"}}) {
    LRAM_CHECK(value >= 8 && value <= 1024 && value % 8 == 0, name, " is ", value,
               ", wanted a multiple of 8 from 8 to 1024");
  }
  LRAM_CHECK(p.dtype == DType::kBFloat16 || p.dtype == DType::kFloat32,
             "dtype is neither bfloat16 nor float32");
  LRAM_CHECK(p.normalize || p.sigmoid_gate,
             "normalize is false with the exponential gate, wanted the sigmoid gate");
  LRAM_CHECK(p.eps >= 0, "eps is ", p.eps, ", wanted 0 or more");
  LRAM_CHECK(p.gate_soft_cap >= 0, "gate_soft_cap is ", p.gate_soft_cap, ", wanted 0 or more");
}

void check_inputs(const MlstmProblem& p) {
  check_head_tensor(p.q, p, "q");
  check_head_tensor(p.k, p, "k");
  check_head_tensor(p.v, p, "v");
  check_device_pointer(p.i.data, "i");
  check_device_pointer(p.f.data, "f");
  if (p.reset != nullptr) check_device_pointer(p.reset, "reset");
  if (p.begin != nullptr) check_device_pointer(p.begin, "begin");
  if (p.end != nullptr) check_device_pointer(p.end, "end");
  check_state(p.initial, p, /*gradient=*/false, "initial");
}

void check_workspace(const void* data, std::size_t got, std::size_t wanted) {
  LRAM_CHECK(got >= wanted, "workspace_bytes is ", got, ", wanted at least ", wanted);
  if (wanted == 0) return;
  check_device_pointer(data, "workspace");
  LRAM_CHECK(reinterpret_cast<std::uintptr_t>(data) % 256 == 0,
             "workspace is not aligned, wanted an address that is a multiple of 256");
}

}  // namespace

const MlstmImplementation& mlstm_implementation(const MlstmProblem& p) {
  check_problem(p);
  const KernelPath path = resolve_path(p.path);
  const MlstmImplementation* chosen = find(p.form, path);
  if (p.form == MlstmForm::kAuto) {
    const auto takes = [&](MlstmForm form, int longest) {
      const MlstmImplementation* one = find(form, path);
      return p.tokens <= longest && one != nullptr && one->refuses(p) == nullptr;
    };
    chosen = find(MlstmForm::kLong, path);
    if (!p.final_state && takes(MlstmForm::kTiled, longest_tiled(p)))
      chosen = find(MlstmForm::kTiled, path);
    if (takes(MlstmForm::kShort, kLongestShort)) chosen = find(MlstmForm::kShort, path);
  }
  if (chosen != nullptr && chosen->refuses(p) != nullptr && p.path == KernelPath::kAuto &&
      path == KernelPath::kSm90) {
    // What the Hopper kernels leave out (float32, other head dims) the portable ones have.
    MlstmProblem portable = p;
    portable.path = KernelPath::kPortable;
    return mlstm_implementation(portable);
  }
  LRAM_CHECK(chosen != nullptr, "this form of the mLSTM is not built for this path");
  const char* wanted = chosen->refuses(p);
  LRAM_CHECK(wanted == nullptr, chosen->name, " wants ", wanted != nullptr ? wanted : "", "; got ",
             p.tokens, " tokens, key_dim ", p.key_dim, ", value_dim ", p.value_dim);
  return *chosen;
}

bool mlstm_is_tuned(const MlstmProblem& p) {
  const MlstmImplementation* chosen = &mlstm_implementation(p);
  return chosen == find(MlstmForm::kShort, KernelPath::kSm90) ||
         chosen == find(MlstmForm::kTiled, KernelPath::kSm90) ||
         chosen == find(MlstmForm::kLong, KernelPath::kSm90);
}

std::size_t mlstm_saved_bytes(const MlstmProblem& p) {
  return mlstm_implementation(p).saved_bytes(p);
}
std::size_t mlstm_forward_workspace_bytes(const MlstmProblem& p) {
  return mlstm_implementation(p).forward_workspace_bytes(p);
}
std::size_t mlstm_backward_workspace_bytes(const MlstmProblem& p) {
  return mlstm_implementation(p).backward_workspace_bytes(p);
}

void mlstm_forward(const MlstmForward& args) {
  const MlstmProblem& p = args.problem;
  const MlstmImplementation& implementation = mlstm_implementation(p);
  check_inputs(p);
  check_head_tensor(args.h, p, "h");
  LRAM_CHECK(args.final.c == nullptr || p.final_state,
             "final is given, wanted null: final_state is false");
  check_state(args.final, p, /*gradient=*/false, "final");
  if (args.saved != nullptr) check_device_pointer(args.saved, "saved");
  check_workspace(args.workspace, args.workspace_bytes, implementation.forward_workspace_bytes(p));
  implementation.forward(args);
}

void mlstm_backward(const MlstmBackward& args) {
  const MlstmProblem& p = args.problem;
  const MlstmImplementation& implementation = mlstm_implementation(p);
  check_inputs(p);
  check_head_tensor(args.h, p, "h");
  check_head_tensor(args.dh, p, "dh");
  check_head_tensor(args.dq, p, "dq");
  check_head_tensor(args.dk, p, "dk");
  check_head_tensor(args.dv, p, "dv");
  check_device_pointer(args.di.data, "di");
  check_device_pointer(args.df.data, "df");
  check_device_pointer(args.saved, "saved");
  if (args.dh_dot_h.data != nullptr) check_device_pointer(args.dh_dot_h.data, "dh_dot_h");
  LRAM_CHECK(args.dfinal.c == nullptr || p.final_state,
             "dfinal is given, wanted null: final_state is false");
  check_state(args.dfinal, p, /*gradient=*/true, "dfinal");
  check_state(args.dinitial, p, /*gradient=*/true, "dinitial");
  LRAM_CHECK(args.dinitial.c == nullptr || p.initial.c != nullptr,
             "dinitial is given without initial, wanted null");
  check_workspace(args.workspace, args.workspace_bytes, implementation.backward_workspace_bytes(p));
  implementation.backward(args);
}

}  // namespace lram::kernels
