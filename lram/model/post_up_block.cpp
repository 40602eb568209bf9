#include "lram/model/post_up_block.h"

#include <c10/core/impl/LocalDispatchKeySet.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "lram/core/error.h"
#include "lram/model/block_linear.h"
#include "lram/model/block_parts.h"
#include "lram/model/named_parameter.h"
#include "lram/model/rnn_cell.h"
#include "lram/model/slstm_cell.h"

namespace lram::model {
namespace {
using torch::Tensor;

/// The recurrent part of a block, with the head-wise projections before it.
class PostUpCell {
 public:
  struct Output {
    Tensor h;      ///< [B, T, D]
    Tensor state;  ///< [B, S, D]
  };

  virtual ~PostUpCell() = default;
  virtual std::int64_t num_states() const = 0;  ///< S
  /// conv, plain: [B, T, D], the inputs behind and before the convolution.
  virtual Output forward(const Tensor& conv, const Tensor& plain, const Tensor& state,
                         const SequenceMask& mask) const = 0;
};

/// Forget gates between e^5 : 1 for the first unit of a head and 1 : e^7 for the last, nearer to
/// the latter in later blocks. [H, d].
Tensor forget_bias_init(const XlstmBlockConfig& config) {
  const std::int64_t unit = config.embed_dim / config.num_heads;
  const double depth = config.num_blocks > 1 ? static_cast<double>(config.index) /
                                                   static_cast<double>(config.num_blocks - 1)
                                             : 0.0;
  const Tensor place = torch::arange(unit, torch::kDouble) /
                       static_cast<double>(std::max<std::int64_t>(unit - 1, 1));
  return (5.0 - 12.0 * place.pow(0.3 + 1.3 * depth))
      .to(torch::kFloat)
      .expand({config.num_heads, unit});
}

class SlstmPart : public PostUpCell {
 public:
  SlstmPart(torch::nn::Module& block, const XlstmBlockConfig& config) {
    const std::int64_t dim = config.embed_dim, heads = config.num_heads, unit = dim / heads;
    // Slots i, f, z, o. The package feeds `fgate` into slot i and `igate` into slot f.
    const char* const names[4] = {"fgate", "igate", "zgate", "ogate"};
    for (std::size_t i = 0; i < 4; ++i)
      gates_[i] = add_parameter(block, std::string("xlstm.") + names[i] + ".weight",
                                small_init({heads, unit, unit}, dim));
    recurrent_ = add_parameter(block, "xlstm.slstm_cell._recurrent_kernel_",
                               torch::zeros({heads, 4 * unit, unit}));
    Tensor bias = torch::zeros({4, heads, unit});
    bias.select(0, 1).copy_(forget_bias_init(config));
    bias_ = add_parameter(block, "xlstm.slstm_cell._bias_", bias.flatten());
  }

  std::int64_t num_states() const override { return 4; }

  Output forward(const Tensor& conv, const Tensor& plain, const Tensor& state,
                 const SequenceMask& mask) const override {
    SlstmOutput out = slstm_forward(gate_inputs(conv, plain), recurrent_, bias_, state, mask);
    return {out.h, out.state};
  }

 private:
  /// [B, T, 4D], slots i, f, z, o; in float32 under autocast too.
  Tensor gate_inputs(const Tensor& conv, const Tensor& plain) const {
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    const Tensor c = conv.to(recurrent_.dtype()), y = plain.to(recurrent_.dtype());
    return at::cat({block_linear(c, gates_[0]), block_linear(c, gates_[1]),
                    block_linear(y, gates_[2]), block_linear(y, gates_[3])},
                   -1);
  }

  Tensor gates_[4], recurrent_, bias_;
};

/// LSTM, GRU or Elman. Initial values are those of torch.nn's (flashrnn has none of its own).
class RnnPart : public PostUpCell {
 public:
  RnnPart(torch::nn::Module& block, const XlstmBlockConfig& config, RnnKind kind) : kind_(kind) {
    const std::int64_t dim = config.embed_dim, heads = config.num_heads, unit = dim / heads;
    const RnnGates n = rnn_gates(kind);
    for (const char gate : input_names())
      gates_.push_back(add_parameter(block, fmt::format("xlstm.{}gate.weight", gate),
                                     small_init({heads, unit, unit}, dim)));
    recurrent_ = add_parameter(block, "xlstm.rnn_cell.R",
                               uniform_init({n.recurrent, heads, unit, unit}, unit));
    bias_ = add_parameter(block, "xlstm.rnn_cell.b", uniform_init({n.biases, heads, unit}, unit));
  }

  std::int64_t num_states() const override { return rnn_gates(kind_).states; }

  Output forward(const Tensor& conv, const Tensor& plain, const Tensor& state,
                 const SequenceMask& mask) const override {
    const RnnOutput out =
        rnn_forward(kind_, gate_inputs(conv, plain), recurrent_, bias_, state, mask);
    return {out.h, out.last};
  }

