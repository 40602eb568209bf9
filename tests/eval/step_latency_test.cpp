#include "eval/step_latency.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "lram/core/error.h"
#include "tests/support/tiny_policy.h"

namespace lram::eval::step_latency_test {
namespace {
const std::string kTask = "dmcontrol/walker_run";

TEST(StepLatency, HasARowPerCaseWithOrderedTimes) {
  const auto xlstm = test::tiny_policy(test::tiny_config(), {kTask});
  const auto rows = measure_step_latency({{"xlstm", xlstm, kTask, 1}, {"xlstm", xlstm, kTask, 30}},
                                         {.steps = 25, .threads = 1});
  ASSERT_EQ(rows.size(), 2u);
  for (const LatencyRow& row : rows) {
    EXPECT_EQ(row.model, "xlstm");
    EXPECT_EQ(row.steps, 25);
    EXPECT_EQ(row.threads, 1);
    EXPECT_GT(row.median_us, 0.0);
    EXPECT_GE(row.p99_us, row.median_us);
    EXPECT_GE(row.max_us, row.p99_us);
  }
  EXPECT_EQ(rows[0].context, 1);
  EXPECT_EQ(rows[0].state_bytes, rows[1].state_bytes);
}

TEST(StepLatency, TheTransformersMemoryGrowsWithTheContext) {
  std::vector<LatencyCase> cases;
  for (const int context : {5, 50}) {
    const auto config = transformer_of_size(test::tiny_config(), 100'000, context, 200);
    cases.push_back({"transformer", test::tiny_policy(config, {kTask}), kTask, context});
  }
  const auto rows = measure_step_latency(cases, {.steps = 12, .threads = 1});
  EXPECT_GT(rows[1].state_bytes, 5 * rows[0].state_bytes);
}

TEST(StepLatency, RefusesNothingToTime) { EXPECT_THROW(measure_step_latency({}, {}), Error); }

TEST(TransformerOfSize, ComesNearTheXlstm) {
  for (const auto& [blocks, width] : {std::pair{2, 64}, {2, 128}, {3, 96}, {4, 128}, {8, 256}}) {
    model::PolicyConfig config;
    config.num_blocks = blocks;
    config.embed_dim = width;
    const std::int64_t wanted = count_parameters(model::Policy(config));
    const model::PolicyConfig transformer = transformer_of_size(config, wanted, 50, 100);
    const std::int64_t got = count_parameters(model::Policy(transformer));
    EXPECT_LT(std::abs(static_cast<double>(got - wanted)), 0.05 * static_cast<double>(wanted))
        << blocks << " x " << width << ": " << transformer.num_blocks << " x "
        << transformer.embed_dim << " has " << got << ", wanted " << wanted;
  }
}

TEST(LatencyTable, SurvivesItsFile) {
  const LatencyTable table{.hardware = "h",
                           .build = "b",
                           .rows = {{.model = "xlstm",
                                     .preset = "2 x 64",
                                     .parameters = 5,
                                     .context = 10,
                                     .steps = 3,
                                     .median_us = 1.5,
                                     .p99_us = 2.5,
                                     .max_us = 3.5,
                                     .state_bytes = 7,
                                     .threads = 2}}};
  const nlohmann::json json = table;
  EXPECT_EQ(json["rows"][0]["hardware"], "h");
  EXPECT_EQ(json["rows"][0]["build"], "b");
  EXPECT_EQ(nlohmann::json(json.get<LatencyTable>()), json);
  EXPECT_NE(to_table(table).find("xlstm"), std::string::npos);
}
}  // namespace
}  // namespace lram::eval::step_latency_test
