#pragma once
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "eval/probes/task.h"

namespace lram::eval::probes {

/// Everything that one training run of a probe follows from.
struct RunSettings {
  std::string task = {}, cell = {};  ///< task_names(), cell_names()
  double rate = 1e-3;                ///< peak learning rate of AdamW
  std::uint64_t seed = 0;            ///< of the data and of the initial weights

  std::int64_t embed_dim = 32, num_blocks = 2, num_heads = 1;
  std::int64_t steps = 1000, warmup = 100;  ///< a cosine to rate / 1000 follows
  std::int64_t batch_size = 64;
  double weight_decay = 0.1, max_grad_norm = 1.0;

  std::int64_t train_low = 3, train_high = 20;  ///< lengths, both included
  std::int64_t test_low = 20, test_high = 64;   ///< of validation and test
  std::vector<std::int64_t> curve = {};         ///< lengths that are tested one by one
  std::int64_t validation_sequences = 256, test_sequences = 1024, curve_sequences = 256;
  std::int64_t validate_every = 100;  ///< steps
  /// Training ends when the validation accuracy is here, or the error with real inputs; above 1, or
  /// below 0 there, it never ends early.
  double bar = 0.995;
  TaskOptions options = {};

  bool operator==(const RunSettings&) const = default;
};

void to_json(nlohmann::json& json, const RunSettings& settings);
void from_json(const nlohmann::json& json, RunSettings& settings);

/// Sets one number or flag, "embed_dim=64" or "options.num_pairs=8". Throws Error(kUsage) that
/// names the field and what was wanted.
void set_field(RunSettings& settings, const std::string& assignment);

/// The sizes that tasks are run at: "cpu", minutes on two cores, and "full", the published recipe
/// (adaptation.md 5). What follows throws Error(kUsage) that lists the known names.
std::vector<std::string> preset_names();
std::vector<std::string> preset_tasks(const std::string& preset);
/// Settings without a cell, with the first of the preset's rates.
RunSettings preset_settings(const std::string& preset, const std::string& task);
/// The learning rates that each cell may try, in this order.
std::vector<double> preset_rates(const std::string& preset);

}  // namespace lram::eval::probes
