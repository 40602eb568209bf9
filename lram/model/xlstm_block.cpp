#include "lram/model/xlstm_block.h"

#include <array>
#include <string>

#include "lram/core/error.h"
#include "lram/model/block_parts.h"
#include "lram/model/head_norm_gate.h"
#include "lram/model/mlstm_cell.h"
#include "lram/model/named_parameter.h"
#include "lram/model/post_up_block.h"
#include "lram/model/qkv_projection.h"

namespace lram::model {
namespace {
using torch::Tensor;

class MlstmBlock : public XlstmBlock {
 public:
  explicit MlstmBlock(const XlstmBlockConfig& config)
      : config_(config), conv_(*this, "xlstm.conv1d.conv", config.inner_dim(), config.conv_kernel) {
    const std::int64_t dim = config.embed_dim, inner = config.inner_dim(), heads = config.num_heads;
    const std::int64_t block = config.qkv_blocksize;
    const auto bias = [&](const std::string& name, std::int64_t size) {
      return config.bias ? add_parameter(*this, name, torch::zeros({size})) : Tensor();
    };
    norm_ = add_parameter(*this, "xlstm_norm.weight", torch::zeros({dim}));
    up_ = add_parameter(*this, "xlstm.proj_up.weight", small_init({2 * inner, dim}, dim));
    up_bias_ = bias("xlstm.proj_up.bias", 2 * inner);
    for (std::size_t i = 0; i < 3; ++i) {
      const std::string name = std::string("xlstm.") + "qkv"[i] + "_proj.";
      qkv_[i] =
          add_parameter(*this, name + "weight", small_init({inner / block, block, block}, dim));
      qkv_bias_[i] = bias(name + "bias", inner);
    }
    const std::string cell = "xlstm.mlstm_cell.";
    gates_ = add_gate_maps(*this, cell, heads, 3 * inner);
    head_norm_ = add_parameter(*this, cell + "outnorm.weight", torch::zeros({inner}));
    skip_ = add_parameter(*this, "xlstm.learnable_skip", torch::ones({inner}));
    down_ = add_parameter(*this, "xlstm.proj_down.weight",
                          wang_init({dim, inner}, config.num_blocks, dim));
    down_bias_ = bias("xlstm.proj_down.bias", dim);
  }

  std::vector<StateField> state_fields() const override {
    const std::int64_t heads = config_.num_heads, unit = config_.inner_dim() / heads;
    return {{"c", {heads, unit, unit}}, {"n", {heads, unit}}, {"m", {heads}}, conv_.window()};
  }

  Output forward(const Tensor& x, std::span<const Tensor> state, const SequenceMask& mask,
                 FinalState final_state) override {
    const std::int64_t batch = x.size(0), tokens = x.size(1), heads = config_.num_heads;
    MlstmState before;
    Tensor window;
    if (!state.empty()) before = {state[0], state[1], state[2]}, window = state[3];

    const auto branches = at::linear(residual_norm(x, norm_), up_, up_bias_).chunk(2, -1);
    const Tensor conv = conv_.forward(branches[0], window, mask);
    const Tensor qkv = qkv_projection(conv, branches[0], qkv_, qkv_bias_);
    const auto parts = qkv.view({batch, tokens, 3 * heads, -1}).chunk(3, 2);
    const auto gates = gates_(qkv).chunk(2, -1);
    MlstmOptions options = config_.cell;
    options.final_state = final_state;
    MlstmOutput cell =
        mlstm_forward(parts[0], parts[1], parts[2], gates[0], gates[1], before, mask, options);
    const Tensor gated =
        head_norm_gate(cell.h, branches[1], conv, head_norm_, skip_, {.eps = kBlockNormEps});
    const Tensor y = at::linear(gated, down_, down_bias_);
    return {x + y, {cell.state.c, cell.state.n, cell.state.m, window}};
  }

 private:
  XlstmBlockConfig config_;
  std::array<Tensor, 3> qkv_, qkv_bias_;
  Tensor norm_, up_, up_bias_, head_norm_, skip_, down_, down_bias_;
  GateMaps gates_;
  ConvBranch conv_;
};

void check(const XlstmBlockConfig& config) {
  const bool mlstm = config.kind == XlstmBlockKind::kMlstm;
  const std::int64_t width = mlstm ? config.inner_dim() : config.embed_dim;
  constexpr const char* kPlaces[] = {"mLSTM block", "sLSTM block", "LSTM block", "GRU block",
                                     "Elman block"};
  const char* const place = kPlaces[static_cast<std::size_t>(config.kind)];
  if (config.num_heads < 1 || width % config.num_heads != 0)
    throw_error(ErrorKind::kUsage, "{}: num_heads is {}, wanted a divisor of its width {}", place,
                config.num_heads, width);
  if (config.conv_kernel < (mlstm ? 1 : 0))
    throw_error(ErrorKind::kUsage, "{}: conv_kernel is {}, wanted at least {}", place,
                config.conv_kernel, mlstm ? 1 : 0);
  if (mlstm && (config.qkv_blocksize < 1 || width % config.qkv_blocksize != 0))
    throw_error(ErrorKind::kUsage, "{}: qkv_blocksize is {}, wanted a divisor of its width {}",
                place, config.qkv_blocksize, width);
  if (mlstm && config.cell.chunk_size < 1)
    throw_error(ErrorKind::kUsage, "{}: chunk_size is {}, wanted at least 1", place,
                config.cell.chunk_size);
  if (mlstm && !config.cell.normalize && config.cell.input_gate != InputGate::kSigmoid)
    throw_error(ErrorKind::kUsage,
                "{}: normalize is false with exponential input gates, wanted sigmoid ones", place);
}

}  // namespace

std::int64_t XlstmBlockConfig::inner_dim() const {
  return round_up_to_64(proj_factor * static_cast<double>(embed_dim));
}

std::int64_t XlstmBlockConfig::ffn_dim() const {
  return round_up_to_64(ffn_factor * static_cast<double>(embed_dim));
}

std::shared_ptr<XlstmBlock> make_xlstm_block(const XlstmBlockConfig& config) {
  check(config);
  switch (config.kind) {
    case XlstmBlockKind::kMlstm:
      return std::make_shared<MlstmBlock>(config);
    case XlstmBlockKind::kSlstm:
    case XlstmBlockKind::kLstm:
    case XlstmBlockKind::kGru:
    case XlstmBlockKind::kElman:
      return make_post_up_block(config);
  }
  throw_error(ErrorKind::kInternal, "xLSTM block kind {} is unknown",
              static_cast<int>(config.kind));
}

torch::Tensor residual_norm(const torch::Tensor& x, const torch::Tensor& weight) {
  return at::layer_norm(x, {weight.size(0)}, weight + 1, {}, kBlockNormEps);
}

}  // namespace lram::model
