#pragma once
#include <torch/types.h>

#include <cstdint>
#include <span>
#include <vector>

#include "datasets/sampler.h"
#include "lram/model/policy.h"
#include "lram/tokenization/action_codec.h"
#include "lram/tokenization/observation_encoder.h"
#include "lram/training/training_data.h"

namespace lram::training {
// B rows, S time steps of a window, A action slots, C classes, N counted (row, step, slot) triples.

/// One micro-batch: windows of one domain, padded on the left, and what the policy should do.
struct MicroBatch {
  model::WindowBatch inputs;
  // What counts in the loss.
  torch::Tensor slot;       ///< [N] int64, ascending, index into the B x S x A slots
  torch::Tensor target;     ///< [N] int64, class
  torch::Tensor legal_row;  ///< [N] int64, index into BatchBuilder::legal_classes()

  torch::Tensor fresh_rows;     ///< int64, rows that begin from an empty state
  std::int64_t real_steps = 0;  ///< time steps that are no pads

  MicroBatch to(torch::Device device) const;
};

/// Data-set windows -> micro-batches: observations normalised and placed, rewards and returns
/// divided by the task's scale, actions as classes. Safe to share between threads.
class BatchBuilder {
 public:
  /// `data` outlives the builder. Throws Error(kUsage) naming the task that does not fit the model:
  /// observations too wide, too many actions, images of another size, images beside vectors.
  BatchBuilder(const TrainingData& data, const model::PolicyConfig& model,
               std::int64_t window_steps);

  MicroBatch build(const TrainingDomain& domain, std::span<const datasets::Window> windows) const;
  /// [tasks x A, C] bool: classes that are legal in each slot of each task, by
  /// TrainingData::tasks().
  const torch::Tensor& legal_classes() const { return legal_classes_; }
  /// Index into TrainingData::tasks() of an entry of MicroBatch::legal_row.
  std::size_t task_of(std::int64_t legal_row) const {
    return static_cast<std::size_t>(legal_row / model_.action_slots);
  }

 private:
  struct Encoder {
    tokenization::ActionCodec action;
    tokenization::ObservationEncoder observation;
  };
  struct Counted {
    std::vector<std::int64_t> slot, target, legal_row;
  };
  void fill_inputs(std::size_t task, const datasets::Window& window, std::int64_t row,
                   model::WindowBatch& inputs) const;
  void fill_targets(std::size_t task, const datasets::Window& window, std::int64_t row,
                    Counted& counted) const;

  const TrainingData& data_;
  model::PolicyConfig model_;
  std::int64_t window_steps_;
  std::vector<Encoder> encoders_;  // by task
  torch::Tensor legal_classes_;
};

/// The windows of one domain, micro-batch after micro-batch: LRAM's sampler, or rows that walk
/// through whole episodes. Micro-batch n is a pure function of the data, the seed and n.
class WindowStream {
 public:
  /// `stream` tells apart streams of the same seed; `next` is the index of the first micro-batch.
  WindowStream(std::vector<datasets::Source> sources, std::int64_t window_steps,
               std::int64_t batch_size, bool carry_state, std::uint64_t seed, std::uint64_t stream,
               std::uint64_t next = 0);

  std::vector<datasets::Window> next();

 private:
  std::int64_t batch_size_;
  std::uint64_t next_;
  std::vector<datasets::WindowSampler> sampler_;  // one, or none where the state is carried
  std::vector<datasets::CarriedWalk> walks_;      // one per row where the state is carried
};

}  // namespace lram::training
