#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "agents/experts/expert.h"
#include "lram/core/rng.h"
#include "lram/core/thread_pool.h"

namespace lram::agents::experts {

/// How the planner searches. Steps are control steps; actions are scaled to [-1, 1].
struct PlannerConfig {
  int horizon = 50;           ///< steps looked ahead
  int knots = 6;              ///< points of the piecewise linear noise over the horizon
  int samples = 16;           ///< rollouts per iteration
  int iterations = 1;         ///< per plan
  int replan_every = 2;       ///< steps executed per plan
  int elites = 4;             ///< best rollouts that are averaged, 1 = the best alone
  double noise = 0.5;         ///< standard deviation of the widest candidates
  double narrow_noise = 0.1;  ///< and of the narrowest; the others lie between, geometrically
  double rhythm_share = 0.0;  ///< of the candidates that repeat their first steps over and over
  int min_period = 6;         ///< steps after which they do, drawn between these
  int max_period = 16;
  double effort_cost = 0.0;  ///< per step, times the mean square of the action
  double change_cost = 0.0;  ///< per step, times the mean square change of the action
};

/// The settings for a task: its row in planner_settings.cpp, else the defaults above, changed by
/// `changes` ("horizon=80,samples=32"). Throws Error(kUsage) on an unknown name or bad value.
PlannerConfig planner_config(std::string_view task, const std::string& changes = {});
std::string to_string(const PlannerConfig& config);

/// Predictive sampling (Howell et al. 2022, "Predictive sampling: real-time behaviour synthesis
/// with MuJoCo", Sec. 4) with rank-weighted elites: tries noisy copies of the last plan on copies
/// of the simulator's state, averages the best ones and executes the beginning. The plan has one
/// action per step and is shifted as time goes on; only the noise is a spline. Candidates differ in
/// their noise width, so that the search is bold far from the goal and calm near it; some repeat a
/// short cycle, which finds gaits and the tapping that keeps a wheel spinning. What counts is the
/// environment's planning_reward. Needs bounded continuous actions.
class Planner : public Expert {
 public:
  Planner(std::string_view task, const PlannerConfig& config, std::size_t num_threads = 1);

  void begin_episode(const envs::Environment& env, std::uint64_t seed) override;
  void act(const envs::Environment& env, std::span<const float> obs,
           std::span<float> action) override;
  std::string settings() const override { return to_string(config_); }

 private:
  struct Worker {
    std::unique_ptr<envs::Environment> env;
    std::vector<float> action;
  };

  void plan(const envs::Environment& env);
  void shift();
  void make_candidate(std::size_t index, std::uint64_t round);
  void add_noise(std::span<float> actions, std::size_t knots, bool closed, double width,
                 CounterRng& rng) const;
  double rollout(Worker& worker, std::span<const std::byte> state, std::size_t candidate) const;
  void to_task_units(std::span<const float> scaled, std::span<float> action) const;

  PlannerConfig config_;
  ActionSpec action_spec_;
  std::size_t action_size_;
  std::size_t plan_size_;  ///< horizon x action size
  ThreadPool pool_;
  std::vector<Worker> workers_;
  std::vector<float> plan_;           ///< [horizon, action size]
  std::vector<float> candidates_;     ///< [samples, horizon, action size]
  std::vector<float> previous_;       ///< [action size], the action executed before the plan
  std::vector<std::size_t> periods_;  ///< [samples]
  std::vector<double> values_;        ///< [samples]
  std::vector<double> weights_;       ///< [elites], by rank, sums to 1
  std::uint64_t seed_ = 0, plans_ = 0;
  std::size_t period_ =
      1;  ///< steps after which the plan repeats itself; 1 = holds its last action
  std::size_t executed_ = 0;  ///< steps of the plan that are behind us
};

}  // namespace lram::agents::experts
