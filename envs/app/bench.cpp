#include <fmt/core.h>

#include <nlohmann/json.hpp>

#include "envs/app/step_timer.h"
#include "envs/environment.h"
#include "lram/app/verb.h"
#include "lram/core/build_info.h"
#include "lram/core/error.h"
#include "lram/core/json.h"
#include "lram/core/options.h"
#include "lram/core/progress.h"
#include "lram/core/table.h"

namespace lram::app {
namespace {
using envs::StepTimerOptions;
using envs::StepTiming;

std::vector<std::string> simulator_tasks() {
  std::vector<std::string> out;
  for (const std::string& id : envs::task_ids())
    if (id.starts_with("dmcontrol/")) out.push_back(id);
  return out;
}

double mean_ratio(const std::vector<StepTiming>& timings) {
  std::vector<double> ratios;
  for (const StepTiming& timing : timings) ratios.push_back(timing.ratio);
  return envs::geometric_mean(ratios);
}

nlohmann::json to_json(const StepTiming& timing) {
  return {{"task", timing.task},
          {"sub_steps", timing.sub_steps},
          {"rounds", timing.rounds},
          {"steps_per_s", timing.steps_per_s},
          {"bare_steps_per_s", timing.bare_steps_per_s},
          {"ratio_to_bare_loop", timing.ratio}};
}

nlohmann::json to_json(const std::vector<std::pair<std::string, std::string>>& pairs) {
  nlohmann::json out;
  for (const auto& [name, value] : pairs) out[name] = value;
  return out;
}
}  // namespace

int bench_env(const Args& args) {
  StepTimerOptions options;
  std::string tasks;
  bool json = false;
  CommandLine line("lram bench env [--task T[,T]]",
                   "Control steps per second beside a bare mj_step loop with the same library, "
                   "initial states,\nactions and substeps: one environment on one thread, and a "
                   "VectorEnv on several threads beside\nas many bare loops. Resets are not timed; "
                   "figures are medians over rounds.");
  line.options().add_options()("task", po::value(&tasks),
                               "tasks, with commas between; default: all of dmcontrol")(
      "rounds", po::value(&options.rounds)->default_value(options.rounds),
      "rounds of each measurement, at least")(
      "seconds", po::value(&options.min_seconds)->default_value(options.min_seconds),
      "length of each measurement, at least")(
      "num-envs", po::value(&options.num_envs)->default_value(options.num_envs),
      "environments of the VectorEnv")(
      "threads", po::value(&options.num_threads)->default_value(options.num_threads),
      "threads of the VectorEnv")("json", po::bool_switch(&json), "print JSON");
  if (!line.parse(args)) return 0;
  for (const auto& [name, value] :
       {std::pair{"rounds", options.rounds}, std::pair{"num-envs", options.num_envs}})
    if (value < 1) throw_error(ErrorKind::kUsage, "--{} is {}, wanted 1 or more", name, value);
  check_threads(options.num_threads, 1);

  std::vector<std::string> ids = tasks.empty() ? simulator_tasks() : split_list(tasks, "task");
  for (std::string& id : ids) id = envs::make(id)->spec().id;
  std::vector<StepTiming> single, vector;
  Progress progress("bench env", static_cast<std::int64_t>(2 * ids.size()), "measurements");
  for (const std::string& id : ids) {
    single.push_back(envs::time_environment(id, options));
    progress.update(std::ssize(single) + std::ssize(vector), id);
    vector.push_back(envs::time_vector_env(id, options));
    progress.update(std::ssize(single) + std::ssize(vector), id);
  }
  progress.finish();

  if (json) {
    nlohmann::json out = {{"tasks", nlohmann::json::array()},
                          {"geometric_mean", mean_ratio(single)},
                          {"vector_env_ratio", mean_ratio(vector)},
                          {"vector_env",
                           {{"num_envs", options.num_envs},
                            {"num_threads", options.num_threads},
                            {"tasks", nlohmann::json::array()}}},
                          {"hardware", to_json(hardware_info())},
                          {"build", to_json(build_info())}};
    for (const StepTiming& timing : single) out["tasks"].push_back(to_json(timing));
    for (const StepTiming& timing : vector) out["vector_env"]["tasks"].push_back(to_json(timing));
    fmt::print("{}\n", json_text(out, 2));
    return 0;
  }
  const std::string threads = fmt::format("x{}", options.num_threads);
  Table table({"task", "substeps", "steps/s", "bare loop", "ratio", "VectorEnv " + threads,
               "bare " + threads, "ratio " + threads});
  for (std::size_t i = 0; i < ids.size(); ++i)
    table.add({ids[i], fmt::format("{}", single[i].sub_steps),
               fmt::format("{:.0f}", single[i].steps_per_s),
               fmt::format("{:.0f}", single[i].bare_steps_per_s),
               fmt::format("{:.3f}", single[i].ratio), fmt::format("{:.0f}", vector[i].steps_per_s),
               fmt::format("{:.0f}", vector[i].bare_steps_per_s),
               fmt::format("{:.3f}", vector[i].ratio)});
  fmt::print(
      "{}\ngeometric mean of the ratios: {:.3f} on one thread, {:.3f} for {} environments "
      "on {} threads\n",
      table.text(), mean_ratio(single), mean_ratio(vector), options.num_envs, options.num_threads);
  for (const auto& [name, value] : hardware_info()) fmt::print("{}: {}\n", name, value);
  for (const auto& [name, value] : build_info()) fmt::print("{}: {}\n", name, value);
  return 0;
}
}  // namespace lram::app
