#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "lram/core/options.h"

namespace lram::training {

/// Which data, and what the policy makes of it. The initializers are the only defaults; a recipe's
/// keys are `data.<field>`.
struct DataConfig {
  std::string files;                     ///< data sets, one task each, "a.h5,b.h5"
  double validation_fraction = 0.025;    ///< of each task's episodes, at least one
  std::uint64_t split_seed = 1;          ///< of the choice of validation episodes
  std::string obs_normalization = "on";  ///< on, or none (LRAM)
  double obs_std_floor = 1e-2;           ///< a smaller standard deviation counts as this
  double obs_clip = 10.0;                ///< normalised entries are cut to [-clip, clip]
};

/// One training run. A step is one update of the weights: one micro-batch per domain, all with the
/// same weight (LRAM's accumulation). A recipe's keys are `train.<field>`.
struct TrainConfig {
  std::int64_t steps = 1000;
  std::int64_t batch_size = 32;  ///< windows of a micro-batch
  std::string batch_sizes;       ///< other sizes for some domains, "grid=8,atari=16"
  /// Time steps of a window, 0 = model.context_length.
  std::int64_t window_steps = 0;
  /// Windows walk through whole episodes and each goes on from the state after the one before
  /// (truncated backpropagation through time); false: all start from an empty state, as in LRAM.
  bool carry_state = false;
  std::uint64_t seed = 0;  ///< of weights and windows

  double peak_lr = 1e-4;
  double min_lr = 1e-6;
  std::int64_t warmup_steps = 100;  ///< then a cosine to min_lr at the last step
  double weight_decay = 0.01;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double max_grad_norm = 0.25;

  std::string device = "cpu";           ///< cpu, cuda or cuda:N
  std::int64_t log_every = 10;          ///< steps between lines of metrics
  std::int64_t validate_every = 100;    ///< steps, 0 = never
  std::int64_t validation_batches = 4;  ///< per domain
  std::int64_t checkpoint_every = 500;  ///< steps; the last step always has one
  std::int64_t keep_checkpoints = 2;    ///< newest ones, 0 = all
  /// Stops with a checkpoint after this wall time, 0 = never. The learning rate follows the steps
  /// alone, so resuming goes on as if nothing had happened.
  double max_seconds = 0.0;
};

void describe(po::options_description& options, DataConfig& config);
void describe(po::options_description& options, TrainConfig& config);
/// Throw Error(kUsage) that names the key, its value and what was wanted.
void validate(const DataConfig& config);
void validate(const TrainConfig& config);

/// Windows of a micro-batch of `domain`.
std::int64_t batch_size_of(const TrainConfig& config, const std::string& domain);
/// The domains that train.batch_sizes names.
std::vector<std::string> domains_with_batch_size(const TrainConfig& config);

/// Whether a resumed run may have another value: keys that no number of the run depends on.
bool may_change_on_resume(const std::string& key);

}  // namespace lram::training
