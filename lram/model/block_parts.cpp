#include "lram/model/block_parts.h"

#include <c10/core/impl/LocalDispatchKeySet.h>

#include <cmath>
#include <string>
#include <utility>

#include "lram/model/causal_conv.h"
#include "lram/model/named_parameter.h"

namespace lram::model {
using torch::Tensor;

std::int64_t round_up_to_64(double width) {
  return static_cast<std::int64_t>(std::ceil(width / 64.0)) * 64;
}

Tensor small_init(at::IntArrayRef shape, std::int64_t embed_dim) {
  return torch::randn(shape) * std::sqrt(2.0 / (5.0 * static_cast<double>(embed_dim)));
}

Tensor wang_init(at::IntArrayRef shape, std::int64_t num_blocks, std::int64_t embed_dim) {
  return torch::randn(shape) *
         (2.0 / (static_cast<double>(num_blocks) * std::sqrt(static_cast<double>(embed_dim))));
}

Tensor uniform_init(at::IntArrayRef shape, std::int64_t fan_in) {
  return (torch::rand(shape) * 2 - 1) / std::sqrt(static_cast<double>(fan_in));
}

ConvBranch::ConvBranch(torch::nn::Module& module, const std::string& name, std::int64_t dim,
                       std::int64_t kernel)
    : weight_(add_parameter(module, name + ".weight", uniform_init({dim, 1, kernel}, kernel))),
      bias_(add_parameter(module, name + ".bias", uniform_init({dim}, kernel))) {}

StateField ConvBranch::window() const { return {"window", {weight_.size(2) - 1, weight_.size(0)}}; }

Tensor ConvBranch::forward(const Tensor& x, Tensor& window, const SequenceMask& mask) const {
  CausalConvOutput out = causal_conv(x, window, weight_, bias_, mask);
  window = std::move(out.window);
  return at::silu(out.y);
}

Tensor GateMaps::operator()(const Tensor& x) const {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const auto dtype = x.scalar_type() == torch::kDouble ? torch::kDouble : torch::kFloat;
  return at::linear(x.to(dtype), at::cat({input, forget}).to(dtype),
                    at::cat({input_bias, forget_bias}).to(dtype));
}

GateMaps add_gate_maps(torch::nn::Module& module, const std::string& prefix, std::int64_t heads,
                       std::int64_t dim) {
  GateMaps maps;
  maps.input = add_parameter(module, prefix + "igate.weight", torch::zeros({heads, dim}));
  maps.input_bias = add_parameter(module, prefix + "igate.bias", torch::randn({heads}) * 0.1);
  maps.forget = add_parameter(module, prefix + "fgate.weight", torch::zeros({heads, dim}));
  maps.forget_bias = add_parameter(module, prefix + "fgate.bias", torch::linspace(3.0, 6.0, heads));
  return maps;
}

}  // namespace lram::model
