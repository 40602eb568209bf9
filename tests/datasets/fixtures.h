#pragma once
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "datasets/episode.h"
#include "datasets/reader.h"
#include "datasets/writer.h"
#include "lram/core/error.h"
#include "lram/core/rng.h"

namespace lram::test {

/// A task with a vector of `vector_size` values and `action_size` actions in [-1, 1].
inline TaskSpec vector_task(std::int64_t vector_size = 3, std::int64_t action_size = 2) {
  TaskSpec spec;
  spec.id = "test/vector";
  spec.observation.vector_size = vector_size;
  spec.action.size = action_size;
  spec.action.low.assign(static_cast<std::size_t>(action_size), -1.0);
  spec.action.high.assign(static_cast<std::size_t>(action_size), 1.0);
  spec.max_episode_steps = 100;
  return spec;
}

/// Any shape that can be stored: vector, image or both, continuous or discrete.
inline TaskSpec random_task(CounterRng& rng) {
  const auto below = [&](std::uint64_t n) { return static_cast<std::int64_t>(rng.below(n)); };
  TaskSpec spec = vector_task(below(20), 1 + below(6));
  spec.id = "test/random";
  if (spec.observation.vector_size == 0 || rng.below(2) == 0) {
    spec.observation.image_height = 1 + below(9);
    spec.observation.image_width = 1 + below(9);
    spec.observation.image_channels = 1 + below(3);
  }
  if (rng.below(2) == 0)
    spec.action = {
        .discrete = true, .size = 1, .num_actions = 1 + below(18), .low = {}, .high = {}};
  return spec;
}

/// An episode of exactly `length` steps that `lram data validate` finds nothing wrong with.
inline datasets::Episode random_episode(const TaskSpec& spec, std::int64_t length,
                                        CounterRng& rng) {
  const auto size = [](std::int64_t value) { return static_cast<std::size_t>(value); };
  datasets::Episode episode;
  episode.observations.resize(size((length + 1) * spec.observation.vector_size));
  for (float& value : episode.observations) value = static_cast<float>(rng.normal());
  episode.images.resize(size((length + 1) * spec.observation.image_size()));
  for (std::uint8_t& value : episode.images) value = static_cast<std::uint8_t>(rng.below(256));
  if (spec.action.discrete) {
    episode.discrete_actions.resize(size(length));
    for (std::int32_t& action : episode.discrete_actions)
      action =
          static_cast<std::int32_t>(rng.below(static_cast<std::uint64_t>(spec.action.num_actions)));
  } else {
    episode.actions.resize(size(length * spec.action.size));
    for (float& action : episode.actions) action = static_cast<float>(2.0 * rng.uniform() - 1.0);
  }
  episode.rewards.resize(size(length));
  for (float& reward : episode.rewards) reward = static_cast<float>(rng.uniform());
  episode.terminated.assign(size(length), 0);
  episode.truncated.assign(size(length), 0);
  (rng.below(2) == 0 ? episode.terminated : episode.truncated).back() = 1;
  episode.seed = rng.next_u64();
  if (rng.below(3) > 0) episode.variant = "goal_" + std::to_string(rng.below(1000));
  return episode;
}

inline std::vector<datasets::Episode> random_episodes(const TaskSpec& spec, int count,
                                                      std::int64_t max_length, CounterRng& rng) {
  std::vector<datasets::Episode> episodes;
  for (int i = 0; i < count; ++i)
    episodes.push_back(random_episode(
        spec, 1 + static_cast<std::int64_t>(rng.below(static_cast<std::uint64_t>(max_length))),
        rng));
  return episodes;
}

/// Collects and builds a data set in one go.
inline void write_dataset(const std::filesystem::path& path, const TaskSpec& spec,
                          const std::vector<datasets::Episode>& episodes) {
  datasets::DatasetWriter writer(path, spec, {"test", "1"});
  for (const datasets::Episode& episode : episodes) writer.append(episode);
  writer.finish();
}

/// Bit for bit, NaN included.
inline void expect_same_episode(const datasets::EpisodeView& got,
                                const datasets::EpisodeView& want) {
  const auto same = [](auto a, auto b) {
    return a.size() == b.size() &&
           (a.empty() || std::memcmp(a.data(), b.data(), a.size_bytes()) == 0);
  };
  EXPECT_TRUE(same(got.observations, want.observations));
  EXPECT_TRUE(same(got.images, want.images));
  EXPECT_TRUE(same(got.actions, want.actions));
  EXPECT_TRUE(same(got.discrete_actions, want.discrete_actions));
  EXPECT_TRUE(same(got.rewards, want.rewards));
  EXPECT_TRUE(same(got.terminated, want.terminated));
  EXPECT_TRUE(same(got.truncated, want.truncated));
  EXPECT_EQ(got.seed, want.seed);
  EXPECT_EQ(got.episode_return, want.episode_return);
  EXPECT_EQ(got.variant, want.variant);
}

inline void write_text(const std::filesystem::path& path, std::string_view text) {
  std::ofstream(path, std::ios::binary) << text;
}

/// Short ones, the same in every call.
inline std::vector<datasets::Episode> some_episodes(const TaskSpec& spec, int count = 3) {
  CounterRng rng(7);
  return random_episodes(spec, count, 5, rng);
}

/// The episodes that the writer does not have yet.
inline void append_all(datasets::DatasetWriter& writer,
                       const std::vector<datasets::Episode>& episodes) {
  for (auto e = static_cast<std::size_t>(writer.num_episodes()); e < episodes.size(); ++e)
    writer.append(episodes[e]);
}

inline void expect_dataset(const std::filesystem::path& path,
                           const std::vector<datasets::Episode>& episodes) {
  const datasets::Dataset data(path);
  ASSERT_EQ(data.num_episodes(), std::ssize(episodes));
  for (std::int64_t e = 0; e < data.num_episodes(); ++e)
    expect_same_episode(data.episode(e), view(episodes[static_cast<std::size_t>(e)]));
}

inline std::vector<std::string> names_in(const std::filesystem::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

/// Runs `call` and returns the text of the Error of this kind that it must throw.
template <typename Call>
std::string error_of(ErrorKind kind, Call call) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "threw nothing";
  return {};
}

}  // namespace lram::test
