// Everything that can be refused, then the launch.
#include "kernels/head_norm_gate/head_norm_gate.h"

#include <cmath>
#include <limits>
#include <string>

#include "kernels/common/cuda_check.h"
#include "kernels/common/device.h"
#include "kernels/head_norm_gate/head_norm_gate_launch.h"
#include "lram/core/error.h"

namespace lram::kernels {
namespace {

constexpr int kMaxDim = 768;

void check_positive(const char* name, int value) {
  if (value < 1)
    throw_error(ErrorKind::kUsage, "head_norm_gate: {} is {}, wanted at least 1", name, value);
}

void check_pointer(const char* name, const void* data) {
  const std::string argument = std::string("head_norm_gate: ") + name;
  check_device_pointer(data, argument);
  const auto past = reinterpret_cast<std::uintptr_t>(data) % 16;
  if (past != 0)
    throw_error(ErrorKind::kUsage,
                "{} lies {} bytes past a multiple of 16, wanted a multiple of 16", argument, past);
}

/// The kernels' offsets are 32 bits of `unit` bytes.
template <typename Tensor>
void check_span(const HeadNormGateProblem& p, const char* name, const Tensor& x, std::int64_t size,
                std::int64_t unit) {
  const auto reach = [](int count, std::int64_t stride) {  // double: no product overflows
    return (count - 1.0) * std::abs(static_cast<double>(stride));
  };
  const double bytes =
      static_cast<double>(size) *
      (reach(p.batch, x.stride_b) + reach(p.tokens, x.stride_t) + reach(p.heads, x.stride_h));
  const auto most = static_cast<double>(unit * std::numeric_limits<std::int32_t>::max());
  if (bytes > most)
    throw_error(ErrorKind::kUsage,
                "head_norm_gate: {} has {:.0f} bytes between its first row and its last, wanted at "
                "most {:.0f}",
                name, bytes, most);
}

void check_tensor(const HeadNormGateProblem& p, const char* name, const HeadTensor& x) {
  check_pointer(name, x.data);
  const std::int64_t size = p.dtype == DType::kBFloat16 ? 2 : 4;
  const struct {
    const char* name;
    int count;
    std::int64_t elements;
  } strides[] = {
      {"B", p.batch, x.stride_b}, {"T", p.tokens, x.stride_t}, {"H", p.heads, x.stride_h}};
  for (const auto& stride : strides)
    if (stride.count > 1 && stride.elements * size % 16 != 0)
      throw_error(ErrorKind::kUsage,
                  "head_norm_gate: {} has a stride of {} bytes over {}, wanted a multiple of 16",
                  name, stride.elements * size, stride.name);
  check_span(p, name, x, size, 8);
}

void check_problem(const HeadNormGateProblem& p) {
  check_positive("batch", p.batch);
  check_positive("tokens", p.tokens);
  check_positive("heads", p.heads);
  if (p.dim < 8 || p.dim > kMaxDim || p.dim % 8 != 0)
    throw_error(ErrorKind::kUsage, "head_norm_gate: dim is {}, wanted a multiple of 8 from 8 to {}",
                p.dim, kMaxDim);
  if (std::int64_t{p.batch} * p.tokens > (1 << 30))
    throw_error(ErrorKind::kUsage, "head_norm_gate: {} x {} tokens, wanted at most 2^30", p.batch,
                p.tokens);
  if (p.heads > 65535)
    throw_error(ErrorKind::kUsage, "head_norm_gate: heads is {}, wanted at most 65535", p.heads);
  if (p.dtype != DType::kBFloat16 && p.dtype != DType::kFloat32)
    throw_error(ErrorKind::kUsage, "head_norm_gate: dtype is {}, wanted kBFloat16 or kFloat32",
                static_cast<int>(p.dtype));
  if (!(p.eps >= 0.0f))
    throw_error(ErrorKind::kUsage, "head_norm_gate: eps is {}, wanted 0 or more", p.eps);
  check_tensor(p, "h", p.h);
  check_tensor(p, "z", p.z);
  check_pointer("weight", p.weight);
  if ((p.conv.data == nullptr) != (p.skip == nullptr))
    throw_error(ErrorKind::kUsage, "head_norm_gate: {} is null and {} is not, wanted both or none",
                p.skip == nullptr ? "skip" : "conv", p.skip == nullptr ? "conv" : "skip");
  if (p.skip == nullptr) return;
  check_tensor(p, "conv", p.conv);
  check_pointer("skip", p.skip);
}

}  // namespace

std::size_t head_norm_gate_workspace_bytes(const HeadNormGateProblem& problem) {
  check_problem(problem);
  const auto blocks = static_cast<std::size_t>(head_norm_gate_blocks(problem));
  return blocks * 2 * static_cast<std::size_t>(problem.heads * problem.dim) * sizeof(float);
}

void head_norm_gate_forward(const HeadNormGateForward& args) {
  check_problem(args.problem);
  check_tensor(args.problem, "y", args.y);
  launch_head_norm_gate(args);
  LRAM_CUDA_CHECK_LAUNCH("head_norm_gate");
}

void head_norm_gate_backward(const HeadNormGateBackward& args) {
  const HeadNormGateProblem& p = args.problem;
  const std::size_t wanted = head_norm_gate_workspace_bytes(p);
  check_tensor(p, "dy", args.dy);
  check_tensor(p, "dh", args.dh);
  check_tensor(p, "dz", args.dz);
  check_span(p, "dh_dot_h", args.dh_dot_h, sizeof(float), sizeof(float));
  check_pointer("dweight", args.dweight);
  if (p.skip != nullptr) {
    check_tensor(p, "dconv", args.dconv);
    check_pointer("dskip", args.dskip);
  }
  check_pointer("workspace", args.workspace);
  if (args.workspace_bytes < wanted)
    throw_error(ErrorKind::kUsage, "head_norm_gate: workspace has {} bytes, wanted {}",
                args.workspace_bytes, wanted);
  launch_head_norm_gate(args);
  LRAM_CUDA_CHECK_LAUNCH("head_norm_gate");
}

}  // namespace lram::kernels
