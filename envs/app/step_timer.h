#pragma once
#include <string>
#include <vector>

namespace lram::envs {

struct StepTimerOptions {
  int rounds = 9;            ///< at least; medians are taken over them
  double min_seconds = 0.5;  ///< rounds go on this long, so that fast tasks have more of them
  int num_envs = 16;         ///< of the VectorEnv
  int num_threads = 2;
};

/// Control steps per second of our interface and of a bare mj_step() loop with the same library,
/// initial states, actions and substeps. The two take turns every 50 steps, so that a busy machine
/// slows both; resets are not timed. Each figure is the median over the rounds.
struct StepTiming {
  std::string task;
  int sub_steps = 0;
  int rounds = 0;
  double steps_per_s = 0.0, bare_steps_per_s = 0.0;
  double ratio = 0.0;  ///< ours over bare
};

/// Environment::step() on this thread, observation and reward included.
StepTiming time_environment(const std::string& task, const StepTimerOptions& options);

/// VectorEnv::step() on `num_threads` threads, against as many bare loops on a thread each that
/// share the environments out.
StepTiming time_vector_env(const std::string& task, const StepTimerOptions& options);

double median(std::vector<double> values);
double geometric_mean(const std::vector<double>& values);

}  // namespace lram::envs
