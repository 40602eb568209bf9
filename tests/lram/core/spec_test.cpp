#include "lram/core/spec.h"

#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>

#include "lram/core/error.h"
#include "lram/core/json.h"

namespace lram::spec_test {
namespace {
TaskSpec example() {
  TaskSpec spec;
  spec.id = "dmcontrol/cartpole_swingup";
  spec.observation.parts = {{"position", 3}, {"velocity", 2}};
  spec.observation.vector_size = 5;
  spec.action.size = 2;
  spec.action.low = {-1.0, -std::numeric_limits<double>::infinity()};
  spec.action.high = {1.0, std::numeric_limits<double>::infinity()};
  spec.max_episode_steps = 1000;
  spec.control_dt = 0.01;
  spec.reward_scale = 100.0;
  return spec;
}

TEST(TaskSpec, SurvivesJson) {
  const TaskSpec spec = example();
  const nlohmann::json json = spec;
  EXPECT_EQ(parse_json(json_text(json)).get<TaskSpec>(), spec);
  EXPECT_EQ(spec.domain(), "dmcontrol");
  EXPECT_EQ(spec.name(), "cartpole_swingup");
}

TEST(TaskSpec, NamesTheBadField) {
  const auto complaint = [](nlohmann::json json) -> std::string {
    try {
      json.get<TaskSpec>();
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  nlohmann::json json = example();
  json.erase("control_dt");
  EXPECT_EQ(complaint(json), "TaskSpec: no field 'control_dt'");
  json = example();
  json["observation"]["vector_size"] = 6;
  EXPECT_EQ(complaint(json),
            "TaskSpec 'dmcontrol/cartpole_swingup': parts add up to 5, vector_size is 6");
  json = example();
  json["action"]["low"] = {1.0};
  EXPECT_EQ(complaint(json),
            "TaskSpec 'dmcontrol/cartpole_swingup': 1 low and 2 high bounds, action size 2");
  json = example();
  json["max_episode_steps"] = "many";
  EXPECT_NE(complaint(json).find("'max_episode_steps' is \"many\""), std::string::npos);
}
}  // namespace
}  // namespace lram::spec_test
