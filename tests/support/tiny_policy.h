#pragma once
#include <ATen/Parallel.h>
#include <torch/utils.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "envs/environment.h"
#include "lram/core/manifest.h"
#include "lram/model/policy.h"

namespace lram::test {

/// A config that builds and runs in milliseconds, for both backbones.
inline model::PolicyConfig tiny_config(const std::string& backbone = "xlstm") {
  model::PolicyConfig config;
  config.backbone = backbone;
  config.embed_dim = 32;
  config.num_blocks = 2;
  config.num_heads = 4;
  config.context_length = 8;
  config.slstm_at = backbone == "xlstm" ? std::string("1") : std::string();
  config.max_episode_steps = 1000;
  return config;
}

/// A task table entry as training would leave it, with made-up statistics.
inline tokenization::TaskEntry entry_of(const TaskSpec& spec) {
  tokenization::TaskEntry entry;
  entry.spec = spec;
  entry.reward_scale = spec.reward_scale;
  entry.target_return = 100.0;
  entry.data_mean = 80.0;
  entry.random_mean = 5.0;
  const auto n = static_cast<std::size_t>(spec.observation.vector_size);
  entry.obs_mean.assign(n, 0.25);
  entry.obs_std.assign(n, 2.0);
  entry.first_seed = 0;
  entry.last_seed = 99;
  return entry;
}

/// A policy with random weights that knows `tasks`. From here on LibTorch runs on one thread: more
/// only wait for each other in models this small.
inline std::shared_ptr<model::Policy> tiny_policy(const model::PolicyConfig& config,
                                                  const std::vector<std::string>& tasks,
                                                  std::uint64_t seed = 0) {
  at::set_num_threads(1);
  torch::manual_seed(seed);
  auto policy = std::make_shared<model::Policy>(config);
  policy->eval();
  tokenization::TaskTable table;
  for (const std::string& task : tasks) table.add(entry_of(envs::make(task)->spec()));
  policy->set_tasks(std::move(table));
  return policy;
}

/// Writes the files of a checkpoint that load_policy() reads into a new folder.
inline void write_checkpoint(const model::Policy& policy, const std::filesystem::path& folder) {
  std::filesystem::create_directories(folder);
  model::save_policy_files(policy, folder);
  write_manifest(folder);
}

}  // namespace lram::test
