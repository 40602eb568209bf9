#include "lram/model/policy.h"

#include <torch/nn/modules/linear.h>
#include <torch/nn/modules/normalization.h>
#include <torch/utils.h>

#include "lram/core/error.h"
#include "lram/model/backbones.h"
#include "lram/model/image_encoder.h"
#include "lram/model/token_mask.h"
#include "lram/tokenization/sequence.h"

namespace lram::model {
using tokenization::kReturnToken;
using tokenization::kTokensPerStep;
namespace {
constexpr double kInitStd = 0.02;  // of encoders and head, Hugging Face's initializer_range
constexpr std::int64_t kImageChannels = 3;

/// A batch's steps [begin, end) as a mask of tokens.
SequenceMask token_mask_of(const WindowBatch& batch) {
  SequenceMask mask;
  if (batch.begin.defined()) mask.begin = batch.begin * kTokensPerStep;
  if (batch.end.defined()) mask.end = batch.end * kTokensPerStep;
  return mask;
}
}  // namespace

Policy::Policy(const PolicyConfig& config) : config_(config) {
  validate(config);
  const torch::NoGradGuard no_grad;
  const std::int64_t dim = config.embed_dim;
  const auto linear = [](torch::nn::Module& parent, const std::string& name, std::int64_t in,
                         std::int64_t out) {
    const auto module =
        parent.register_module(name, std::make_shared<torch::nn::LinearImpl>(in, out));
    module->weight.normal_(0.0, kInitStd);
    module->bias.zero_();
    return module;
  };
  embed_state_ = linear(*this, "embed_state", config.state_dim, dim);
  embed_return_ = linear(*this, "embed_return", 1, dim);
  embed_rewards_ = linear(*this, "embed_rewards", 1, dim);
  embed_ln_ = register_module(
      "embed_ln", std::make_shared<torch::nn::LayerNormImpl>(torch::nn::LayerNormOptions({dim})));
  if (config.image_size > 0)
    embed_image_ = register_module("embed_image", make_image_encoder(config));
  backbone_ = make_backbone(config);
  // A Transformer and Mamba are an `encoder` of their own in LRAM.
  if (config.backbone != "gpt2" && config.backbone != "mamba") {
    const auto encoder = register_module("encoder", std::make_shared<torch::nn::Module>());
    encoder->register_module("layers", backbone_);
    // LRAM's embed_bias_init "normal", which it uses for the xLSTM alone.
    for (const auto& bias :
         {embed_ln_->bias, embed_state_->bias, embed_return_->bias, embed_rewards_->bias})
      torch::Tensor(bias).normal_(0.0, kInitStd);
  } else {
    register_module("encoder", backbone_);
  }
  const auto head = register_module("action_net", std::make_shared<torch::nn::Module>());
  action_net_ = linear(*head, "0", dim, config.action_slots * config.num_classes());
}

torch::Device Policy::device() const { return embed_ln_->weight.device(); }
torch::ScalarType Policy::dtype() const { return embed_ln_->weight.scalar_type(); }

torch::Tensor Policy::embed_observation(const torch::Tensor& state, const torch::Tensor& image) {
  if (image.defined()) {
    LRAM_CHECK(embed_image_ != nullptr,
               "the policy was built without an image encoder (model.image_size = 0)");
    const std::vector<std::int64_t> want = {kImageChannels, config_.image_size, config_.image_size};
    LRAM_CHECK(image.sizes().slice(image.dim() - 3) == at::IntArrayRef(want), "images of shape ",
               image.sizes().vec(), ", the policy wants ", want, " behind the batch");
    const auto features = embed_image_->forward(image.flatten(0, -4));
    auto shape = image.sizes().slice(0, image.dim() - 3).vec();
    shape.push_back(config_.embed_dim);
    return features.view(shape);
  }
  LRAM_CHECK(state.defined() && state.size(-1) == config_.state_dim, "states of width ",
             state.defined() ? state.size(-1) : 0,
             ", the policy has state_dim = ", config_.state_dim);
  return embed_state_->forward(state.to(dtype()));
}

torch::Tensor Policy::embed(const WindowBatch& batch) {
  const std::int64_t rows = batch.return_to_go.size(0), steps = batch.return_to_go.size(1);
  SequenceMask steps_mask;
  steps_mask.begin = batch.begin;
  steps_mask.end = batch.end;
  const torch::Tensor valid = resolve_mask(steps_mask, rows, steps).valid;
  // Pads may hold NaN: without this the gradient of an encoder's weight would be 0 x NaN.
  const auto clean = [&](const torch::Tensor& x) {
    return x.defined() ? zero_masked(x, valid) : x;
  };
  const auto scalar = [&](const torch::Tensor& x) { return clean(x).to(dtype()).unsqueeze(-1); };
  const torch::Tensor tokens =
      torch::stack({embed_observation(clean(batch.state), clean(batch.image)),
                    embed_return_->forward(scalar(batch.return_to_go)),
                    embed_rewards_->forward(scalar(batch.reward))},
                   /*dim=*/2);
  return embed_ln_->forward(tokens.flatten(1, 2));
}

torch::Tensor Policy::logits(const torch::Tensor& hidden) {
  auto shape = hidden.sizes().vec();
  shape.back() = config_.action_slots;
  shape.push_back(config_.num_classes());
  return action_net_->forward(hidden).view(shape);
}

BackboneState Policy::initial_state(std::int64_t batch, const torch::Tensor& first_step) const {
  return backbone_->initial_state(
      batch, first_step.defined() ? first_step * kTokensPerStep : torch::Tensor());
}

Policy::Output Policy::forward(const WindowBatch& batch, const BackboneState& state,
                               FinalState final_state) {
  const torch::Tensor tokens = embed(batch);
  const std::int64_t rows = tokens.size(0);
  const bool place = state.empty() && backbone_->uses_positions();
  Backbone::Output out =
      backbone_->forward(tokens, place ? initial_state(rows, batch.first_step) : state,
                         token_mask_of(batch), final_state);
  const torch::Tensor hidden =
      out.hidden.view({rows, -1, kTokensPerStep, config_.embed_dim}).select(2, kReturnToken);
  return {logits(hidden), std::move(out.state)};
}

torch::Tensor Policy::step(const StepInput& input, BackboneState& state) {
  const torch::NoGradGuard no_grad;
  const auto scalar = [&](const torch::Tensor& x) { return x.to(dtype()).unsqueeze(-1); };
  const torch::Tensor first = input.first.to(torch::kBool);
  // A reward that does not exist may hold anything.
  const torch::Tensor reward = input.previous_reward.masked_fill(first, 0.0);
  const torch::Tensor tokens = embed_ln_->forward(torch::stack(
      {embed_rewards_->forward(scalar(reward)), embed_observation(input.state, input.image),
       embed_return_->forward(scalar(input.return_to_go))},
      /*dim=*/1));
  SequenceMask mask;
  if (first.any().item<bool>()) {
    // Rows that begin an episode: no reward token, and a fresh state before the state token.
    mask.begin = first.to(torch::kInt32);
    mask.reset =
        torch::zeros({first.size(0), kTokensPerStep}, first.options().dtype(torch::kUInt8));
    mask.reset.select(1, 1).copy_(first);
  }
  const torch::Tensor hidden = backbone_->advance(tokens, state, mask);
  return logits(hidden.select(1, kTokensPerStep - 1));
}

}  // namespace lram::model
