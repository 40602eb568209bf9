#include "lram/training/batch.h"

#include <gtest/gtest.h>

#include "lram/core/error.h"
#include "tests/lram/training/toy_data.h"
#include "tests/support/temp_folder.h"

namespace lram::training::batch_test {
namespace {
using datasets::Window;

class BatchTest : public testing::Test {
 protected:
  BatchTest()
      : data_([&] {
          DataConfig config = test::write_toy_data(folder_.path());
          config.obs_normalization = "none";
          return config;
        }()) {}
  BatchBuilder builder(std::int64_t steps = 8) const {
    return BatchBuilder(data_, test::tiny_policy(), steps);
  }
  lram::test::TempFolder folder_;
  TrainingData data_;
};

TEST_F(BatchTest, PadsOnTheLeftAndPlacesEveryValue) {
  // Steps 1 to 3 of an episode of toy/reach: two actions in [-2, 3], rewards divided by 10.
  const Window window{.source = 0, .episode = 2, .start = 1, .end = 4};
  const auto episode = data_.tasks()[0].data.episode(2);
  const MicroBatch batch = builder().build(data_.domains()[0], std::vector{window});
  EXPECT_EQ(batch.real_steps, 3);
  EXPECT_EQ(batch.inputs.begin.item<int>(), 5);
  EXPECT_EQ(batch.inputs.end.item<int>(), 8);
  EXPECT_EQ(batch.inputs.first_step.item<std::int64_t>(), 1);
  EXPECT_FALSE(batch.inputs.image.defined());
  ASSERT_EQ(batch.inputs.state.sizes(), (std::vector<std::int64_t>{1, 8, 6}));
  ASSERT_EQ(batch.slot.numel(), 6);  // 3 steps, 2 slots
  for (std::int64_t t = 1; t < 4; ++t) {
    const std::int64_t at = 5 + t - 1;
    for (std::int64_t i = 0; i < 3; ++i)
      EXPECT_EQ(batch.inputs.state[0][at][i].item<float>(),
                episode.observations[static_cast<std::size_t>(t * 3 + i)]);
    EXPECT_EQ(batch.inputs.state[0][at][3].item<float>(), 0.0f);  // behind a narrower observation
    EXPECT_EQ(batch.inputs.reward[0][at].item<float>(),
              episode.rewards[static_cast<std::size_t>(t)] / 10.0f);
    double rest = 0.0;  // to the end of the episode, not of the window
    for (std::int64_t later = t; later < episode.length(); ++later)
      rest += static_cast<double>(episode.rewards[static_cast<std::size_t>(later)]);
    EXPECT_NEAR(batch.inputs.return_to_go[0][at].item<double>(), rest / 10.0, 1e-5);
    for (std::int64_t a = 0; a < 2; ++a) {
      const std::int64_t n = (t - 1) * 2 + a;
      EXPECT_EQ(batch.slot[n].item<std::int64_t>(), at * 2 + a);
      // 256 bins over [-2, 3] behind 18 discrete ids.
      const float action = episode.actions[static_cast<std::size_t>(t * 2 + a)];
      const auto bin = std::min<std::int64_t>(255, std::int64_t((action + 2.0f) / 5.0f * 256.0f));
      EXPECT_NEAR(batch.target[n].item<double>(), static_cast<double>(18 + bin), 1.0);
    }
  }
  EXPECT_EQ(batch.inputs.state.slice(1, 0, 5).count_nonzero().item<std::int64_t>(), 0);
  EXPECT_EQ(batch.inputs.return_to_go.slice(1, 0, 5).count_nonzero().item<std::int64_t>(), 0);
}

TEST_F(BatchTest, TasksOfADomainShareABatchWithTheirOwnLegalClasses) {
  const BatchBuilder toy = builder();
  const std::vector<Window> windows = {{.source = 0, .episode = 0, .start = 0, .end = 2},
                                       {.source = 1, .episode = 1, .start = 0, .end = 3}};
  const MicroBatch batch = toy.build(data_.domains()[0], windows);
  ASSERT_EQ(batch.slot.numel(), 2 * 2 + 3 * 1);  // toy/reach has two entries, toy/push one
  EXPECT_EQ(toy.task_of(batch.legal_row[0].item<std::int64_t>()), 0u);
  EXPECT_EQ(toy.task_of(batch.legal_row[6].item<std::int64_t>()), 2u);

  const MicroBatch grid = toy.build(
      data_.domains()[1], std::vector<Window>{{.source = 0, .episode = 0, .start = 0, .end = 4}});
  EXPECT_EQ(toy.task_of(grid.legal_row[0].item<std::int64_t>()), 1u);
  for (const MicroBatch& one : {batch, grid}) {
    const auto legal = toy.legal_classes().index_select(0, one.legal_row);
    EXPECT_TRUE(legal.gather(1, one.target.unsqueeze(1)).all().item<bool>());
  }
  // Three actions among the discrete ids; the bins for continuous ones.
  const auto counts = toy.legal_classes().sum(1);
  EXPECT_EQ(counts[2].item<std::int64_t>(), 3);
  EXPECT_EQ(counts[3].item<std::int64_t>(), 0);  // a slot that grid/turn has not
  EXPECT_EQ(counts[0].item<std::int64_t>(), 256);
}

TEST_F(BatchTest, RowsThatCarryNoStateAreFresh) {
  const std::vector<Window> windows = {
      {.source = 0, .episode = 0, .start = 2, .end = 4, .carries_state = true},
      {.source = 0, .episode = 1, .start = 0, .end = 4}};
  const MicroBatch batch = builder().build(data_.domains()[0], windows);
  ASSERT_EQ(batch.fresh_rows.numel(), 1);
  EXPECT_EQ(batch.fresh_rows.item<std::int64_t>(), 1);
}

TEST_F(BatchTest, StreamGoesOnFromItsIndex) {
  for (const bool carry : {false, true}) {
    const auto make = [&](std::uint64_t next) {
      return WindowStream(data_.sources(data_.domains()[0], Half::kTrain), 8, 3, carry, 5, 2, next);
    };
    WindowStream whole = make(0);
    std::vector<std::vector<Window>> drawn;
    for (int n = 0; n < 40; ++n) drawn.push_back(whole.next());
    WindowStream later = make(25);
    for (std::size_t n = 25; n < 40; ++n) EXPECT_EQ(later.next(), drawn[n]) << carry << " " << n;
  }
}

TEST_F(BatchTest, RefusesTasksThatDoNotFitTheModel) {
  const auto error_of = [&](auto change) -> std::string {
    model::PolicyConfig config = test::tiny_policy();
    change(config);
    try {
      BatchBuilder(data_, config, 8);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUsage);
      return error.what();
    }
    return "no error";
  };
  EXPECT_NE(error_of([](auto& c) { c.state_dim = 2; }).find("'toy/reach'"), std::string::npos);
  EXPECT_NE(error_of([](auto& c) { c.action_slots = 1; }).find("'toy/reach'"), std::string::npos);
  EXPECT_NE(error_of([](auto& c) { c.discrete_ids = 2; }).find("'grid/turn'"), std::string::npos);
}
}  // namespace
}  // namespace lram::training::batch_test
