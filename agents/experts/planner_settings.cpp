// What the planner does in each task.
#include "agents/experts/planner.h"
#include "agents/experts/settings.h"

namespace lram::agents::experts {
namespace {
struct Row {
  std::string_view task;
  PlannerConfig config;
};

const std::vector<Row> kSettings = {
    {"dmcontrol/ball_in_cup_catch", {.horizon = 40, .replan_every = 3}},
    {"dmcontrol/cartpole_balance",
     {.horizon = 100, .knots = 5, .samples = 20, .replan_every = 4, .narrow_noise = 0.01}},
    {"dmcontrol/cartpole_swingup",
     {.horizon = 120,
      .samples = 24,
      .replan_every = 4,
      .elites = 2,
      .noise = 0.8,
      .narrow_noise = 0.03}},
    {"dmcontrol/cheetah_run",
     {.samples = 30, .rhythm_share = 0.5, .min_period = 15, .max_period = 40}},
    {"dmcontrol/finger_spin",
     {.horizon = 20,
      .knots = 10,
      .samples = 120,
      .replan_every = 1,
      .elites = 1,
      .noise = 0.8,
      .rhythm_share = 0.8,
      .min_period = 7,
      .max_period = 16}},
    {"dmcontrol/finger_turn_easy", {.horizon = 60}},
    {"dmcontrol/finger_turn_hard", {.horizon = 60}},
    {"dmcontrol/fish_upright", {.horizon = 25, .samples = 8, .replan_every = 4}},
    {"dmcontrol/hopper_stand", {.samples = 24, .noise = 0.7}},
    {"dmcontrol/pendulum_swingup", {.horizon = 75, .knots = 8, .samples = 12, .replan_every = 5}},
    {"dmcontrol/walker_run",
     {.horizon = 30,
      .samples = 40,
      .elites = 1,
      .noise = 0.6,
      .rhythm_share = 0.7,
      .min_period = 12,
      .max_period = 30}},
    {"dmcontrol/walker_stand",
     {.horizon = 30, .samples = 20, .rhythm_share = 0.3, .min_period = 8, .max_period = 30}},
    {"dmcontrol/walker_walk",
     {.horizon = 40,
      .knots = 8,
      .samples = 20,
      .rhythm_share = 0.3,
      .min_period = 15,
      .max_period = 40}},
};

}  // namespace

template <typename Visit>
void for_each_setting(PlannerConfig& config, Visit visit) {
  visit("horizon", config.horizon);
  visit("knots", config.knots);
  visit("samples", config.samples);
  visit("iterations", config.iterations);
  visit("replan_every", config.replan_every);
  visit("elites", config.elites);
  visit("noise", config.noise);
  visit("narrow_noise", config.narrow_noise);
  visit("rhythm_share", config.rhythm_share);
  visit("min_period", config.min_period);
  visit("max_period", config.max_period);
  visit("effort_cost", config.effort_cost);
  visit("change_cost", config.change_cost);
}

PlannerConfig planner_config(std::string_view task, const std::string& changes) {
  PlannerConfig c;
  for (const Row& row : kSettings)
    if (row.task == task) c = row.config;
  change_settings(c, changes);
  require_setting(c.horizon >= 1, "horizon >= 1");
  require_setting(c.knots >= 2, "knots >= 2");
  require_setting(c.samples >= 2, "samples >= 2");
  require_setting(c.iterations >= 1, "iterations >= 1");
  require_setting(c.replan_every >= 1 && c.replan_every <= c.horizon, "replan_every in 1..horizon");
  require_setting(c.elites >= 1 && c.elites <= c.samples, "elites in 1..samples");
  require_setting(c.rhythm_share >= 0.0 && c.rhythm_share <= 1.0, "0 <= rhythm_share <= 1");
  require_setting(c.rhythm_share == 0.0 || (2 <= c.min_period && c.min_period <= c.max_period &&
                                            c.max_period <= c.horizon),
                  "2 <= min_period <= max_period <= horizon");
  require_setting(c.noise > 0.0 && c.narrow_noise > 0.0, "noise and narrow_noise > 0");
  return c;
}

std::string to_string(const PlannerConfig& config) { return settings_text(config); }

}  // namespace lram::agents::experts
