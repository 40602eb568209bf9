#pragma once
#include <cstdint>
#include <vector>

#include "lram/model/backbone.h"

namespace lram::model {
// B rows, T tokens, D embed_dim, H heads, W window.

enum class Activation { kGelu, kGeluTanh, kRelu };

struct Gpt2Config {
  std::int64_t embed_dim = 512;
  std::int64_t num_heads = 8;
  std::int64_t num_blocks = 4;
  std::int64_t window = 150;                  ///< W: a token sees itself and the W - 1 before it
  std::int64_t num_positions = 450;           ///< rows of the table of position embeddings
  Activation activation = Activation::kGelu;  ///< LRAM's erf form; Hugging Face's default is tanh
};

/// The Decision Transformer's backbone (Chen et al. 2021): GPT-2 blocks with Hugging Face's names
/// and layouts, Conv1D weights [in, out]. A token's position is its index since the episode's
/// start, wherever the window begins. The state is a ring of the last W keys and values of each
/// layer, so its size does not grow; forward() over any pieces equals one forward() over all.
class Gpt2Backbone : public Backbone {
 public:
  /// Random weights as in GPT-2: N(0, 0.02), and 0.02 / sqrt(2 num_blocks) before a residual sum.
  explicit Gpt2Backbone(const Gpt2Config& config);

  const Gpt2Config& config() const { return config_; }

  BackboneState initial_state(std::int64_t batch,
                              const torch::Tensor& first_position = {}) const override;
  /// Throws Error(kUsage) when a token's position lies behind the table.
  Output forward(const torch::Tensor& x, const BackboneState& state,
                 const SequenceMask& mask = {}) override;
  Output step(const torch::Tensor& x, const BackboneState& state,
              const torch::Tensor& active = {}) override;
  torch::Tensor advance(const torch::Tensor& x, BackboneState& state,
                        const SequenceMask& mask = {}) override;

 private:
  struct Affine {
    torch::Tensor weight, bias;
  };
  struct Block {
    Affine ln_1, attention, attention_out, ln_2, up, down;
  };
  struct Plan;

  Plan plan(const BackboneState& state, std::int64_t tokens, const SequenceMask& mask) const;
  torch::Tensor run(const torch::Tensor& x, BackboneState& state, const SequenceMask& mask,
                    bool in_place);
  /// Attention of one block; replaces its ring.
  torch::Tensor attend(const Block& block, const torch::Tensor& x, const Plan& plan,
                       torch::Tensor& keys, torch::Tensor& values, bool in_place) const;
  torch::Tensor activate(const torch::Tensor& x) const;
  torch::Tensor norm(const torch::Tensor& x, const Affine& affine) const;

  Gpt2Config config_;
  torch::Tensor positions_;  // wpe.weight
  std::vector<Block> blocks_;
  Affine ln_f_;
};

}  // namespace lram::model
