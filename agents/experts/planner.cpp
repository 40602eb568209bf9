#include "agents/experts/planner.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "lram/core/error.h"

namespace lram::agents::experts {

Planner::Planner(std::string_view task, const PlannerConfig& config, std::size_t num_threads)
    : config_(config), pool_(num_threads) {
  for (std::size_t i = 0; i < pool_.size(); ++i) {
    Worker worker{.env = envs::make(task), .action = {}};
    worker.action.resize(static_cast<std::size_t>(worker.env->spec().action.size));
    workers_.push_back(std::move(worker));
  }
  action_spec_ = workers_.front().env->spec().action;
  bool bounded = !action_spec_.discrete;
  for (std::size_t i = 0; bounded && i < action_spec_.low.size(); ++i)
    bounded = std::isfinite(action_spec_.low[i]) && std::isfinite(action_spec_.high[i]);
  if (!bounded)
    throw_error(ErrorKind::kUsage,
                "agent 'planner' cannot act in task '{}': it wants continuous actions with finite "
                "bounds",
                workers_.front().env->spec().id);

  const auto samples = static_cast<std::size_t>(config_.samples);
  action_size_ = static_cast<std::size_t>(action_spec_.size);
  plan_size_ = static_cast<std::size_t>(config_.horizon) * action_size_;
  plan_.resize(plan_size_);
  candidates_.resize(samples * plan_size_);
  values_.resize(samples);
  periods_.resize(samples);
  previous_.resize(action_size_);
  weights_.resize(static_cast<std::size_t>(std::min(config_.elites, config_.samples)));
  for (std::size_t rank = 0; rank < weights_.size(); ++rank)
    weights_[rank] = std::log(static_cast<double>(weights_.size()) + 0.5) -
                     std::log(static_cast<double>(rank) + 1.0);
  const double sum = std::accumulate(weights_.begin(), weights_.end(), 0.0);
  for (double& weight : weights_) weight /= sum;
}

void Planner::begin_episode(const envs::Environment& /*env*/, std::uint64_t seed) {
  seed_ = seed;
  plans_ = 0;
  period_ = 1;
  executed_ = 0;
  std::fill(plan_.begin(), plan_.end(), 0.0f);
  std::fill(previous_.begin(), previous_.end(), 0.0f);
}

void Planner::act(const envs::Environment& env, std::span<const float> /*obs*/,
                  std::span<float> action) {
  if (executed_ == 0 || executed_ == static_cast<std::size_t>(config_.replan_every)) {
    shift();
    plan(env);
  }
  const std::span scaled = std::span(plan_).subspan(executed_ * action_size_, action_size_);
  to_task_units(scaled, action);
  std::copy(scaled.begin(), scaled.end(), previous_.begin());
  ++executed_;
}

void Planner::to_task_units(std::span<const float> scaled, std::span<float> action) const {
  for (std::size_t i = 0; i < action.size(); ++i) {
    const double low = action_spec_.low[i], high = action_spec_.high[i];
    action[i] = static_cast<float>(low + (high - low) * 0.5 * (scaled[i] + 1.0));
  }
}

// Drops the executed steps; those that come into view repeat the plan's rhythm, or its last action.
void Planner::shift() {
  const auto dropped = static_cast<std::ptrdiff_t>(executed_ * action_size_);
  std::shift_left(plan_.begin(), plan_.end(), dropped);
  for (std::size_t i = plan_size_ - executed_ * action_size_; i < plan_size_; ++i)
    plan_[i] = plan_[i - period_ * action_size_];
  executed_ = 0;
}

void Planner::plan(const envs::Environment& env) {
  const std::vector<std::byte> state = env.save_state();
  std::vector<std::size_t> order(values_.size());
  std::vector<double> sum(plan_size_);
  for (int iteration = 0; iteration < config_.iterations; ++iteration) {
    const std::uint64_t round = plans_++;
    pool_.for_each(values_.size(), [&](std::size_t index, std::size_t worker) {
      make_candidate(index, round);
      values_[index] = rollout(workers_[worker], state, index);
    });
    std::iota(order.begin(), order.end(), std::size_t{0});
    // Ties go to the lower index, the unchanged plan first.
    std::stable_sort(order.begin(), order.end(),
                     [&](std::size_t a, std::size_t b) { return values_[a] > values_[b]; });
    period_ = periods_[order.front()];
    std::fill(sum.begin(), sum.end(), 0.0);
    for (std::size_t rank = 0; rank < weights_.size(); ++rank)
      for (std::size_t i = 0; i < plan_size_; ++i)
        sum[i] += weights_[rank] * candidates_[order[rank] * plan_size_ + i];
    std::transform(sum.begin(), sum.end(), plan_.begin(),
                   [](double value) { return static_cast<float>(value); });
  }
}

// Candidate 0 is the plan itself. The noise of the others is a function of seed, round and index.
void Planner::make_candidate(std::size_t index, std::uint64_t round) {
  const std::span candidate = std::span(candidates_).subspan(index * plan_size_, plan_size_);
  std::copy(plan_.begin(), plan_.end(), candidate.begin());
  periods_[index] = period_;
  if (index == 0) return;
  const auto gaps = static_cast<double>(std::max<std::size_t>(1, values_.size() - 2));
  const double place = static_cast<double>(index - 1) / gaps;
  const double width = config_.noise * std::pow(config_.narrow_noise / config_.noise, place);
  CounterRng rng(seed_, index, round << 20);
  if (rng.uniform() < config_.rhythm_share) {
    const auto spread = static_cast<std::uint64_t>(config_.max_period - config_.min_period + 1);
    const std::size_t period = static_cast<std::size_t>(config_.min_period) + rng.below(spread);
    const std::size_t cycle = period * action_size_;
    add_noise(candidate.first(cycle), std::max<std::size_t>(2, (period + 1) / 3), true, width, rng);
    for (std::size_t i = cycle; i < plan_size_; ++i) candidate[i] = candidate[i - cycle];
    periods_[index] = period;
  } else {
    add_noise(candidate, static_cast<std::size_t>(config_.knots), false, width, rng);
  }
}

// Piecewise linear noise; a closed spline ends where it begins.
void Planner::add_noise(std::span<float> actions, std::size_t knots, bool closed, double width,
                        CounterRng& rng) const {
  const std::size_t steps = actions.size() / action_size_, gaps = closed ? knots : knots - 1;
  std::vector<double> knot(knots * action_size_);
  for (double& value : knot) value = width * rng.normal();
  for (std::size_t i = 0; i < actions.size(); ++i) {
    const double at = static_cast<double>(i / action_size_ * gaps) / static_cast<double>(steps);
    const auto left = static_cast<std::size_t>(at), right = (left + 1) % knots;
    const double right_share = at - static_cast<double>(left);
    const double noise = (1.0 - right_share) * knot[left * action_size_ + i % action_size_] +
                         right_share * knot[right * action_size_ + i % action_size_];
    actions[i] = static_cast<float>(std::clamp(actions[i] + noise, -1.0, 1.0));
  }
}

// A candidate that drives the simulation to divergence comes last.
double Planner::rollout(Worker& worker, std::span<const std::byte> state,
                        std::size_t candidate) const {
  std::span<const float> before = previous_;
  double value = 0.0;
  worker.env->load_state(state);
  for (std::size_t i = 0; i < plan_size_; i += action_size_) {
    const auto scaled =
        std::span<const float>(candidates_).subspan(candidate * plan_size_ + i, action_size_);
    to_task_units(scaled, worker.action);
    envs::StepResult result;
    try {
      result = worker.env->step(worker.action, {});
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kCheckFailed) throw;
      return std::numeric_limits<double>::lowest();
    }
    double effort = 0.0, change = 0.0;
    for (std::size_t k = 0; k < action_size_; ++k) {
      effort += static_cast<double>(scaled[k]) * scaled[k];
      change += static_cast<double>(scaled[k] - before[k]) * (scaled[k] - before[k]);
    }
    before = scaled;
    value += worker.env->planning_reward(result.reward) -
             (config_.effort_cost * effort + config_.change_cost * change) /
                 static_cast<double>(action_size_);
    if (result.done()) break;
  }
  return value;
}

}  // namespace lram::agents::experts
