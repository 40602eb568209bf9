#include "lram/tokenization/observation_encoder.h"

#include <gtest/gtest.h>

#include <limits>
#include <numeric>

#include "lram/core/error.h"

namespace lram::tokenization::observation_encoder_test {
namespace {

TaskEntry task(const std::string& id, std::vector<ObservationPart> parts) {
  TaskEntry entry;
  entry.spec.id = id;
  for (const ObservationPart& part : parts) entry.spec.observation.vector_size += part.size;
  entry.spec.observation.parts = std::move(parts);
  return entry;
}

std::string message(const TaskEntry& entry, std::int64_t state_dim) {
  try {
    const ObservationEncoder encoder(entry, state_dim);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    return error.what();
  }
  return "accepted";
}

#define EXPECT_SAYS(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)

TEST(ObservationEncoder, SlotsTileTheUnifiedState) {
  std::int64_t next = 0;
  for (const ObservationSlot& slot : unified_slots()) {
    EXPECT_EQ(slot.begin, next) << slot.name;
    next += slot.size;
  }
  EXPECT_EQ(next, kUnifiedStateDim);
}

TEST(ObservationEncoder, PartsOfDmcontrolGoToTheirSlots) {
  // reacher: position 2, to_target 2, velocity 2.
  const ObservationEncoder encoder(
      task("dmcontrol/reacher_easy", {{"position", 2}, {"to_target", 2}, {"velocity", 2}}), 204);
  EXPECT_EQ(encoder.places(), (std::vector<std::int64_t>{41, 42, 142, 143, 14, 15}));
  std::vector<float> state(204, 9.0f);
  encoder.encode(std::vector<float>{1, 2, 3, 4, 5, 6}, state);
  EXPECT_EQ(state[41], 1.0f);
  EXPECT_EQ(state[143], 4.0f);
  EXPECT_EQ(state[15], 6.0f);
  EXPECT_EQ(std::accumulate(state.begin(), state.end(), 0.0f), 21.0f);  // the rest is 0
}

TEST(ObservationEncoder, SmallStatesAndOtherDomainsFillFromTheFront) {
  const auto parts = std::vector<ObservationPart>{{"position", 2}, {"velocity", 1}};
  const auto front = std::vector<std::int64_t>{0, 1, 2};
  EXPECT_EQ(ObservationEncoder(task("dmcontrol/pendulum_swingup", parts), 24).places(), front);
  EXPECT_EQ(ObservationEncoder(task("grid/dark_room_10x10_dense", parts), 204).places(), front);
  EXPECT_EQ(ObservationEncoder(task("dmcontrol/pendulum_swingup", parts), 3).places(), front);
}

TEST(ObservationEncoder, NormalisesWithAFloorAndAClip) {
  TaskEntry entry = task("grid/made_up", {{"a", 3}});
  entry.obs_mean = {1.0, 0.0, 0.0};
  entry.obs_std = {2.0, 0.0, 1.0};
  entry.obs_std_floor = 0.5;
  entry.obs_clip = 4.0;
  const ObservationEncoder encoder(entry, 4);
  std::vector<float> state(4);
  encoder.encode(std::vector<float>{5.0f, 1.0f, -100.0f}, state);
  EXPECT_EQ(state, (std::vector<float>{2.0f, 2.0f, -4.0f, 0.0f}));
}

TEST(ObservationEncoder, WithoutStatisticsValuesPass) {
  const ObservationEncoder encoder(task("grid/made_up", {{"a", 2}}), 2);
  std::vector<float> state(2);
  encoder.encode(std::vector<float>{-50.0f, 50.0f}, state);
  EXPECT_EQ(state, (std::vector<float>{-50.0f, 50.0f}));
}

TEST(ObservationEncoder, NamesAValueThatIsNotFinite) {
  const ObservationEncoder encoder(task("grid/made_up", {{"a", 2}}), 2);
  std::vector<float> state(2);
  try {
    encoder.encode(std::vector<float>{1.0f, std::numeric_limits<float>::quiet_NaN()}, state);
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(),
                 "task 'grid/made_up': observation entry 1 is nan, wanted a finite number");
  }
}

TEST(ObservationEncoder, RefusesWhatDoesNotFit) {
  EXPECT_SAYS(message(task("grid/made_up", {{"a", 25}}), 24),
              "task 'grid/made_up' has observations of 25 entries, the policy's state vector has "
              "state_dim = 24");
  EXPECT_SAYS(message(task("dmcontrol/dog_run", {{"position", 9}}), 204),
              "observation part 'position' has 9 entries, its slot in the state vector has 8");
  EXPECT_SAYS(message(task("dmcontrol/dog_run", {{"inertial", 3}}), 204),
              "observation part 'inertial' has no slot");
  TaskEntry entry = task("grid/made_up", {{"a", 3}});
  entry.obs_mean = {0.0};
  entry.obs_std = {1.0};
  EXPECT_SAYS(message(entry, 24), "1 means and 1 standard deviations");
  entry = task("grid/made_up", {{"a", 3}});
  entry.obs_std_floor = 0.0;
  EXPECT_SAYS(message(entry, 24), "obs_std_floor 0, obs_clip 10, wanted more than 0");
}

}  // namespace
}  // namespace lram::tokenization::observation_encoder_test
