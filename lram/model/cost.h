#pragma once
#include <cstdint>

#include "lram/model/config.h"

namespace torch::nn {
class Module;
}

namespace lram::model {

/// What a policy takes, counted from the built module in float32 and for one environment (row).
///
/// FLOPs are multiplies and adds of linear maps, convolutions and memory; biases, norms,
/// activations and softmax are left out. A linear map takes two per weight and token. Memory takes,
/// per token:
///   mLSTM   5 K V + 5 K per head of key width K, value width V: c = f c + (i k) v^T and its
///           read-out, n likewise
///   sLSTM   7 per unit;  LSTM 4, GRU 6, Elman 0 (their recurrent matrices are linear maps)
///   Mamba   6 N + 5 per channel: decay's exponent, update and read-out of N states; dt u, d u
///   GPT-2   4 D W: scores and values over a full window of W tokens
/// An image encoder's maps count at every place that they meet, a ViL's memory at each patch as the
/// mLSTM's, a ViT's 4 D N over its N patches.
struct PolicyCost {
  std::int64_t parameters = 0;
  std::int64_t backbone_parameters = 0;
  std::int64_t state_bytes = 0;      ///< of BackboneState
  std::int64_t flops_per_token = 0;  ///< of the backbone
  std::int64_t flops_per_step = 0;   ///< three tokens, their encoders, the head
  /// Read and written at a step: each weight once, of a table of positions three rows; the state
  /// read and written, a Transformer's ring read and three tokens of it written.
  std::int64_t bytes_per_step = 0;
};

/// Builds the policy without memory for its weights and counts. Throws Error(kUsage) for a config
/// that validate() refuses.
PolicyCost policy_cost(const PolicyConfig& config);

/// Parameters of a module. Of one built within ShapesOnly, no memory is asked for.
std::int64_t parameter_count(const torch::nn::Module& module);

/// Parameters of LRAM's own model around this backbone (lram.md 2.1), which also has an encoder of
/// 64 x 64 images, a head that predicts states, tables of actions and time steps, and for a
/// Transformer 1600 positions: what its published counts hold.
std::int64_t lram_parameters(const PolicyConfig& config);

}  // namespace lram::model
