#include <fmt/core.h>

#include <nlohmann/json.hpp>

#include "envs/environment.h"
#include "lram/app/verb.h"
#include "lram/core/error.h"
#include "lram/core/json.h"
#include "lram/core/options.h"
#include "lram/core/table.h"

namespace lram::app {
namespace {
std::string describe_action(const ActionSpec& action) {
  if (action.discrete) return fmt::format("{} choices", action.num_actions);
  return fmt::format("{} numbers", action.size);
}

void print_spec(const TaskSpec& spec) {
  fmt::print("task: {}\nobservation: {} numbers\n", spec.id, spec.observation.vector_size);
  for (const ObservationPart& part : spec.observation.parts)
    fmt::print("  {} [{}]\n", part.name, part.size);
  fmt::print("action: {}\n", describe_action(spec.action));
  for (std::size_t i = 0; i < spec.action.low.size(); ++i)
    fmt::print("  {} to {}\n", spec.action.low[i], spec.action.high[i]);
  fmt::print("longest episode: {} steps\n", spec.max_episode_steps);
  if (spec.control_dt > 0.0) fmt::print("time step: {:g} s\n", spec.control_dt);
  fmt::print("reward scale: {:g}\n", spec.reward_scale);
}
}  // namespace

int env_ls(const Args& args) {
  bool json = false;
  CommandLine line("lram env ls", "Lists the built-in tasks.");
  line.options().add_options()("json", po::bool_switch(&json), "print JSON");
  if (!line.parse(args)) return 0;

  nlohmann::json tasks = nlohmann::json::array();
  Table table({"task", "observation", "action", "steps", "time step"});
  for (const std::string& id : envs::task_ids()) {
    const TaskSpec spec = envs::make(id)->spec();
    tasks.push_back(spec);
    table.add({spec.id, fmt::format("{}", spec.observation.vector_size),
               describe_action(spec.action), fmt::format("{}", spec.max_episode_steps),
               spec.control_dt > 0.0 ? fmt::format("{:g} s", spec.control_dt) : "-"});
  }
  if (json)
    fmt::print("{}\n", json_text(nlohmann::json{{"tasks", tasks}}, 2));
  else
    fmt::print("{}", table.text());
  return 0;
}

int env_show(const Args& args) {
  bool json = false;
  std::string task;
  CommandLine line("lram env show TASK",
                   "Prints what a task observes and how it acts. TASK is a full id or its last "
                   "part where that is\nunambiguous; \"_goal_X_Y\" behind a grid world fixes its "
                   "goal.");
  line.options().add_options()("task", po::value(&task), "the task (bare argument)")(
      "json", po::bool_switch(&json), "print JSON");
  line.positional("task");
  if (!line.parse(args)) return 0;
  if (task.empty()) throw_error(ErrorKind::kUsage, "no task given, see lram env ls");

  const TaskSpec spec = envs::make(task)->spec();
  if (json)
    fmt::print("{}\n", json_text(nlohmann::json(spec), 2));
  else
    print_spec(spec);
  return 0;
}
}  // namespace lram::app
