#pragma once
#include <torch/nn/module.h>
#include <torch/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace lram::model {
// B rows, T tokens, D embed_dim.

/// Which tokens count. Tokens outside [begin, end) change nothing and may hold anything, NaN too;
/// before a token with `reset` the state is that of a fresh start.
struct SequenceMask {
  torch::Tensor reset = {};  ///< [B, T] uint8, undefined = none
  torch::Tensor begin = {};  ///< [B] int32, undefined = 0
  torch::Tensor end = {};    ///< [B] int32, undefined = T
};

/// What a backbone remembers between calls: tensors whose first dimension is B, in an order that
/// only the backbone knows. Cells, convolution windows, key-value rings and positions alike.
struct BackboneState {
  std::vector<torch::Tensor> tensors;

  bool empty() const { return tensors.empty(); }
  std::int64_t bytes() const;    ///< memory of all rows
  BackboneState detach() const;  ///< cut from the graph (truncated backpropagation through time)
  BackboneState clone() const;
  /// Copies the given rows (int64 indices) of `source` into this state's rows of the same index.
  void copy_rows(const BackboneState& source, const torch::Tensor& rows);
};

/// One tensor of a state: what errors call it, and its shape behind the batch.
struct StateField {
  std::string name;
  std::vector<std::int64_t> shape;
};

/// A state of `batch` rows, all zeros.
BackboneState zero_state(const std::vector<StateField>& fields, std::int64_t batch,
                         const torch::TensorOptions& options);

/// Throws Error(kUsage) that names the field, its shape and the wanted one, unless `state` is empty
/// or has these fields: a state of another model, or of another batch.
void check_state(const char* model, const std::vector<StateField>& fields,
                 const BackboneState& state, std::int64_t batch);

/// Whether forward() owes the state behind its last token. Training on windows that start fresh
/// wants none, and an mLSTM then has quicker ways.
enum class FinalState { kKept, kDropped };

/// A sequence model that continues from a state: xLSTM, or a Transformer with its cache. forward()
/// over any pieces, chunk sizes and masks, and step() token by token, are one function up to
/// rounding.
class Backbone : public torch::nn::Module {
 public:
  struct Output {
    torch::Tensor hidden;  ///< [B, T, D], zero where a token does not count
    BackboneState state;   ///< after the last token that counts; may be empty if dropped
  };

  /// State of rows that have seen nothing. `first_position` [B] int64: tokens of the episode that
  /// came before (windows that begin late; only position embeddings use it), undefined = 0.
  virtual BackboneState initial_state(std::int64_t batch,
                                      const torch::Tensor& first_position = {}) const = 0;
  /// Whether first_position matters. Where it does not, an empty state is a fresh start.
  virtual bool uses_positions() const { return false; }
  /// x: [B, T, D]. The given state is never written into; empty = fresh.
  virtual Output forward(const torch::Tensor& x, const BackboneState& state,
                         const SequenceMask& mask = {},
                         FinalState final_state = FinalState::kKept) = 0;
  /// One token, x: [B, D]; rows with `active` (bool [B], undefined = all) false keep their state
  /// and give zeros. hidden: [B, D]. Unless overridden, forward() of a sequence of one token.
  virtual Output step(const torch::Tensor& x, const BackboneState& state,
                      const torch::Tensor& active = {});
  /// forward() that replaces `state` and, where no gradients are recorded, may write into its
  /// tensors, which nobody else then shares: what an agent calls at every step. Returns hidden.
  virtual torch::Tensor advance(const torch::Tensor& x, BackboneState& state,
                                const SequenceMask& mask = {});
};

}  // namespace lram::model
