#include "datasets/sampler.h"

#include <gtest/gtest.h>

#include <map>
#include <numeric>
#include <set>

#include "tests/datasets/fixtures.h"
#include "tests/support/temp_folder.h"

namespace lram::datasets::sampler_test {
namespace {
using test::error_of;

// A data set with episodes of these lengths.
class Data {
 public:
  explicit Data(const std::vector<std::int64_t>& lengths) : dataset_(write(lengths)) {}
  const Dataset& operator*() const { return dataset_; }
  Source all() const {
    Source source{&dataset_, std::vector<std::int64_t>(dataset_.lengths().size())};
    std::iota(source.episodes.begin(), source.episodes.end(), 0);
    return source;
  }

 private:
  std::filesystem::path write(const std::vector<std::int64_t>& lengths) {
    const TaskSpec spec = test::vector_task(1, 1);
    CounterRng rng(1);
    std::vector<Episode> episodes;
    for (const std::int64_t length : lengths)
      episodes.push_back(test::random_episode(spec, length, rng));
    test::write_dataset(folder_.path() / "data.h5", spec, episodes);
    return folder_.path() / "data.h5";
  }
  test::TempFolder folder_;
  Dataset dataset_;
};

TEST(WindowSampler, EveryStepEndsAWindowEquallyOften) {
  const Data a({7, 1, 30}), b({12});
  const WindowSampler sampler({a.all(), b.all()}, 10, /*seed=*/3);
  ASSERT_EQ(sampler.num_steps(), 50);
  std::map<std::tuple<std::int64_t, std::int64_t, std::int64_t>, int> counts;
  constexpr int kPerStep = 2000;
  for (std::uint64_t n = 0; n < 50 * kPerStep; ++n) {
    const Window window = sampler.draw(n);
    EXPECT_EQ(window.start, std::max<std::int64_t>(0, window.end - 10));
    EXPECT_GE(window.end, 1);
    EXPECT_LE(window.end, (window.source == 0 ? *a : *b).length(window.episode));
    EXPECT_FALSE(window.carries_state);
    ++counts[{window.source, window.episode, window.end}];
  }
  EXPECT_EQ(counts.size(), 50u);  // the last step of each episode among them
  double chi_square = 0.0;
  for (const auto& [window, count] : counts)
    chi_square += (count - kPerStep) * (count - kPerStep) / static_cast<double>(kPerStep);
  EXPECT_LT(chi_square, 94.0);  // 49 degrees of freedom: exceeded once in 10,000 seeds
}

TEST(WindowSampler, ADrawIsAPureFunctionOfItsIndex) {
  const Data a({50, 20});
  const WindowSampler one({a.all()}, 16, 5), again({a.all()}, 16, 5);
  const WindowSampler other_seed({a.all()}, 16, 6), other_stream({a.all()}, 16, 5, 1);
  std::vector<Window> forwards;
  for (std::uint64_t n = 0; n < 200; ++n) forwards.push_back(one.draw(n));
  int same_as_seed = 0, same_as_stream = 0;
  for (std::uint64_t n = 200; n-- > 0;) {
    EXPECT_EQ(again.draw(n), forwards[n]);
    same_as_seed += other_seed.draw(n) == forwards[n];
    same_as_stream += other_stream.draw(n) == forwards[n];
  }
  EXPECT_LT(same_as_seed, 20);  // 1 of 70 by chance
  EXPECT_LT(same_as_stream, 20);
}

TEST(WindowSampler, SamplesOnlyTheGivenEpisodes) {
  const Data a({10, 10, 10});
  const WindowSampler sampler({{&*a, {1}}}, 4, 0);
  for (std::uint64_t n = 0; n < 100; ++n) EXPECT_EQ(sampler.draw(n).episode, 1);
}

TEST(WindowSampler, RefusesNothingToSample) {
  const Data a({10});
  error_of(ErrorKind::kUsage, [&] { WindowSampler({}, 4, 0); });
  error_of(ErrorKind::kUsage, [&] { WindowSampler({{&*a, {}}}, 4, 0); });
  error_of(ErrorKind::kUsage, [&] { WindowSampler({a.all()}, 0, 0); });
  error_of(ErrorKind::kUsage, [&] { CarriedWalk({a.all()}, 0, 0, 0); });
}

TEST(CarriedWalk, WalksThroughEveryEpisodeOncePerPass) {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE(seed);
    CounterRng rng(seed);
    const Data a({1 + static_cast<std::int64_t>(rng.below(40)), 17, 1}), b({8, 25});
    const auto context = 1 + static_cast<std::int64_t>(rng.below(12));
    CarriedWalk walk({a.all(), b.all()}, context, seed, /*row=*/seed);
    // The rest of the episode that the walk enters in its middle.
    Window window = walk.next();
    EXPECT_FALSE(window.carries_state);
    std::vector<std::pair<std::int64_t, std::int64_t>> visited;
    Window previous = window;
    std::set<std::int64_t> first_lengths;
    for (int i = 0; i < 2000; ++i) {
      window = walk.next();
      ASSERT_GE(window.length(), 1);
      ASSERT_LE(window.length(), context);
      const auto length = [&](const Window& w) {
        return (w.source == 0 ? *a : *b).length(w.episode);
      };
      if (window.carries_state) {
        ASSERT_EQ(window.episode, previous.episode);
        ASSERT_EQ(window.source, previous.source);
        ASSERT_EQ(window.start, previous.end);
      } else {
        ASSERT_EQ(previous.end, length(previous));
        ASSERT_EQ(window.start, 0);
        visited.push_back({window.source, window.episode});
        if (length(window) >= context) first_lengths.insert(window.length());
      }
      if (window.end < length(window) && window.carries_state) {
        ASSERT_EQ(window.length(), context);
      }
      previous = window;
    }
    // The first pass begins with an episode that was not listed; from then on five by five.
    for (std::size_t pass = 4; pass + 5 <= visited.size(); pass += 5) {
      const auto begin = visited.begin() + static_cast<std::ptrdiff_t>(pass);
      EXPECT_EQ(std::set(begin, begin + 5).size(), 5u);
    }
    if (visited.size() > 500) {
      EXPECT_EQ(std::ssize(first_lengths), context);
    }
  }
}

TEST(CarriedWalk, ResumesAtAnyIndex) {
  const Data a({40, 3, 21, 9});
  CarriedWalk walk({a.all()}, 7, /*seed=*/2, /*row=*/3);
  for (std::uint64_t n = 0; n < 300; ++n) {
    CarriedWalk resumed({a.all()}, 7, 2, 3, n);
    ASSERT_EQ(walk.next_index(), n);
    const Window window = walk.next();
    EXPECT_EQ(resumed.next(), window) << n;
  }
}

TEST(CarriedWalk, RowsGoTheirOwnWays) {
  const Data a(std::vector<std::int64_t>(6, 100));
  CarriedWalk first({a.all()}, 10, 0, 0), second({a.all()}, 10, 0, 1);
  int same = 0;
  for (int i = 0; i < 500; ++i) same += first.next() == second.next();
  EXPECT_LT(same, 50);
}

TEST(Split, HoldsTheFractionButAtLeastOneOfEach) {
  const Data two({5, 5}), forty(std::vector<std::int64_t>(40, 2)),
      hundred(std::vector<std::int64_t>(100, 1));
  EXPECT_EQ(split_episodes(*two, 0).validation.size(), 1u);
  EXPECT_EQ(split_episodes(*two, 0, 0.0).validation.size(), 1u);
  EXPECT_EQ(split_episodes(*two, 0, 0.99).train.size(), 1u);
  EXPECT_EQ(split_episodes(*forty, 0).validation.size(), 1u);
  EXPECT_EQ(split_episodes(*hundred, 0).validation.size(), 3u);  // 2.5 rounds up
  std::set<std::int64_t> drawn;
  for (std::uint64_t seed = 0; seed < 400; ++seed) {
    const Split split = split_episodes(*forty, seed);
    std::vector<std::int64_t> all = split.train;
    all.insert(all.end(), split.validation.begin(), split.validation.end());
    EXPECT_EQ(std::set(all.begin(), all.end()).size(), 40u);
    EXPECT_TRUE(std::ranges::is_sorted(split.train));
    EXPECT_EQ(split_episodes(*forty, seed).validation, split.validation);
    drawn.insert(split.validation[0]);
  }
  EXPECT_EQ(drawn.size(), 40u);
}

TEST(Split, OfOneEpisodeIsAnError) {
  const Data one({5});
  EXPECT_EQ(
      error_of(ErrorKind::kInput, [&] { split_episodes(*one, 0); }),
      (*one).path().string() + ": 1 episode, wanted at least 2: one to train on, one to validate");
}
}  // namespace
}  // namespace lram::datasets::sampler_test