 private:
  /// One letter per input gate, in the cell's order; the candidate is z (lstm, elman) or n (gru).
  std::string_view input_names() const {
    return kind_ == RnnKind::kLstm ? "ifzo" : kind_ == RnnKind::kGru ? "rzn" : "z";
  }
  /// As the sLSTM's: what decides about keeping sees the convolution, the rest does not.
  bool sees_conv(std::size_t gate) const { return kind_ != RnnKind::kElman && gate < 2; }
  /// In float32 under autocast too.
  Tensor gate_inputs(const Tensor& conv, const Tensor& plain) const {
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    const Tensor c = conv.to(recurrent_.dtype()), y = plain.to(recurrent_.dtype());
    std::vector<Tensor> inputs;
    for (std::size_t i = 0; i < gates_.size(); ++i)
      inputs.push_back(block_linear(sees_conv(i) ? c : y, gates_[i]));
    return at::cat(inputs, -1);
  }

  RnnKind kind_;
  std::vector<Tensor> gates_;
  Tensor recurrent_, bias_;
};

std::unique_ptr<PostUpCell> make_cell(torch::nn::Module& block, const XlstmBlockConfig& config) {
  switch (config.kind) {
    case XlstmBlockKind::kLstm:
      return std::make_unique<RnnPart>(block, config, RnnKind::kLstm);
    case XlstmBlockKind::kGru:
      return std::make_unique<RnnPart>(block, config, RnnKind::kGru);
    case XlstmBlockKind::kElman:
      return std::make_unique<RnnPart>(block, config, RnnKind::kElman);
    default:
      return std::make_unique<SlstmPart>(block, config);
  }
}

class PostUpBlock : public XlstmBlock {
 public:
  explicit PostUpBlock(const XlstmBlockConfig& config) : config_(config) {
    const std::int64_t dim = config.embed_dim, ffn = config.ffn_dim();
    norm_ = add_parameter(*this, "xlstm_norm.weight", torch::zeros({dim}));
    if (config.conv_kernel > 0 && config.kind != XlstmBlockKind::kElman)
      conv_ = std::make_unique<ConvBranch>(*this, "xlstm.conv1d.conv", dim, config.conv_kernel);
    cell_ = make_cell(*this, config);
    head_norm_ = add_parameter(*this, "xlstm.group_norm.weight", torch::zeros({dim}));
    if (ffn == 0) return;
    ffn_norm_ = add_parameter(*this, "ffn_norm.weight", torch::zeros({dim}));
    up_ = add_parameter(*this, "ffn.proj_up.weight", small_init({2 * ffn, dim}, dim));
    down_ =
        add_parameter(*this, "ffn.proj_down.weight", wang_init({dim, ffn}, config.num_blocks, dim));
    if (!config.bias) return;
    up_bias_ = add_parameter(*this, "ffn.proj_up.bias", torch::zeros({2 * ffn}));
    down_bias_ = add_parameter(*this, "ffn.proj_down.bias", torch::zeros({dim}));
  }

  std::vector<StateField> state_fields() const override {
    std::vector<StateField> fields = {{"cell", {cell_->num_states(), config_.embed_dim}}};
    if (conv_) fields.push_back(conv_->window());
    return fields;
  }

  Output forward(const Tensor& x, std::span<const Tensor> state, const SequenceMask& mask,
                 FinalState) override {
    const std::int64_t batch = x.size(0), tokens = x.size(1), dim = x.size(2);
    Tensor before, window;
    if (!state.empty()) before = state[0];
    if (!state.empty() && conv_) window = state[1];

    const Tensor y = residual_norm(x, norm_);
    const Tensor conv = conv_ ? conv_->forward(y, window, mask) : y;
    PostUpCell::Output cell = cell_->forward(conv, y, before, mask);
    const Tensor by_head = cell.h.view({batch, tokens, config_.num_heads, -1});
    const Tensor normed = at::layer_norm(by_head, {by_head.size(3)}, {}, {}, kBlockNormEps)
                              .view({batch, tokens, dim});
    Output out = {at::addcmul(x, normed, head_norm_ + 1), {cell.state}};
    if (conv_) out.state.push_back(window);
    if (!up_.defined()) return out;
    const auto wide = at::linear(residual_norm(out.x, ffn_norm_), up_, up_bias_).chunk(2, -1);
    out.x = out.x + at::linear(at::gelu(wide[0]) * wide[1], down_, down_bias_);
    return out;
  }

 private:
  XlstmBlockConfig config_;
  std::unique_ptr<ConvBranch> conv_;
  std::unique_ptr<PostUpCell> cell_;
  Tensor norm_, head_norm_, ffn_norm_, up_, up_bias_, down_, down_bias_;
};

}  // namespace

std::shared_ptr<XlstmBlock> make_post_up_block(const XlstmBlockConfig& config) {
  return std::make_shared<PostUpBlock>(config);
}

}  // namespace lram::model
