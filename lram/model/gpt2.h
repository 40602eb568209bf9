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
  std::int64_t window = 150;         ///< W: a token sees itself and the W - 1 before it
  bool rope = false;                 ///< rotate queries and keys instead of adding from a table
  std::int64_t num_positions = 450;  ///< rows of that table
  Activation activation = Activation::kGelu;  ///< LRAM's erf form; Hugging Face's default is tanh
};

/// The Decision Transformer's backbone (Chen et al. 2021): GPT-2 blocks with Hugging Face's names
/// and layouts, Conv1D weights [in, out]. A token's position is its index since the episode's
/// start, wherever the window begins. The state is a ring of the last W keys and values of each
/// layer, so its size does not grow; forward() over any pieces equals one forward() over all.
/// With `rope` (Su et al. 2021), features j and j + d/2 of a head are a pair that turns by
/// position * 10000^(-2j/d) rad, as in Llama; wpe is absent and an episode may be of any length.
class Gpt2Backbone : public Backbone {
 public:
  /// Random weights as in GPT-2: N(0, 0.02), and 0.02 / sqrt(2 num_blocks) before a residual sum.
  explicit Gpt2Backbone(const Gpt2Config& config);

  const Gpt2Config& config() const { return config_; }

  BackboneState initial_state(std::int64_t batch,
                              const torch::Tensor& first_position = {}) const override;
  bool uses_positions() const override { return true; }
  /// An empty state is a fresh start, of which nothing is asked on the host: it can be recorded as
  /// a CUDA graph. Throws Error(kUsage) when a token's position lies behind the table, if there is
  /// one.
  Output forward(const torch::Tensor& x, const BackboneState& state, const SequenceMask& mask = {},
                 FinalState final_state = FinalState::kKept) override;
  /// forward() that also gives the residual stream behind every block, [B, T, D] each.
  Output forward(const torch::Tensor& x, const BackboneState& state, const SequenceMask& mask,
                 std::vector<torch::Tensor>* blocks_out);
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

  std::vector<StateField> state_fields() const;
  /// `fresh`: no row of the state has seen a token, or stands behind position 0.
  Plan plan(const BackboneState& state, bool fresh, std::int64_t tokens,
            const SequenceMask& mask) const;
  torch::Tensor run(const torch::Tensor& x, BackboneState& state, const SequenceMask& mask,
                    bool in_place, std::vector<torch::Tensor>* blocks_out = nullptr);
  /// Attention of one block; replaces its ring.
  torch::Tensor attend(const Block& block, const torch::Tensor& x, const Plan& plan,
                       torch::Tensor& keys, torch::Tensor& values, bool in_place) const;
  torch::Tensor activate(const torch::Tensor& x) const;
  torch::Tensor norm(const torch::Tensor& x, const Affine& affine) const;

  Gpt2Config config_;
  torch::Tensor positions_;  // wpe.weight, undefined with rope
  std::vector<Block> blocks_;
  Affine ln_f_;
};

}  // namespace lram::model
