#include "lram/tokenization/task_table.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "lram/core/error.h"
#include "lram/core/json.h"

namespace lram::tokenization::task_table_test {
namespace {
using nlohmann::json;

TaskEntry task(const std::string& id) {
  TaskEntry entry;
  entry.spec.id = id;
  entry.spec.observation = {.parts = {{"position", 2}}, .vector_size = 2};
  entry.spec.action = {.size = 1, .low = {-1.0}, .high = {1.0}};
  entry.reward_scale = 100.0;
  entry.target_return = 871.25;
  entry.data_mean = 600.1;
  entry.random_mean = 27.4;
  entry.obs_mean = {0.1, -2.0};
  entry.obs_std = {1.0 / 3.0, 4.0};
  entry.first_seed = 3;
  entry.last_seed = 1'000'000'000'000'000'000;
  return entry;
}

TEST(TaskTable, SurvivesJson) {
  TaskTable table;
  table.add(task("dmcontrol/b"));
  table.add(task("dmcontrol/a"));
  const auto back = parse_json(json_text(json(table))).get<TaskTable>();
  ASSERT_EQ(back.entries().size(), 2u);
  EXPECT_EQ(back.at("dmcontrol/a"), table.at("dmcontrol/a"));
  EXPECT_EQ(back.at("dmcontrol/b"), table.at("dmcontrol/b"));
}

TEST(TaskTable, UnknownTaskListsTheKnownOnes) {
  TaskTable table;
  table.add(task("dmcontrol/a"));
  table.add(task("grid/b"));
  EXPECT_EQ(table.find("dmcontrol/c"), nullptr);
  try {
    table.at("dmcontrol/c");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    EXPECT_STREQ(error.what(),
                 "the policy was not trained on task 'dmcontrol/c'; it knows: dmcontrol/a, grid/b");
  }
  EXPECT_THROW(table.add(task("grid/b")), Error);
}

TEST(TaskTable, BadJsonNamesTaskAndField) {
  TaskTable table;
  table.add(task("grid/b"));
  const json good = table;
  const auto message = [](const json& bad) -> std::string {
    try {
      bad.get<TaskTable>();
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kInput);
      return error.what();
    }
    return "accepted";
  };
  json bad = good;
  bad["grid/b"].erase("target_return");
  EXPECT_EQ(message(bad), "tasks['grid/b']: no field 'target_return'");
  bad = good;
  bad["grid/b"]["data_mean"] = "x";
  EXPECT_EQ(message(bad), "tasks['grid/b']: field 'data_mean' is \"x\"");
  bad = good;
  bad["grid/b"]["reward_scale"] = 0;
  EXPECT_EQ(message(bad), "tasks['grid/b']: field 'reward_scale' is 0, wanted more than 0");
  bad = good;
  bad["grid/b"]["obs_std"] = {1.0};
  EXPECT_EQ(message(bad), "tasks['grid/b']: obs_std has 1 entries, observations have 2");
  bad = good;
  bad["grid/b"]["spec"]["id"] = "grid/c";
  EXPECT_EQ(message(bad), "tasks['grid/b']: its spec has the id 'grid/c'");
  EXPECT_EQ(message(json::array()), "tasks: is array, wanted an object");
  EXPECT_EQ(message(json{{"grid/b", 3}}), "tasks['grid/b'] is number, wanted an object");
}

}  // namespace
}  // namespace lram::tokenization::task_table_test
