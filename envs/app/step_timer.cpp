#include "envs/app/step_timer.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "envs/mujoco/mujoco_environment.h"
#include "envs/vector_env.h"
#include "lram/core/error.h"
#include "lram/core/rng.h"

namespace lram::envs {
namespace {
using Clock = std::chrono::steady_clock;

constexpr std::size_t kTurn = 50;          // steps that one side runs before the other has its turn
constexpr std::size_t kSteps = 1000;       // per round, Environment
constexpr std::size_t kVectorSteps = 100;  // per round, each of VectorEnv's environments

template <typename Work>
double seconds(Work work) {
  const auto begin = Clock::now();
  work();
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

const MujocoEnvironment& as_mujoco(const Environment& env) {
  const auto* task = dynamic_cast<const MujocoEnvironment*>(&env);
  if (task == nullptr)
    throw_error(ErrorKind::kUsage, "{} is no MuJoCo task, so there is no mj_step loop beside it",
                env.spec().id);
  return *task;
}

// Random actions in the task's bounds, [rows, action size].
std::vector<float> random_actions(const TaskSpec& spec, std::size_t rows, std::uint64_t seed) {
  CounterRng rng(seed);
  const auto size = static_cast<std::size_t>(spec.action.size);
  std::vector<float> actions(rows * size);
  for (std::size_t i = 0; i < actions.size(); ++i) {
    const double low = spec.action.low[i % size], high = spec.action.high[i % size];
    actions[i] = static_cast<float>(low + (high - low) * rng.uniform());
  }
  return actions;
}

/// The loop to beat.
class BareLoop {
 public:
  explicit BareLoop(const MujocoEnvironment& env) : env_(env), data_(make_data(env.model())) {}

  /// Takes over the environment's state.
  void start() { mj_copyData(data_.get(), &env_.model(), &env_.data()); }
  void step(const float* action) {
    const mjModel* model = &env_.model();
    std::copy_n(action, model->nu, data_->ctrl);
    for (int i = 0; i < env_.sub_steps(); ++i) mj_step(model, data_.get());
  }

 private:
  const MujocoEnvironment& env_;
  DataPtr data_;
};

/// Seconds per round of both sides, and what to make of them.
class Rounds {
 public:
  explicit Rounds(const StepTimerOptions& options) : options_(options) {}

  bool enough() const {
    return std::ssize(ratios_) >= options_.rounds && total_s_ >= options_.min_seconds;
  }
  void add(double ours, double bare) {
    ours_.push_back(ours);
    bare_.push_back(bare);
    ratios_.push_back(bare / ours);
    total_s_ += ours + bare;
  }
  StepTiming timing(const MujocoEnvironment& env, std::size_t steps_per_round) const {
    const auto steps = static_cast<double>(steps_per_round);
    return {.task = env.spec().id,
            .sub_steps = env.sub_steps(),
            .rounds = static_cast<int>(ratios_.size()),
            .steps_per_s = steps / median(ours_),
            .bare_steps_per_s = steps / median(bare_),
            .ratio = median(ratios_)};
  }

 private:
  StepTimerOptions options_;
  std::vector<double> ours_, bare_, ratios_;
  double total_s_ = 0.0;
};
}  // namespace

double median(std::vector<double> values) {
  std::ranges::sort(values);
  const std::size_t middle = values.size() / 2;
  return values.size() % 2 != 0 ? values[middle] : (values[middle - 1] + values[middle]) / 2.0;
}

double geometric_mean(const std::vector<double>& values) {
  double sum = 0.0;
  for (const double value : values) sum += std::log(value);
  return std::exp(sum / static_cast<double>(values.size()));
}

StepTiming time_environment(const std::string& task, const StepTimerOptions& options) {
  const auto env = make(task);
  const MujocoEnvironment& mujoco = as_mujoco(*env);
  BareLoop bare(mujoco);
  const auto size = static_cast<std::size_t>(env->spec().action.size);
  const std::vector<float> actions = random_actions(env->spec(), kSteps, 1);
  std::vector<float> obs(static_cast<std::size_t>(env->spec().observation.vector_size));
  Rounds rounds(options);
  for (std::uint64_t round = 0; !rounds.enough(); ++round) {
    env->reset(round, {.vector = obs});
    bare.start();
    double ours_s = 0.0, bare_s = 0.0;
    for (std::size_t begin = 0; begin < kSteps; begin += kTurn) {
      const std::size_t end = std::min(begin + kTurn, kSteps);
      ours_s += seconds([&] {
        for (std::size_t t = begin; t < end; ++t)
          env->step(std::span(actions).subspan(t * size, size), {.vector = obs});
      });
      bare_s += seconds([&] {
        for (std::size_t t = begin; t < end; ++t) bare.step(actions.data() + t * size);
      });
    }
    rounds.add(ours_s, bare_s);
  }
  return rounds.timing(mujoco, kSteps);
}

StepTiming time_vector_env(const std::string& task, const StepTimerOptions& options) {
  const auto num_envs = static_cast<std::size_t>(options.num_envs);
  const auto num_threads = static_cast<std::size_t>(options.num_threads);
  VectorEnv envs(task, {.num_envs = num_envs, .num_threads = num_threads});
  const MujocoEnvironment& mujoco = as_mujoco(envs.at(0));
  std::vector<BareLoop> loops;
  for (std::size_t i = 0; i < num_envs; ++i) loops.emplace_back(as_mujoco(envs.at(i)));
  ThreadPool bare_threads(num_threads);
  const std::size_t row = num_envs * envs.action_width();
  const std::vector<float> actions = random_actions(envs.specs()[0], kVectorSteps * num_envs, 1);
  std::vector<float> obs(num_envs * envs.obs_width());
  std::vector<StepResult> results(num_envs);
  Rounds rounds(options);
  for (std::uint64_t round = 0; !rounds.enough(); ++round) {
    for (std::size_t i = 0; i < num_envs; ++i) {
      envs.reset(i, round * num_envs + i, {.obs = obs});
      loops[i].start();
    }
    double ours_s = 0.0, bare_s = 0.0;
    for (std::size_t begin = 0; begin < kVectorSteps; begin += kTurn) {
      const std::size_t end = std::min(begin + kTurn, kVectorSteps);
      ours_s += seconds([&] {
        for (std::size_t t = begin; t < end; ++t)
          envs.step(std::span(actions).subspan(t * row, row), results, {.obs = obs});
      });
      bare_s += seconds([&] {
        bare_threads.for_each(num_threads, [&](std::size_t thread, std::size_t) {
          for (std::size_t i = thread; i < num_envs; i += num_threads)
            for (std::size_t t = begin; t < end; ++t)
              loops[i].step(actions.data() + t * row + i * envs.action_width());
        });
      });
    }
    rounds.add(ours_s, bare_s);
  }
  return rounds.timing(mujoco, kVectorSteps * num_envs);
}
}  // namespace lram::envs
