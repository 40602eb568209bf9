#include "lram/model/gpt2.h"

#include <torch/utils.h>

#include <cmath>
#include <limits>

#include "lram/core/error.h"
#include "lram/model/named_parameter.h"
#include "lram/model/token_mask.h"

namespace lram::model {
namespace {
constexpr double kLayerNormEps = 1e-5;
constexpr double kInitStd = 0.02;

// State: position and seen [B] int64, then keys and values [B, H, W, D / H] of each block. `seen`
// counts the tokens since the state was fresh; token number u of them lies in ring slot u mod W.
constexpr std::size_t kPosition = 0, kSeen = 1, kRings = 2;

constexpr double kRopeBase = 10000.0;

/// Turns the pairs (j, j + d/2) of x [B, H, T, d] by angle [B, 1, T, d/2], cosine and sine given.
torch::Tensor rotate(const torch::Tensor& x, const torch::Tensor& cosine,
                     const torch::Tensor& sine) {
  const auto half = x.chunk(2, -1);
  return torch::cat({half[0] * cosine - half[1] * sine, half[1] * cosine + half[0] * sine}, -1);
}
}  // namespace

/// Where the tokens of one call stand, the same for every block.
struct Gpt2Backbone::Plan {
  torch::Tensor valid;         ///< [B, T] bool, undefined = all
  torch::Tensor position;      ///< [B, T] int64, row of wpe
  torch::Tensor cosine, sine;  ///< [B, 1, T, d/2] of the angles of rope, undefined without it
  torch::Tensor sees_new;      ///< [B, 1, T, T] bool, query by new key
  torch::Tensor sees_ring;     ///< [B, 1, T, W] bool, undefined when no ring holds a token
  torch::Tensor kept;          ///< [B, T] bool, tokens that are in the ring afterwards
  torch::Tensor slot;          ///< [B, T] int64, the slot of each token
  torch::Tensor next_position, next_seen;  ///< [B] int64
};

Gpt2Backbone::Gpt2Backbone(const Gpt2Config& config) : config_(config) {
  const std::int64_t dim = config.embed_dim;
  LRAM_CHECK(config.num_heads >= 1 && dim % config.num_heads == 0, "gpt2: embed_dim ", dim,
             " does not divide into ", config.num_heads, " heads");
  LRAM_CHECK(config.window >= 1 && (config.rope || config.num_positions >= 1), "gpt2: window ",
             config.window, ", positions ", config.num_positions, ", wanted at least 1 of each");
  const auto affine = [&](const std::string& name, torch::Tensor weight, std::int64_t out) {
    return Affine{add_parameter(*this, name + ".weight", std::move(weight)),
                  add_parameter(*this, name + ".bias", torch::zeros({out}))};
  };
  const auto norm_of = [&](const std::string& name) {
    return affine(name, torch::ones({dim}), dim);
  };
  const auto linear_of = [&](const std::string& name, std::int64_t in, std::int64_t out,
                             double std) {
    return affine(name, torch::empty({in, out}).normal_(0.0, std), out);
  };
  const double residual_std = kInitStd / std::sqrt(2.0 * static_cast<double>(config.num_blocks));
  if (config.rope)
    LRAM_CHECK(dim / config.num_heads % 2 == 0, "gpt2: heads of width ", dim / config.num_heads,
               ", rope wants an even one");
  else
    positions_ = add_parameter(*this, "wpe.weight",
                               torch::empty({config.num_positions, dim}).normal_(0.0, kInitStd));
  for (std::int64_t i = 0; i < config.num_blocks; ++i) {
    const std::string h = "h." + std::to_string(i);
    blocks_.push_back({.ln_1 = norm_of(h + ".ln_1"),
                       .attention = linear_of(h + ".attn.c_attn", dim, 3 * dim, kInitStd),
                       .attention_out = linear_of(h + ".attn.c_proj", dim, dim, residual_std),
                       .ln_2 = norm_of(h + ".ln_2"),
                       .up = linear_of(h + ".mlp.c_fc", dim, 4 * dim, kInitStd),
                       .down = linear_of(h + ".mlp.c_proj", 4 * dim, dim, residual_std)});
  }
  ln_f_ = norm_of("ln_f");
}

BackboneState Gpt2Backbone::initial_state(std::int64_t batch,
                                          const torch::Tensor& first_position) const {
  const auto options = ln_f_.weight.options().requires_grad(false);
  const auto integers = options.dtype(torch::kInt64);
  BackboneState state;
  state.tensors.push_back(first_position.defined() ? first_position.to(integers).clone()
                                                   : torch::zeros({batch}, integers));
  LRAM_CHECK(state.tensors[0].dim() == 1 && state.tensors[0].size(0) == batch,
             "gpt2: first_position has ", state.tensors[0].numel(), " entries, wanted ", batch);
  state.tensors.push_back(torch::zeros({batch}, integers));
  const auto fields = state_fields();
  const BackboneState rings = zero_state({fields.begin() + kRings, fields.end()}, batch, options);
  state.tensors.insert(state.tensors.end(), rings.tensors.begin(), rings.tensors.end());
  return state;
}

std::vector<StateField> Gpt2Backbone::state_fields() const {
  const std::int64_t heads = config_.num_heads;
  std::vector<StateField> fields = {{"position", {}}, {"seen", {}}};
  for (std::int64_t i = 0; i < config_.num_blocks; ++i)
    for (const char* ring : {" keys", " values"})
      fields.push_back({"block " + std::to_string(i) + ring,
                        {heads, config_.window, config_.embed_dim / heads}});
  return fields;
}

Gpt2Backbone::Plan Gpt2Backbone::plan(const BackboneState& state, bool fresh, std::int64_t tokens,
                                      const SequenceMask& mask) const {
  const torch::Tensor& seen = state.tensors[kSeen];
  const std::int64_t batch = seen.size(0), window = config_.window;
  const TokenMask token_mask = resolve_mask(mask, batch, tokens);
  const torch::Tensor index = torch::arange(tokens, seen.options());  // [T]
  Plan plan;
  plan.valid = token_mask.valid;
  const torch::Tensor valid =
      plan.valid.defined() ? plan.valid
                           : torch::ones({batch, tokens}, seen.options().dtype(torch::kBool));

  // Number of the token among those that count; a reset restarts count, position and segment.
  const torch::Tensor count = valid.to(torch::kInt64).cumsum(1) - 1;  // [B, T]
  torch::Tensor number = seen.unsqueeze(1) + count;
  plan.position = state.tensors[kPosition].unsqueeze(1) + count;
  torch::Tensor segment = torch::zeros({batch, tokens}, seen.options());
  if (token_mask.reset.defined()) {
    const torch::Tensor begin =
        std::get<0>(torch::where(token_mask.reset, count, -1).cummax(1));  // of the segment
    segment = token_mask.reset.to(torch::kInt64).cumsum(1);
    number = torch::where(begin >= 0, count - begin, number);
    plan.position = torch::where(begin >= 0, count - begin, plan.position);
  }

  const torch::Tensor query = index.unsqueeze(1), key = index.unsqueeze(0);
  const torch::Tensor distance = count.unsqueeze(2) - count.unsqueeze(1);  // [B, T, T]
  torch::Tensor sees_new = (key <= query) & (distance < window) & valid.unsqueeze(1) &
                           (segment.unsqueeze(2) == segment.unsqueeze(1));
  sees_new = sees_new | (key == query);  // so that no softmax is empty, pads included
  plan.sees_new = sees_new.unsqueeze(1);

  if (!fresh && seen.any().item<bool>()) {
    // Newest token that slot j can hold: the last number below `seen` that is j modulo W.
    const torch::Tensor slots = torch::arange(window, seen.options());
    const torch::Tensor last = seen.unsqueeze(1) - 1;                          // [B, 1]
    const torch::Tensor held = last - torch::remainder(last - slots, window);  // [B, W]
    const torch::Tensor age = number.unsqueeze(2) - held.unsqueeze(1);         // [B, T, W]
    plan.sees_ring = ((held >= 0).unsqueeze(1) & (age < window) & (segment == 0).unsqueeze(2) &
                      valid.unsqueeze(2))
                         .unsqueeze(1);
  }

  // What is left of this call afterwards: the tokens of its last segment.
  const torch::Tensor stays = valid & (segment == segment.narrow(1, tokens - 1, 1));
  const auto after_last = [&](const torch::Tensor& x, const torch::Tensor& none) {
    const torch::Tensor last = std::get<0>(torch::where(stays, x, -1).max(1));
    return torch::where(valid.any(1), last + 1, none);
  };
  plan.next_seen = after_last(number, seen);
  plan.next_position = after_last(plan.position, state.tensors[kPosition]);
  plan.kept = stays & (number >= plan.next_seen.unsqueeze(1) - window);
  plan.slot = torch::remainder(number, window);

  plan.position = torch::where(valid, plan.position, 0);
  if (config_.rope) {
    // In float64: a float32 angle of a long episode would be off by more than its neighbours.
    const std::int64_t half = config_.embed_dim / config_.num_heads / 2;
    const auto doubles = seen.options().dtype(torch::kDouble);
    const torch::Tensor speed =
        (torch::arange(half, doubles) * (-std::log(kRopeBase) / static_cast<double>(half))).exp();
    const torch::Tensor angle =
        (plan.position.to(torch::kDouble).unsqueeze(-1) * speed).unsqueeze(1);
    plan.cosine = angle.cos().to(ln_f_.weight.scalar_type());
    plan.sine = angle.sin().to(ln_f_.weight.scalar_type());
    return plan;
  }
  if (fresh && tokens <= config_.num_positions)
    return plan;  // no position is past the last token's
  const auto largest = plan.position.max().item<std::int64_t>();
  LRAM_CHECK(largest < config_.num_positions, "gpt2: token ", largest,
             " of the episode lies behind the table of ", config_.num_positions,
             " positions (3 tokens per step); train with a larger model.max_episode_steps");
  return plan;
}

torch::Tensor Gpt2Backbone::norm(const torch::Tensor& x, const Affine& affine) const {
  return torch::layer_norm(x, {config_.embed_dim}, affine.weight, affine.bias, kLayerNormEps);
}

torch::Tensor Gpt2Backbone::activate(const torch::Tensor& x) const {
  switch (config_.activation) {
    case Activation::kGelu:
      return torch::gelu(x);
    case Activation::kGeluTanh:
      return torch::gelu(x, "tanh");
    case Activation::kRelu:
      return torch::relu(x);
  }
  throw_error(ErrorKind::kInternal, "gpt2: no such activation");
}

torch::Tensor Gpt2Backbone::attend(const Block& block, const torch::Tensor& x, const Plan& plan,
                                   torch::Tensor& keys, torch::Tensor& values,
                                   bool in_place) const {
  const std::int64_t batch = x.size(0), tokens = x.size(1), heads = config_.num_heads;
  const std::int64_t head_dim = config_.embed_dim / heads, window = config_.window;
  const auto qkv = (torch::matmul(x, block.attention.weight) + block.attention.bias)
                       .view({batch, tokens, 3, heads, head_dim})
                       .permute({2, 0, 3, 1, 4});  // [3, B, H, T, D / H]
  torch::Tensor query = qkv[0] * (1.0 / std::sqrt(static_cast<double>(head_dim)));
  torch::Tensor new_keys = qkv[1];
  const torch::Tensor new_values = qkv[2];
  if (config_.rope) {
    query = rotate(query, plan.cosine, plan.sine);
    new_keys = rotate(new_keys, plan.cosine, plan.sine);
  }

  constexpr double kNever = -std::numeric_limits<double>::infinity();
  torch::Tensor scores =
      torch::matmul(query, new_keys.transpose(-2, -1)).masked_fill(~plan.sees_new, kNever);
  torch::Tensor out;
  if (plan.sees_ring.defined()) {
    // Two products instead of one over the joined keys: joining would copy the whole ring.
    const torch::Tensor ring =
        torch::matmul(query, keys.transpose(-2, -1)).masked_fill(~plan.sees_ring, kNever);
    const torch::Tensor weights = torch::cat({ring, scores}, -1).softmax(-1);
    out = torch::matmul(weights.narrow(-1, 0, window), values) +
          torch::matmul(weights.narrow(-1, window, tokens), new_values);
  } else {
    out = torch::matmul(scores.softmax(-1), new_values);
  }

  if (in_place) {
    const auto where = plan.kept.nonzero().unbind(1);  // row and token of each that is kept
    const torch::Tensor slot = plan.slot.index({where[0], where[1]});
    const auto all = torch::indexing::Slice();
    keys.index_put_({where[0], all, slot}, new_keys.index({where[0], all, where[1]}));
    values.index_put_({where[0], all, slot}, new_values.index({where[0], all, where[1]}));
  } else {
    // source[b, j]: the token that goes into slot j, or none; column W takes those not kept.
    const torch::Tensor source =
        torch::full({batch, window + 1}, -1, plan.slot.options())
            .scatter(1, torch::where(plan.kept, plan.slot, window),
                     torch::arange(tokens, plan.slot.options()).expand({batch, tokens}))
            .narrow(1, 0, window)
            .view({batch, 1, window, 1});
    const torch::Tensor take = source.clamp_min(0).expand({batch, heads, window, head_dim});
    keys = torch::where(source >= 0, new_keys.gather(2, take), keys);
    values = torch::where(source >= 0, new_values.gather(2, take), values);
  }
  out = out.transpose(1, 2).reshape({batch, tokens, config_.embed_dim});
  return torch::matmul(out, block.attention_out.weight) + block.attention_out.bias;
}

torch::Tensor Gpt2Backbone::run(const torch::Tensor& input, BackboneState& state,
                                const SequenceMask& mask, bool in_place,
                                std::vector<torch::Tensor>* blocks_out) {
  LRAM_CHECK(input.dim() == 3 && input.size(2) == config_.embed_dim, "gpt2: tokens of shape ",
             input.sizes().vec(), ", wanted [B, T, ", config_.embed_dim, "]");
  check_state("gpt2", state_fields(), state, input.size(0));
  const bool fresh = state.empty();
  if (fresh) state = initial_state(input.size(0));
  const Plan plan = this->plan(state, fresh, input.size(1), mask);
  torch::Tensor x = zero_masked(input, plan.valid);
  if (positions_.defined()) x = x + torch::embedding(positions_, plan.position);
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    const Block& block = blocks_[i];
    x = x + attend(block, norm(x, block.ln_1), plan, state.tensors[kRings + 2 * i],
                   state.tensors[kRings + 2 * i + 1], in_place);
    const torch::Tensor up = torch::matmul(norm(x, block.ln_2), block.up.weight) + block.up.bias;
    x = x + torch::matmul(activate(up), block.down.weight) + block.down.bias;
    if (blocks_out != nullptr) blocks_out->push_back(x);
  }
  state.tensors[kPosition] = plan.next_position;
  state.tensors[kSeen] = plan.next_seen;
  return zero_masked(norm(x, ln_f_), plan.valid);
}

Backbone::Output Gpt2Backbone::forward(const torch::Tensor& x, const BackboneState& state,
                                       const SequenceMask& mask, FinalState) {
  return forward(x, state, mask, nullptr);
}

Backbone::Output Gpt2Backbone::forward(const torch::Tensor& x, const BackboneState& state,
                                       const SequenceMask& mask,
                                       std::vector<torch::Tensor>* blocks_out) {
  Output out{{}, state};
  out.hidden = run(x, out.state, mask, /*in_place=*/false, blocks_out);
  return out;
}

torch::Tensor Gpt2Backbone::advance(const torch::Tensor& x, BackboneState& state,
                                    const SequenceMask& mask) {
  return run(x, state, mask, /*in_place=*/!torch::GradMode::is_enabled());
}

}  // namespace lram::model
