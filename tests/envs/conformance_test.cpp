#include "tests/support/environment_conformance.h"

namespace lram::test {
namespace {
std::vector<std::string> all_tasks() {
  std::vector<std::string> ids = envs::task_ids();
  ids.insert(ids.end(), {"grid/dark_room_17x17_sparse_goal_2_3",
                         "grid/dark_key_door_20x20_dense_key_0_3_goal_2_0"});
  return ids;
}
}  // namespace

INSTANTIATE_TEST_SUITE_P(Registry, EnvironmentConformance, testing::ValuesIn(all_tasks()),
                         test_name);
}  // namespace lram::test
