#pragma once
#include <torch/types.h>

#include <cstdint>
#include <filesystem>
#include <future>
#include <memory>
#include <vector>

#include "lram/model/policy.h"
#include "lram/training/batch.h"
#include "lram/training/config.h"
#include "lram/training/metrics.h"
#include "lram/training/optimizer.h"
#include "lram/training/schedule.h"
#include "lram/training/training_data.h"

namespace lram::training {

/// Where `train.device` points. Throws Error(kUsage) for an unknown one, Error(kResource) for a GPU
/// that this machine or build does not have.
torch::Device training_device(const std::string& name);

struct StepReport {
  double rate = 0.0;        ///< learning rate of the step
  double grad_norm = 0.0;   ///< global, before clipping
  TaskTallies tallies;      ///< of the step's micro-batches
  std::int64_t tokens = 0;  ///< real ones
};

/// Next-action training of a policy: per step one micro-batch of each domain, in the order of the
/// data, their mean losses weighing the same, one clipped AdamW update. What a step does follows
/// from the config, the data and the step's number alone, so a restored trainer goes on exactly as
/// the one that was saved would have (same machine and number of threads).
class Trainer {
 public:
  /// Moves the policy to the config's device. `data` outlives the trainer. Throws Error(kUsage)
  /// naming what does not fit together.
  Trainer(const TrainConfig& config, std::shared_ptr<model::Policy> policy,
          const TrainingData& data);
  ~Trainer();

  /// One update of the weights. Throws Error(kCheckFailed) that names step and domain on a loss or
  /// gradient that is not finite; the weights are then those of the step before.
  StepReport step();
  /// Steps taken, those before a restore included.
  std::int64_t num_steps() const { return num_steps_; }
  /// Loss and accuracy on the validation episodes, always on the same windows.
  TaskTallies validate();

  const model::Policy& policy() const { return *policy_; }
  /// Writes a checkpoint's files: the policy's, and training_state/ with all else that a later step
  /// depends on.
  void save(const std::filesystem::path& checkpoint) const;
  /// Continues from a checkpoint whose policy this trainer was given. Throws Error(kInput).
  void restore(const std::filesystem::path& checkpoint);

  /// Tallies since the last time that they were taken; part of what is saved.
  TaskTallies take_tallies();

 private:
  struct Forward {
    torch::Tensor loss;  // mean over the counted entries, a scalar
    TaskTallies tallies;
    model::BackboneState state;
  };
  Forward forward(const MicroBatch& batch, const model::BackboneState& carried);
  std::int64_t batch_size(std::size_t domain) const;
  WindowStream stream(std::size_t domain, Half half, std::uint64_t next) const;
  void start_streams();
  void load_ahead(std::size_t domain);
  std::int64_t num_domains() const { return std::ssize(data_.domains()); }

  TrainConfig config_;
  const TrainingData& data_;
  torch::Device device_;
  std::shared_ptr<model::Policy> policy_;
  std::int64_t window_steps_;
  BatchBuilder builder_;
  torch::Tensor legal_classes_;  // BatchBuilder's, on the device
  Optimizer optimizer_;
  Schedule schedule_;  // in micro-steps
  std::int64_t num_steps_ = 0;
  std::vector<WindowStream> streams_;          // by domain
  std::vector<model::BackboneState> carried_;  // by domain, empty where windows start afresh
  std::future<MicroBatch> next_batch_;         // built while the one before trains
  TaskTallies tallies_;
};

}  // namespace lram::training
