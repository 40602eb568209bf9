#include <gtest/gtest.h>

#include <set>

#include "envs/environment.h"
#include "lram/core/error.h"

namespace lram::envs::registry_test {
namespace {

std::string message(const std::string& name) {
  try {
    make(name);
  } catch (const lram::Error& error) {
    EXPECT_EQ(error.kind(), lram::ErrorKind::kUsage);
    return error.what();
  }
  return "no error";
}

TEST(Registry, NamesAreUniqueAndFull) {
  std::set<std::string> seen;
  for (const std::string& id : task_ids()) {
    EXPECT_EQ(std::count(id.begin(), id.end(), '/'), 1) << id;
    EXPECT_TRUE(seen.insert(id).second) << id;
  }
  EXPECT_EQ(std::count_if(seen.begin(), seen.end(),
                          [](const auto& id) { return id.starts_with("dmcontrol/"); }),
            16);
}

TEST(Registry, TakesTheLastPartOfAnId) {
  EXPECT_EQ(make("cheetah_run")->spec().id, "dmcontrol/cheetah_run");
  EXPECT_EQ(make("dark_room_10x10_dense_goal_3_7")->spec().id,
            "grid/dark_room_10x10_dense_goal_3_7");
}

TEST(Registry, AnUnknownTaskIsAnsweredWithTheNearestAndAll) {
  const std::string full = message("dmcontrol/cheeta_run");
  EXPECT_NE(full.find("unknown task 'dmcontrol/cheeta_run', did you mean 'dmcontrol/cheetah_run'?"),
            std::string::npos)
      << full;
  for (const std::string& id : task_ids()) EXPECT_NE(full.find(id), std::string::npos) << id;
  EXPECT_NE(message("walker_wal").find("did you mean 'walker_walk'"), std::string::npos);
  EXPECT_NE(message("").find("unknown task ''"), std::string::npos);
  EXPECT_NE(message("grid/").find("unknown task"), std::string::npos);
}
}  // namespace
}  // namespace lram::envs::registry_test
