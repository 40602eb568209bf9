#include "lram/model/backbones.h"

#include <fmt/core.h>

#include "lram/core/error.h"
#include "lram/core/text.h"
#include "lram/model/gpt2.h"
#include "lram/model/mamba.h"
#include "lram/model/xlstm_backbone.h"
#include "lram/model/xlstm_large.h"
#include "lram/tokenization/sequence.h"

namespace lram::model {
namespace {
using tokenization::kTokensPerStep;

/// Rows of the Transformer's table of positions, in longest episodes: an agent may run longer than
/// any episode of the data.
constexpr std::int64_t kPositionHeadroom = 3;

XlstmLargeConfig large_config(const PolicyConfig& config) {
  return {.embed_dim = config.embed_dim,
          .num_heads = config.num_heads,
          .num_blocks = config.num_blocks,
          .qk_dim_factor = config.qk_dim_factor,
          .ffn_factor = config.swiglu_factor,
          .gate_soft_cap = config.gate_soft_cap,
          .cell = mlstm_options(config)};
}

void check_mlstm(const PolicyConfig& c) {
  check_range("chunk_size", c.chunk_size, 1, 1 << 16);
  check_range("cell_eps", c.cell_eps, 0.0, 1.0);
  if (c.input_gate != "exp" && c.input_gate != "sigmoid")
    throw_error(ErrorKind::kUsage, "model.input_gate is '{}', wanted exp or sigmoid", c.input_gate);
  if (!c.normalize && c.input_gate == "exp")
    throw_error(ErrorKind::kUsage,
                "model.normalize is false, wanted true or else model.input_gate = sigmoid");
}

void check_xlstm_large(const PolicyConfig& c) {
  check_mlstm(c);
  check_range("qk_dim_factor", c.qk_dim_factor, 0.0, 64.0);
  check_range("swiglu_factor", c.swiglu_factor, 0.0, 64.0);
  check_range("gate_soft_cap", c.gate_soft_cap, 0.0, 1e6);
  const XlstmLargeConfig large = large_config(c);
  if (large.qk_dim() < 1)
    throw_error(ErrorKind::kUsage, "model.qk_dim_factor is {}, wanted at least 1 / embed_dim ({})",
                c.qk_dim_factor, c.embed_dim);
  if (large.ffn_dim() < 1)
    throw_error(ErrorKind::kUsage, "model.swiglu_factor is {}, wanted more than 0",
                c.swiglu_factor);
  check_divides(large.qk_dim(), "the width of queries and keys, embed_dim x qk_dim_factor",
                "num_heads", c.num_heads);
  check_divides(c.embed_dim, "embed_dim", "num_heads", c.num_heads);
}

void check_xlstm(const PolicyConfig& c) {
  check_mlstm(c);
  check_range("conv_kernel", c.conv_kernel, 1, 1 << 10);
  check_range("qkv_blocksize", c.qkv_blocksize, 1, 1 << 10);
  check_range("ffn_factor", c.ffn_factor, 0.0, 64.0);
  const std::int64_t inner = (2 * c.embed_dim + 63) / 64 * 64;
  const char* const width = "the mLSTM's width, 2 x embed_dim rounded up to 64";
  check_divides(inner, width, "num_heads", c.num_heads);
  check_divides(inner, width, "qkv_blocksize", c.qkv_blocksize);
  if (!parse_slstm_at(c.slstm_at, c.num_blocks).empty())
    check_divides(c.embed_dim, "embed_dim, as the sLSTM needs", "num_heads", c.num_heads);
}

/// Blocks of one kind with recurrence within heads.
void check_post_up(const PolicyConfig& c) {
  check_range("conv_kernel", c.conv_kernel, 0, 1 << 10);
  check_range("ffn_factor", c.ffn_factor, 0.0, 64.0);
  check_divides(c.embed_dim, "embed_dim", "num_heads", c.num_heads);
}

template <XlstmBlockKind kind>
std::shared_ptr<Backbone> make_post_up(const PolicyConfig& config) {
  return std::make_shared<XlstmBackbone>(xlstm_blocks(config, kind));
}

void check_gpt2(const PolicyConfig& c) {
  check_divides(c.embed_dim, "embed_dim", "num_heads", c.num_heads);
  if (c.positions == "learned") {
    check_range("max_episode_steps", c.max_episode_steps, 1, 1 << 24);
  } else if (c.positions != "rope") {
    throw_error(ErrorKind::kUsage, "model.positions is '{}', wanted learned or rope", c.positions);
  } else if (c.embed_dim / c.num_heads % 2 != 0) {
    throw_error(
        ErrorKind::kUsage,
        "model.num_heads is {}, which leaves heads of width {}, wanted an even one for rope",
        c.num_heads, c.embed_dim / c.num_heads);
  }
}

std::shared_ptr<Backbone> make_gpt2(const PolicyConfig& config) {
  return std::make_shared<Gpt2Backbone>(
      Gpt2Config{.embed_dim = config.embed_dim,
                 .num_heads = config.num_heads,
                 .num_blocks = config.num_blocks,
                 .window = kTokensPerStep * config.context_length,
                 .rope = config.positions == "rope",
                 .num_positions = kTokensPerStep * kPositionHeadroom * config.max_episode_steps});
}

void check_mamba(const PolicyConfig& c) { check_range("conv_kernel", c.conv_kernel, 1, 1 << 10); }

std::shared_ptr<Backbone> make_mamba(const PolicyConfig& config) {
  return std::make_shared<MambaBackbone>(MambaConfig{.embed_dim = config.embed_dim,
                                                     .num_blocks = config.num_blocks,
                                                     .conv_kernel = config.conv_kernel});
}

struct Kind {
  const char* name;
  void (*check)(const PolicyConfig&);
  std::shared_ptr<Backbone> (*make)(const PolicyConfig&);
};

const Kind kKinds[] = {
    {"xlstm", check_xlstm,
     [](const PolicyConfig& c) -> std::shared_ptr<Backbone> {
       return std::make_shared<XlstmBackbone>(c);
     }},
    {"xlstm_large", check_xlstm_large,
     [](const PolicyConfig& c) -> std::shared_ptr<Backbone> {
       return std::make_shared<XlstmLargeBackbone>(large_config(c));
     }},
    {"slstm", check_post_up, make_post_up<XlstmBlockKind::kSlstm>},
    {"lstm", check_post_up, make_post_up<XlstmBlockKind::kLstm>},
    {"gru", check_post_up, make_post_up<XlstmBlockKind::kGru>},
    {"elman", check_post_up, make_post_up<XlstmBlockKind::kElman>},
    {"mamba", check_mamba, make_mamba},
    {"gpt2", check_gpt2, make_gpt2},
};

const Kind& kind_of(const PolicyConfig& config) {
  for (const Kind& kind : kKinds)
    if (config.backbone == kind.name) return kind;
  throw_error(ErrorKind::kUsage, "model.backbone is '{}', wanted one of {}", config.backbone,
              joined(backbone_names()));
}
}  // namespace

std::vector<std::string> backbone_names() {
  std::vector<std::string> names;
  for (const Kind& kind : kKinds) names.push_back(kind.name);
  return names;
}

void validate_backbone(const PolicyConfig& config) { kind_of(config).check(config); }

std::shared_ptr<Backbone> make_backbone(const PolicyConfig& config) {
  return kind_of(config).make(config);
}

}  // namespace lram::model
