#include "lram/model/mamba.h"

#include <c10/core/impl/LocalDispatchKeySet.h>

#include <cmath>
#include <string>

#include "lram/core/error.h"
#include "lram/model/block_parts.h"
#include "lram/model/named_parameter.h"
#include "lram/model/selective_scan.h"
#include "lram/model/token_mask.h"

namespace lram::model {
using torch::Tensor;
namespace {
// Initial values of transformers' MambaModel: initializer_range, time_step_min, _max and _floor.
constexpr double kInitStd = 0.1, kMinStep = 1e-3, kMaxStep = 0.1, kStepFloor = 1e-4;
constexpr double kNormEps = 1e-5;

Tensor rms_norm(const Tensor& x, const Tensor& weight) {
  return x * at::rsqrt(x.pow(2).mean(-1, /*keepdim=*/true) + kNormEps) * weight;
}

/// Biases whose softplus is log-uniform between the smallest and the largest step.
Tensor step_bias_init(std::int64_t channels) {
  const Tensor step = (torch::rand({channels}) * std::log(kMaxStep / kMinStep) + std::log(kMinStep))
                          .exp()
                          .clamp_min(kStepFloor);
  return step + (-(-step).expm1()).log();
}
}  // namespace

class MambaBlock : public torch::nn::Module {
 public:
  explicit MambaBlock(const MambaConfig& config)
      : rank_(config.dt_rank > 0 ? config.dt_rank : (config.embed_dim + 15) / 16),
        states_(config.state_size) {
    const std::int64_t dim = config.embed_dim, inner = config.expand * dim;
    const auto normal = [](at::IntArrayRef shape) { return torch::randn(shape) * kInitStd; };
    norm_ = add_parameter(*this, "norm.weight", torch::ones({dim}));
    a_log_ = add_parameter(*this, "mixer.A_log",
                           torch::arange(1, states_ + 1, torch::kFloat).log().repeat({inner, 1}));
    d_ = add_parameter(*this, "mixer.D", torch::ones({inner}));
    conv_ = std::make_unique<ConvBranch>(*this, "mixer.conv1d", inner, config.conv_kernel);
    in_ = add_parameter(*this, "mixer.in_proj.weight", normal({2 * inner, dim}));
    x_ = add_parameter(*this, "mixer.x_proj.weight", normal({rank_ + 2 * states_, inner}));
    dt_ = add_parameter(*this, "mixer.dt_proj.weight", uniform_init({inner, rank_}, rank_));
    dt_bias_ = add_parameter(*this, "mixer.dt_proj.bias", step_bias_init(inner));
    out_ = add_parameter(*this, "mixer.out_proj.weight", uniform_init({dim, inner}, inner));
    const torch::NoGradGuard no_grad;
    named_parameters()["mixer.conv1d.bias"].zero_();
  }

  std::vector<StateField> state_fields() const {
    return {conv_->window(), {"scan", {d_.size(0), states_}}};
  }

  /// x: [B, T, D]; replaces the tensors `window` and `scan`, undefined = fresh.
  Tensor forward(const Tensor& x, Tensor& window, Tensor& scan, const SequenceMask& mask) const {
    const auto branches = at::linear(rms_norm(x, norm_), in_).chunk(2, -1);
    const Tensor u = conv_->forward(branches[0], window, mask);
    SelectiveScanOutput out = select(u, at::linear(u, x_), scan, mask);
    scan = std::move(out.state);
    return x + at::linear(out.y * at::silu(branches[1]), out_);
  }

 private:
  /// Step sizes and scan, in float32 under autocast too.
  SelectiveScanOutput select(const Tensor& u, const Tensor& projected, const Tensor& scan,
                             const SequenceMask& mask) const {
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    const auto parts = projected.to(dt_.dtype()).split_with_sizes({rank_, states_, states_}, -1);
    const Tensor dt = at::softplus(at::linear(parts[0], dt_, dt_bias_));
    return selective_scan(u.to(dt_.dtype()), dt, -a_log_.exp(), parts[1], parts[2], d_, scan, mask);
  }

  std::int64_t rank_, states_;
  Tensor norm_, a_log_, d_, in_, x_, dt_, dt_bias_, out_;
  std::unique_ptr<ConvBranch> conv_;
};

MambaBackbone::MambaBackbone(const MambaConfig& config) {
  LRAM_CHECK(config.embed_dim >= 1 && config.num_blocks >= 1 && config.expand >= 1 &&
                 config.state_size >= 1 && config.conv_kernel >= 1,
             "mamba: embed_dim ", config.embed_dim, ", num_blocks ", config.num_blocks, ", expand ",
             config.expand, ", state_size ", config.state_size, ", conv_kernel ",
             config.conv_kernel, ", wanted at least 1 of each");
  const auto layers = register_module("layers", std::make_shared<torch::nn::Module>("layers"));
  for (std::int64_t i = 0; i < config.num_blocks; ++i) {
    blocks_.push_back(
        layers->register_module(std::to_string(i), std::make_shared<MambaBlock>(config)));
    for (const StateField& field : blocks_.back()->state_fields())
      fields_.push_back({"block " + std::to_string(i) + " " + field.name, field.shape});
  }
  norm_ = add_parameter(*this, "norm_f.weight", torch::ones({config.embed_dim}));
}

BackboneState MambaBackbone::initial_state(std::int64_t batch, const Tensor& first_position) const {
  (void)first_position;  // nothing here knows positions
  return zero_state(fields_, batch, norm_.options());
}

Backbone::Output MambaBackbone::forward(const Tensor& x, const BackboneState& state,
                                        const SequenceMask& mask, FinalState) {
  return forward(x, state, mask, nullptr);
}

Backbone::Output MambaBackbone::forward(const Tensor& x, const BackboneState& state,
                                        const SequenceMask& mask, std::vector<Tensor>* blocks_out) {
  LRAM_CHECK(x.dim() == 3 && x.size(2) == norm_.size(0), "mamba: x is ", x.sizes().vec(),
             ", wanted [B, T, ", norm_.size(0), "]");
  check_state("mamba", fields_, state, x.size(0));
  const Tensor valid = resolve_mask(mask, x.size(0), x.size(1)).valid;
  Output out = {zero_masked(x, valid), state};
  out.state.tensors.resize(2 * blocks_.size());
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    out.hidden = blocks_[i]->forward(out.hidden, out.state.tensors[2 * i],
                                     out.state.tensors[2 * i + 1], mask);
    if (blocks_out != nullptr) blocks_out->push_back(out.hidden);
  }
  out.hidden = zero_masked(rms_norm(out.hidden, norm_), valid);
  return out;
}

}  // namespace lram::model
