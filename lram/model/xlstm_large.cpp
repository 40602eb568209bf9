#include "lram/model/xlstm_large.h"

#include <span>
#include <string>
#include <utility>

#include "lram/core/error.h"
#include "lram/model/block_parts.h"
#include "lram/model/head_norm_gate.h"
#include "lram/model/named_parameter.h"
#include "lram/model/token_mask.h"

namespace lram::model {
using torch::Tensor;
namespace {

Tensor rms_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps) {
  const Tensor y = at::rms_norm(x, {weight.size(0)}, weight, eps);
  return bias.defined() ? y + bias : y;
}

void check(const XlstmLargeConfig& c) {
  const auto positive = [](const char* name, std::int64_t value) {
    if (value < 1)
      throw_error(ErrorKind::kUsage, "xLSTM large: {} is {}, wanted at least 1", name, value);
  };
  positive("embed_dim", c.embed_dim);
  positive("num_heads", c.num_heads);
  positive("num_blocks", c.num_blocks);
  positive("ffn_round_up_to", c.ffn_round_up_to);
  positive("chunk_size", c.cell.chunk_size);
  for (const auto& [name, width] : {std::pair{"queries and keys", c.qk_dim()},
                                    {"values", c.v_dim()},
                                    {"the feed-forward", c.ffn_dim()}})
    if (width < 1)
      throw_error(ErrorKind::kUsage, "xLSTM large: the width of {} is {}, wanted at least 1", name,
                  width);
  for (const auto& [name, width] :
       {std::pair{"queries and keys", c.qk_dim()}, {"values", c.v_dim()}})
    if (width % c.num_heads != 0)
      throw_error(ErrorKind::kUsage,
                  "xLSTM large: num_heads is {}, wanted a divisor of the width of {} ({})",
                  c.num_heads, name, width);
  if (!c.cell.normalize && c.cell.input_gate != InputGate::kSigmoid)
    throw_error(
        ErrorKind::kUsage,
        "xLSTM large: normalize is false with exponential input gates, wanted sigmoid ones");
}

}  // namespace

std::int64_t XlstmLargeConfig::qk_dim() const {
  return static_cast<std::int64_t>(static_cast<double>(embed_dim) * qk_dim_factor);
}
std::int64_t XlstmLargeConfig::v_dim() const {
  return static_cast<std::int64_t>(static_cast<double>(embed_dim) * v_dim_factor);
}
std::int64_t XlstmLargeConfig::ffn_dim() const {
  // The package drops the fraction first: 2.667 * 24 = 64.008 becomes 64.
  const auto width = static_cast<std::int64_t>(static_cast<double>(embed_dim) * ffn_factor);
  return (width + ffn_round_up_to - 1) / ffn_round_up_to * ffn_round_up_to;
}

Tensor soft_cap(const Tensor& x, double cap) { return cap > 0.0 ? at::tanh(x / cap) * cap : x; }

/// x + W_out(sigmoid(o) * norm(cell(q, k, v, i, f))), then x + W_down(SiLU(W_gate x) * W_up x),
/// each behind an RMS norm.
class XlstmLargeBlock : public torch::nn::Module {
 public:
  explicit XlstmLargeBlock(const XlstmLargeConfig& config) : config_(config) {
    const std::int64_t dim = config.embed_dim, heads = config.num_heads, qk = config.qk_dim(),
                       v = config.v_dim(), ffn = config.ffn_dim();
    norm_mlstm_ = norm("norm_mlstm", dim);
    const std::string layer = "mlstm_layer.";
    q_ = map(layer + "q", qk, dim, kSmall);
    k_ = map(layer + "k", qk, dim, kSmall);
    v_ = map(layer + "v", v, dim, kSmall);
    output_gate_ = map(layer + "ogate_preact", v, dim, kZero);
    input_gate_ = gate(layer + "igate_preact", torch::full({heads}, -10.0));
    forget_gate_ = gate(layer + "fgate_preact", torch::linspace(3.0, 6.0, heads));
    head_norm_ = norm(layer + "multihead_norm", v);
    out_ = map(layer + "out_proj", dim, v, kWang, dim);
    norm_ffn_ = norm("norm_ffn", dim);
    ffn_gate_ = map("ffn.proj_up_gate", ffn, dim, kZero);
    ffn_up_ = map("ffn.proj_up", ffn, dim, kSmall);
    ffn_down_ = map("ffn.proj_down", dim, ffn, kWang, ffn);
  }

  struct Output {
    Tensor x;  ///< [B, T, D]
    MlstmState state;
  };

  Output forward(const Tensor& x, const MlstmState& state, const SequenceMask& mask,
                 FinalState final_state) const {
    const std::int64_t batch = x.size(0), tokens = x.size(1);
    const auto by_head = [&](const Tensor& y) {
      return y.view({batch, tokens, config_.num_heads, -1});
    };
    const Tensor y = rms_norm(x, norm_mlstm_.weight, norm_mlstm_.bias, config_.norm_eps);
    const auto gates = gate_inputs(y).chunk(2, -1);
    MlstmOptions options = config_.cell;
    options.final_state = final_state;
    MlstmOutput cell = mlstm_forward(by_head(q_(y)), by_head(k_(y)), by_head(v_(y)), gates[0],
                                     gates[1], state, mask, options);
    const Tensor gated = head_norm_gate(
        cell.h, output_gate_(y), {}, head_norm_.weight, {},
        {.sigmoid = true, .eps = config_.norm_eps, .weight_offset = 0.0, .bias = head_norm_.bias});
    const Tensor mixed = x + out_(gated);
    const Tensor wide = rms_norm(mixed, norm_ffn_.weight, norm_ffn_.bias, config_.norm_eps);
    return {mixed + ffn_down_(at::silu(ffn_gate_(wide)) * ffn_up_(wide)), std::move(cell.state)};
  }

