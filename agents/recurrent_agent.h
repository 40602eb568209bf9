#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "lram/core/spec.h"
#include "lram/model/policy.h"

namespace lram {
class ThreadPool;
}

namespace lram::agents {

/// What one environment shows before an action.
struct AgentInput {
  std::span<const float> vector = {};  ///< [vector_size] of its task
  float reward = 0.0f;                 ///< of the action before; not looked at when `first`
  bool first = false;                  ///< an episode begins: the row's memory becomes fresh
  bool active = true;                  ///< false: the row rests, and its next action is a first one
};

struct AgentOptions {
  enum class Mode {
    kCarried,  ///< the recurrent state since the episode's start
    kWindow,   ///< the last steps, recomputed from an empty state: LRAM's published way
  };
  Mode mode = Mode::kCarried;
  /// Length of the window, 0 = the policy's context_length.
  std::int64_t window_steps = 0;
  /// Return-to-go at the start of an episode, one per row, in the task's units; empty = the
  /// checkpoint's target_return.
  std::vector<double> target_returns = {};
  /// Rows go through the policy in groups of this size, the last one filled up, so that a row's
  /// numbers depend neither on the other rows nor on how many there are.
  std::int64_t rows_per_call = 8;
  /// Threads over which the groups are spread, 0 = one per core; changes no number while LibTorch
  /// itself runs on one.
  std::size_t num_threads = 1;
};

/// A policy with one row of memory per environment; rows may belong to different tasks. Feeds the
/// true reward of the step before, lowers the return-to-go by it, and takes for each action
/// dimension the most likely legal class, at its bin's centre. act() opens no file, prints nothing
/// and keeps its memory flat. Not thread-safe; agents may share a policy.
///   RecurrentAgent agent(load_policy("runs/small/checkpoints/last"), envs.specs());
///   agent.act(inputs, actions);
class RecurrentAgent {
 public:
  /// One row per spec. Throws Error(kUsage) for a task that the checkpoint does not know,
  /// Error(kInput) for one whose observation or action it knows otherwise.
  RecurrentAgent(std::shared_ptr<model::Policy> policy, std::span<const TaskSpec> specs,
                 AgentOptions options = {});
  ~RecurrentAgent();
  RecurrentAgent(RecurrentAgent&&) noexcept;

  std::size_t num_rows() const;
  const AgentOptions& options() const { return options_; }
  double target_return(std::size_t row) const;

  /// inputs, actions: one per row; actions[i] has action.size entries, in task units, and is
  /// written for active rows. Throws Error(kInput) naming the task when the policy's numbers are
  /// not finite.
  void act(std::span<const AgentInput> inputs, std::span<const std::span<float>> actions);

  /// What all rows remember, to go back to. A saved memory belongs to this agent alone.
  class Memory;
  std::shared_ptr<const Memory> save() const;
  void restore(const Memory& memory);

  /// Size of what all rows remember.
  std::int64_t state_bytes() const;

 private:
  struct Task;
  struct Row;
  struct Group;

  void act_group(Group& group, std::span<const AgentInput> inputs,
                 std::span<const std::span<float>> actions);
  void fill(Group& group, std::int64_t r, const AgentInput& input, const Row& row);

  std::shared_ptr<model::Policy> policy_;
  AgentOptions options_;
  std::vector<std::unique_ptr<Task>> tasks_;
  std::vector<Row> rows_;
  std::vector<Group> groups_;
  std::unique_ptr<ThreadPool> pool_;
};

}  // namespace lram::agents
