#include "lram/tokenization/action_codec.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>

#include "lram/core/error.h"
#include "lram/core/rng.h"

namespace lram::tokenization::action_codec_test {
namespace {

TaskSpec continuous(std::vector<double> low, std::vector<double> high) {
  TaskSpec spec;
  spec.id = "dmcontrol/made_up";
  spec.action.size = std::ssize(low);
  spec.action.low = std::move(low);
  spec.action.high = std::move(high);
  return spec;
}

TaskSpec discrete(std::int64_t num_actions) {
  TaskSpec spec;
  spec.id = "grid/made_up";
  spec.action.discrete = true;
  spec.action.size = 1;
  spec.action.num_actions = num_actions;
  return spec;
}

std::string message(const TaskSpec& spec, const ActionLayout& layout = {}) {
  try {
    const ActionCodec codec(spec, layout);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    return error.what();
  }
  return "accepted";
}

#define EXPECT_SAYS(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)

TEST(ActionCodec, BoundsMapToTheOuterBins) {
  const ActionCodec codec(continuous({-2.0, 10.0}, {6.0, 20.0}));
  std::vector<std::int64_t> classes(8);
  codec.encode(std::vector<float>{-2.0f, 20.0f}, classes);
  EXPECT_EQ(classes, (std::vector<std::int64_t>{18, 273, -1, -1, -1, -1, -1, -1}));
  // Beyond the bounds too; the middle is the lower edge of bin 128.
  codec.encode(std::vector<float>{-3.0f, 15.0f}, classes);
  EXPECT_EQ(classes[0], 18);
  EXPECT_EQ(classes[1], 18 + 128);
  // 8 units of width over 256 bins: a bin is 1/32, its centre 1/64 above its edge.
  std::vector<float> action(2);
  codec.decode(classes, action);
  EXPECT_FLOAT_EQ(action[0], -2.0f + 1.0f / 64);
}

TEST(ActionCodec, RoundTripIsWithinHalfABin) {
  CounterRng rng(11);
  for (int round = 0; round < 200; ++round) {
    std::vector<double> low, high;
    for (std::uint64_t i = 0, n = 1 + rng.below(8); i < n; ++i) {
      low.push_back(20.0 * rng.uniform() - 10.0);
      high.push_back(low.back() + 0.01 + 10.0 * rng.uniform());
    }
    const TaskSpec spec = continuous(low, high);
    const ActionCodec codec(spec);
    std::vector<float> action(low.size()), back(low.size());
    for (std::size_t i = 0; i < low.size(); ++i)
      action[i] = static_cast<float>(low[i] + (high[i] - low[i]) * rng.uniform());
    std::vector<std::int64_t> classes(8);
    codec.encode(action, classes);
    codec.decode(classes, back);
    for (std::size_t i = 0; i < low.size(); ++i) {
      EXPECT_LE(std::abs(back[i] - action[i]), (high[i] - low[i]) / 512 + 4e-6)
          << "round " << round;
      EXPECT_GE(back[i], low[i]);
      EXPECT_LE(back[i], high[i]);
    }
    std::vector<std::int64_t> again(8);
    codec.encode(back, again);
    EXPECT_EQ(again, classes) << "round " << round;
  }
}

TEST(ActionCodec, UnitBoundsAreTheBinsThemselves) {
  const ActionCodec codec(continuous({-1.0}, {1.0}));
  const UniformBins bins(256);
  CounterRng rng(3);
  std::vector<std::int64_t> classes(8);
  for (int i = 0; i < 2000; ++i) {
    const auto value = static_cast<float>(2.2 * rng.uniform() - 1.1);
    codec.encode(std::vector<float>{value}, classes);
    EXPECT_EQ(classes[0], 18 + bins.encode(value)) << value;
  }
}

TEST(ActionCodec, DiscreteIdsAreTheActions) {
  const ActionCodec codec(discrete(5));
  EXPECT_EQ(codec.slots(), 1);
  std::vector<std::int64_t> classes(8);
  codec.encode(std::vector<float>{4.0f}, classes);
  EXPECT_EQ(classes, (std::vector<std::int64_t>{4, -1, -1, -1, -1, -1, -1, -1}));
  std::vector<float> action(1);
  codec.decode(classes, action);
  EXPECT_EQ(action[0], 4.0f);
  codec.encode_index(2, classes);
  EXPECT_EQ(classes[0], 2);
  for (const float bad : {-1.0f, 5.0f, 0.5f, NAN})
    EXPECT_THROW(codec.encode(std::vector<float>{bad}, classes), Error) << bad;
  EXPECT_THROW(codec.encode_index(5, classes), Error);
  classes[0] = 5;
  EXPECT_THROW(codec.decode(classes, action), Error);
}

TEST(ActionCodec, LegalMaskHoldsTheTasksClassesAlone) {
  const ActionLayout layout{.slots = 3, .discrete_ids = 4, .num_bins = 2};
  std::vector<std::uint8_t> mask(3 * 6);
  ActionCodec(continuous({0.0, 0.0}, {1.0, 1.0}), layout).legal_mask(mask);
  EXPECT_EQ(mask,
            (std::vector<std::uint8_t>{0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0}));
  ActionCodec(discrete(3), layout).legal_mask(mask);
  EXPECT_EQ(mask,
            (std::vector<std::uint8_t>{1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}));
}

TEST(ActionCodec, RefusesWhatTheHeadCannotExpress) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  EXPECT_SAYS(message(continuous({-1.0, -kInfinity}, {1.0, 1.0})),
              "task 'dmcontrol/made_up': action entry 1 has bounds [-inf, 1], wanted finite ones");
  EXPECT_SAYS(message(continuous({1.0}, {1.0})), "bounds [1, 1]");
  EXPECT_SAYS(message(continuous({NAN}, {1.0})), "bounds [nan, 1]");
  EXPECT_SAYS(message(continuous(std::vector<double>(9, 0.0), std::vector<double>(9, 1.0))),
              "actions of 9 entries, the policy has 8 slots");
  EXPECT_SAYS(message(discrete(19)), "19 discrete actions, the policy has 18 ids");
  EXPECT_SAYS(message(discrete(0)), "0 discrete actions");
  EXPECT_EQ(message(discrete(18)), "accepted");
}

}  // namespace
}  // namespace lram::tokenization::action_codec_test