 private:
  struct Affine {
    Tensor weight, bias;
    Tensor operator()(const Tensor& x) const { return at::linear(x, weight, bias); }
  };
  enum Init { kSmall, kWang, kZero };  // kernels.md 1.5, with transformers' two peculiarities

  bool training_init() const { return config_.init == XlstmLargeInit::kTraining; }
  Affine norm(const std::string& name, std::int64_t dim) {
    return {add_parameter(*this, name + ".weight", torch::ones({dim})),
            config_.bias ? add_parameter(*this, name + ".bias", torch::zeros({dim})) : Tensor()};
  }
  /// `width`: what kWang scales with.
  Affine map(const std::string& name, std::int64_t out, std::int64_t in, Init init,
             std::int64_t width = 1) {
    Tensor weight = torch::zeros({out, in});
    if (!training_init())
      weight = uniform_init({out, in}, in);
    else if (init == kSmall)
      weight = small_init({out, in}, config_.embed_dim);
    else if (init == kWang)
      weight = wang_init({out, in}, config_.num_blocks, width);
    Affine made = {add_parameter(*this, name + ".weight", weight), Tensor()};
    if (config_.bias)
      made.bias = add_parameter(*this, name + ".bias",
                                training_init() ? torch::zeros({out}) : uniform_init({out}, in));
    return made;
  }
  Affine gate(const std::string& name, const Tensor& trained_bias) {
    const std::int64_t heads = config_.num_heads, dim = config_.embed_dim;
    return {add_parameter(
                *this, name + ".weight",
                training_init() ? torch::zeros({heads, dim}) : uniform_init({heads, dim}, dim)),
            add_parameter(*this, name + ".bias",
                          training_init() ? trained_bias : uniform_init({heads}, dim))};
  }

  /// i then f, capped, [B, T, 2H].
  Tensor gate_inputs(const Tensor& y) const {
    const GateMaps maps = {input_gate_.weight, input_gate_.bias, forget_gate_.weight,
                           forget_gate_.bias};
    return soft_cap(maps(y), config_.gate_soft_cap);
  }

  XlstmLargeConfig config_;
  Affine norm_mlstm_, q_, k_, v_, output_gate_, input_gate_, forget_gate_, head_norm_, out_,
      norm_ffn_, ffn_gate_, ffn_up_, ffn_down_;
};

XlstmLargeBackbone::XlstmLargeBackbone(const XlstmLargeConfig& config) : config_(config) {
  check(config);
  const std::int64_t heads = config.num_heads, key = config.qk_dim() / heads,
                     value = config.v_dim() / heads;
  const auto list = register_module("blocks", std::make_shared<torch::nn::Module>("blocks"));
  for (std::int64_t i = 0; i < config.num_blocks; ++i) {
    const std::string name = std::to_string(i);
    blocks_.push_back(list->register_module(name, std::make_shared<XlstmLargeBlock>(config)));
    fields_.push_back({"block " + name + " c", {heads, key, value}});
    fields_.push_back({"block " + name + " n", {heads, key}});
    fields_.push_back({"block " + name + " m", {heads}});
  }
  norm_ = add_parameter(*this, "out_norm.weight", torch::ones({config.embed_dim}));
  if (config.bias)
    norm_bias_ = add_parameter(*this, "out_norm.bias", torch::zeros({config.embed_dim}));
}

BackboneState XlstmLargeBackbone::initial_state(std::int64_t batch,
                                                const Tensor& first_position) const {
  (void)first_position;  // nothing here knows positions
  const auto dtype = norm_.scalar_type() == torch::kDouble ? torch::kDouble : torch::kFloat;
  return zero_state(fields_, batch, norm_.options().dtype(dtype));
}

Backbone::Output XlstmLargeBackbone::forward(const Tensor& x, const BackboneState& state,
                                             const SequenceMask& mask, FinalState final_state) {
  LRAM_CHECK(x.dim() == 3 && x.size(2) == config_.embed_dim, "xLSTM large: x is ", x.sizes().vec(),
             ", wanted [B, T, ", config_.embed_dim, "]");
  check_state("xLSTM large", fields_, state, x.size(0));
  const TokenMask resolved = resolve_mask(mask, x.size(0), x.size(1));
  const SequenceMask needed = without_trivial_parts(mask, resolved);
  Output out = {zero_masked(x, resolved.valid), {}};
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    MlstmState before;
    if (!state.empty())
      before = {state.tensors[3 * i], state.tensors[3 * i + 1], state.tensors[3 * i + 2]};
    XlstmLargeBlock::Output block = blocks_[i]->forward(out.hidden, before, needed, final_state);
    out.hidden = std::move(block.x);
    if (final_state == FinalState::kDropped) continue;
    for (Tensor* tensor : {&block.state.c, &block.state.n, &block.state.m})
      out.state.tensors.push_back(std::move(*tensor));
  }
  out.hidden =
      zero_masked(rms_norm(out.hidden, norm_, norm_bias_, config_.norm_eps), resolved.valid);
  return out;
}

}  // namespace lram::model
