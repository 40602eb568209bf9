#pragma once
#include <torch/nn/module.h>
#include <torch/types.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "lram/model/backbone.h"
#include "lram/model/config.h"
#include "lram/tokenization/task_table.h"

namespace torch::nn {
class LayerNormImpl;
class LinearImpl;
}  // namespace torch::nn

namespace lram::model {
class ImageEncoder;
// B rows, S time steps, D embed_dim, A action slots, C classes (18 discrete ids + 256 bins).

/// Inputs of a batch of windows, tokenized (lram/tokenization). Pads may hold anything. The tasks
/// of a batch have either a vector or an image; with images `state` is not looked at.
struct WindowBatch {
  torch::Tensor state;         ///< [B, S, state_dim] float32, normalised and placed in its slots
  torch::Tensor image;         ///< [B, S, 3, H, W] uint8, undefined without images
  torch::Tensor return_to_go;  ///< [B, S] float32, divided by the task's reward_scale
  torch::Tensor reward;        ///< [B, S] float32, divided; r_t of the same step
  torch::Tensor begin, end;    ///< [B] int32, real steps are [begin, end); undefined = all
  /// [B] int64, step in the episode of step `begin`; undefined = 0. Not looked at when the windows
  /// go on from a state, which knows its own.
  torch::Tensor first_step;
};

/// What the agent knows before an action. Rows where `first` is set begin an episode: their state
/// becomes fresh and no reward token is fed (nothing stands for r_{-1}).
struct StepInput {
  torch::Tensor state;            ///< [B, state_dim] float32
  torch::Tensor image;            ///< [B, 3, H, W] uint8, undefined without images
  torch::Tensor return_to_go;     ///< [B] float32, divided by reward_scale
  torch::Tensor previous_reward;  ///< [B] float32, divided by reward_scale
  torch::Tensor first;            ///< [B] bool
};

/// LRAM's policy (arXiv 2410.22391, Sec. 3; lram.md 1): tokens state, return-to-go, reward; one
/// LayerNorm over the embeddings; a backbone; one linear head of A x C logits, read at the
/// return-to-go token. Weights carry the public names (golden/policy/README.md).
class Policy : public torch::nn::Module {
 public:
  struct Output {
    torch::Tensor logits;  ///< [B, S, A, C]
    BackboneState state;   ///< may be empty if dropped
  };

  /// Random weights as in LRAM (lram.md 2.3) from torch's generator. Throws Error(kUsage) for a
  /// config that validate() refuses.
  explicit Policy(const PolicyConfig& config);

  const PolicyConfig& config() const { return config_; }
  /// The tasks that it was trained on: specs, scales, targets, normalisation. Empty until set.
  const tokenization::TaskTable& tasks() const { return tasks_; }
  void set_tasks(tokenization::TaskTable tasks) { tasks_ = std::move(tasks); }

  /// All tokens of the windows at once, from `state` (empty = fresh), which is not written into.
  Output forward(const WindowBatch& batch, const BackboneState& state = {},
                 FinalState final_state = FinalState::kKept);
  /// State of rows that have seen nothing. first_step: as in WindowBatch.
  BackboneState initial_state(std::int64_t batch, const torch::Tensor& first_step = {}) const;
  /// One environment step for B rows: reward, state, return-to-go tokens. Logits [B, A, C]. `state`
  /// is replaced and its memory may be reused: keep a clone() of what must stay. Without gradients.
  torch::Tensor step(const StepInput& input, BackboneState& state);

  /// The stages of forward(), for tests and analysis: tokens after the norm [B, 3S, D]; hidden
  /// [.., D] -> logits [.., A, C].
  torch::Tensor embed(const WindowBatch& batch);
  torch::Tensor logits(const torch::Tensor& hidden);
  Backbone& backbone() { return *backbone_; }

  torch::Device device() const;
  torch::ScalarType dtype() const;  ///< of the weights; inputs are converted to it

 private:
  torch::Tensor embed_observation(const torch::Tensor& state, const torch::Tensor& image);

  PolicyConfig config_;
  tokenization::TaskTable tasks_;
  std::shared_ptr<torch::nn::LinearImpl> embed_state_, embed_return_, embed_rewards_, action_net_;
  std::shared_ptr<torch::nn::LayerNormImpl> embed_ln_;
  std::shared_ptr<ImageEncoder> embed_image_;  // null without images
  std::shared_ptr<Backbone> backbone_;
};

/// Reads a checkpoint folder, or a link to one: config.json, model.safetensors, checked against
/// MANIFEST.json. Throws Error(kInput) that names the file, the field or tensor, what was found and
/// what was wanted. The policy is on the CPU and in evaluation mode.
std::shared_ptr<Policy> load_policy(const std::filesystem::path& checkpoint);

/// Compares names, shapes and types of a checkpoint's tensors with those of the policy that its
/// config.json builds. Throws as load_policy(); neither checksums nor values are looked at.
void check_policy_tensors(const std::filesystem::path& checkpoint);

/// Writes config.json and model.safetensors into a folder that exists; the manifest is the
/// caller's. Throws Error(kResource).
void save_policy_files(const Policy& policy, const std::filesystem::path& folder);

}  // namespace lram::model
