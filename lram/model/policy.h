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

namespace lram::model {
// B rows, S time steps, D embed_dim, A action slots, C classes (18 discrete ids + 256 bins).

/// Inputs of a batch of windows, tokenized (lram/tokenization). Pads may hold anything.
struct WindowBatch {
  torch::Tensor state;         ///< [B, S, state_dim] float32, normalised and placed in its slots
  torch::Tensor image;         ///< [B, S, C, H, W] uint8, undefined without images
  torch::Tensor return_to_go;  ///< [B, S] float32, divided by the task's reward_scale
  torch::Tensor reward;        ///< [B, S] float32, divided; r_t of the same step
  torch::Tensor begin, end;    ///< [B] int32, real steps are [begin, end); undefined = all
  torch::Tensor first_step;    ///< [B] int64, step in the episode of step `begin`; undefined = 0
};

/// What the agent knows before an action. Rows where `first` is set begin an episode: their state
/// becomes fresh and no reward token is fed (nothing stands for r_{-1}).
struct StepInput {
  torch::Tensor state;            ///< [B, state_dim] float32
  torch::Tensor image;            ///< [B, C, H, W] uint8, undefined without images
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
    BackboneState state;
  };

  explicit Policy(const PolicyConfig& config);

  const PolicyConfig& config() const { return config_; }
  /// The tasks that it was trained on: specs, scales, targets, normalisation. Empty until set.
  const tokenization::TaskTable& tasks() const { return tasks_; }
  void set_tasks(tokenization::TaskTable tasks) { tasks_ = std::move(tasks); }

  /// All tokens of the windows at once, from `state` (empty = fresh).
  Output forward(const WindowBatch& batch, const BackboneState& state = {});
  BackboneState initial_state(std::int64_t batch) const;
  /// One environment step for B rows: reward, state, return-to-go tokens. Logits [B, A, C]. `state`
  /// is replaced.
  torch::Tensor step(const StepInput& input, BackboneState& state);

  torch::Device device() const;

 private:
  PolicyConfig config_;
  tokenization::TaskTable tasks_;
};

/// Reads a checkpoint folder (config.json, model.safetensors, MANIFEST.json checked). Throws
/// Error(kInput) that names the file, the tensor and what was wanted.
std::shared_ptr<Policy> load_policy(const std::filesystem::path& checkpoint);

}  // namespace lram::model
