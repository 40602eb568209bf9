#include "lram/model/xlstm_backbone.h"

#include <algorithm>
#include <charconv>
#include <span>
#include <utility>

#include "lram/core/error.h"
#include "lram/core/options.h"
#include "lram/model/named_parameter.h"
#include "lram/model/token_mask.h"

namespace lram::model {
using torch::Tensor;

std::vector<std::int64_t> parse_slstm_at(const std::string& text, std::int64_t num_blocks) {
  std::vector<std::int64_t> out;
  if (text.empty()) return out;
  for (const std::string& item : split_list(text, "model.slstm_at")) {
    std::int64_t block = -1;
    const auto [end, error] = std::from_chars(item.data(), item.data() + item.size(), block);
    if (error != std::errc() || end != item.data() + item.size() || block < 0 ||
        block >= num_blocks)
      throw_error(ErrorKind::kUsage,
                  "model.slstm_at: '{}' in '{}' is not a block, wanted numbers from 0 to {}", item,
                  text, num_blocks - 1);
    if (std::find(out.begin(), out.end(), block) != out.end())
      throw_error(ErrorKind::kUsage, "model.slstm_at: block {} stands twice in '{}', wanted once",
                  block, text);
    out.push_back(block);
  }
  std::sort(out.begin(), out.end());
  return out;
}

MlstmOptions mlstm_options(const PolicyConfig& config) {
  return {.input_gate = config.input_gate == "sigmoid" ? InputGate::kSigmoid : InputGate::kExp,
          .normalize = config.normalize,
          .eps = config.cell_eps,
          .chunk_size = config.chunk_size};
}

std::vector<XlstmBlockConfig> xlstm_blocks(const PolicyConfig& config) {
  std::vector<XlstmBlockConfig> out = xlstm_blocks(config, XlstmBlockKind::kMlstm);
  for (const std::int64_t index : parse_slstm_at(config.slstm_at, config.num_blocks))
    out[static_cast<std::size_t>(index)].kind = XlstmBlockKind::kSlstm;
  return out;
}

std::vector<XlstmBlockConfig> xlstm_blocks(const PolicyConfig& config, XlstmBlockKind kind) {
  std::vector<XlstmBlockConfig> out;
  for (std::int64_t index = 0; index < config.num_blocks; ++index)
    out.push_back({.kind = kind,
                   .embed_dim = config.embed_dim,
                   .num_heads = config.num_heads,
                   .conv_kernel = config.conv_kernel,
                   .qkv_blocksize = config.qkv_blocksize,
                   .cell = mlstm_options(config),
                   .ffn_factor = config.ffn_factor,
                   .index = index,
                   .num_blocks = config.num_blocks});
  return out;
}

XlstmBackbone::XlstmBackbone(const std::vector<XlstmBlockConfig>& blocks) {
  LRAM_CHECK(!blocks.empty(), "xLSTM: no blocks, wanted at least one");
  const auto list = register_module("blocks", std::make_shared<torch::nn::Module>("blocks"));
  for (const XlstmBlockConfig& config : blocks) {
    LRAM_CHECK(config.embed_dim == blocks[0].embed_dim, "xLSTM: block ", blocks_.size(),
               " has embed_dim ", config.embed_dim, ", wanted ", blocks[0].embed_dim);
    blocks_.push_back(
        list->register_module(std::to_string(blocks_.size()), make_xlstm_block(config)));
    const std::vector<StateField> fields = blocks_.back()->state_fields();
    state_sizes_.push_back(fields.size());
    for (const StateField& field : fields)
      fields_.push_back(
          {"block " + std::to_string(blocks_.size() - 1) + " " + field.name, field.shape});
  }
  norm_ = add_parameter(*this, "post_blocks_norm.weight", torch::zeros({blocks[0].embed_dim}));
}

BackboneState XlstmBackbone::initial_state(std::int64_t batch, const Tensor& first_position) const {
  (void)first_position;  // nothing here knows positions
  return zero_state(fields_, batch, norm_.options());
}

Backbone::Output XlstmBackbone::forward(const Tensor& x, const BackboneState& state,
                                        const SequenceMask& mask, FinalState final_state) {
  LRAM_CHECK(x.dim() == 3 && x.size(2) == norm_.size(0), "xLSTM: x is ", x.sizes().vec(),
             ", wanted [B, T, ", norm_.size(0), "]");
  check_state("xLSTM", fields_, state, x.size(0));
  const TokenMask resolved = resolve_mask(mask, x.size(0), x.size(1));
  const SequenceMask needed = without_trivial_parts(mask, resolved);

  Output out = {zero_masked(x, resolved.valid), {}};
  std::span<const Tensor> rest(state.tensors);
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    const std::size_t count = state.empty() ? 0 : state_sizes_[i];
    XlstmBlock::Output block =
        blocks_[i]->forward(out.hidden, rest.first(count), needed, final_state);
    rest = rest.subspan(count);
    out.hidden = std::move(block.x);
    if (final_state == FinalState::kDropped) continue;
    for (Tensor& tensor : block.state) out.state.tensors.push_back(std::move(tensor));
  }
  out.hidden = zero_masked(residual_norm(out.hidden, norm_), resolved.valid);
  return out;
}

}  // namespace lram::model
