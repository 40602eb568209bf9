#include "datasets/validate.h"

#include <gtest/gtest.h>

#include <limits>

#include "lram/core/crc32c.h"
#include "lram/core/file.h"
#include "tests/datasets/fixtures.h"
#include "tests/support/temp_folder.h"

namespace lram::datasets::validate_test {
namespace {
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Findings as text after `damage` was done to three good episodes of 4, 2 and 3 steps; D = 3,
// A = 2. The journal of the same episodes must give the same findings.
template <typename Damage>
std::vector<std::string> findings(Damage damage, TaskSpec spec = test::vector_task()) {
  const test::TempFolder folder;
  const auto path = folder.path() / "data.h5";
  CounterRng rng(1);
  std::vector<Episode> episodes;
  for (const std::int64_t length : {4, 2, 3})
    episodes.push_back(test::random_episode(spec, length, rng));
  damage(episodes);
  const auto look = [](const std::filesystem::path& file) {
    std::vector<std::string> texts;
    for (const auto& [place, found, wanted] : validate(EpisodeFile(file)))
      texts.push_back(place + ": " + found + ", wanted " + wanted);
    return texts;
  };
  DatasetWriter writer(path, spec, {"test", "1"});
  test::append_all(writer, episodes);
  const auto in_journal = look(journal_path(path));
  writer.finish();
  EXPECT_EQ(look(path), in_journal);
  return in_journal;
}

using Texts = std::vector<std::string>;
using Episodes = std::vector<Episode>;

TEST(Validate, FindsNothingInGoodData) {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE(seed);
    CounterRng rng(seed);
    EXPECT_EQ(findings([](Episodes&) {}, test::random_task(rng)), Texts{});
  }
}

TEST(Validate, FindsNumbersThatAreNotFinite) {
  EXPECT_EQ(findings([](Episodes& e) { e[1].observations[4] = kNan; }),
            Texts{"/observations[6,1] (episode 1, row 1): nan, wanted a finite number"});
  EXPECT_EQ(findings([](Episodes& e) { e[2].actions[5] = -kInfinity; }),
            Texts{"/actions[8,1] (episode 2, step 2): -inf, wanted a finite number"});
  EXPECT_EQ(findings([](Episodes& e) { e[0].rewards[3] = kNan; }),
            Texts{"/rewards[3] (episode 0, step 3): nan, wanted a finite number"});
}

TEST(Validate, FindsAColumnThatNeverVaries) {
  EXPECT_EQ(findings([](Episodes& episodes) {
              for (Episode& e : episodes)
                for (std::size_t i = 2; i < e.observations.size(); i += 3) e.observations[i] = 0.5f;
            }),
            Texts{"/observations[:,2]: 0.5 in every row, wanted a column that varies"});
  EXPECT_EQ(findings([](Episodes& episodes) {
              for (Episode& e : episodes)
                for (std::size_t i = 1; i < e.actions.size(); i += 2) e.actions[i] = 0.25f;
            }),
            Texts{"/actions[:,1]: 0.25 in every row, wanted a column that varies"});
}

TEST(Validate, FindsActionsOutsideTheirBounds) {
  EXPECT_EQ(findings([](Episodes& e) { e[1].actions[0] = 1.25f; }),
            Texts{"/actions[4,0] (episode 1, step 0): 1.25, wanted -1 to 1"});
  EXPECT_EQ(findings([](Episodes& e) { e[1].actions[0] = -1.0f; }), Texts{});
  TaskSpec discrete = test::vector_task();
  discrete.action = {.discrete = true, .size = 1, .num_actions = 4, .low = {}, .high = {}};
  EXPECT_EQ(findings(
                [](Episodes& e) {
                  e[0].discrete_actions[1] = -1;
                  e[2].discrete_actions[0] = 4;
                },
                discrete),
            (Texts{"/actions[1] (episode 0, step 1): -1, wanted 0 to 3",
                   "/actions[6] (episode 2, step 0): 4, wanted 0 to 3"}));
}

TEST(Validate, ABoundIsComparedInThePrecisionOfTheData) {
  TaskSpec spec = test::vector_task();
  spec.action.low = {-0.1, -0.1};  // as float32 it lies below the double
  spec.action.high = {0.1, 0.1};
  EXPECT_EQ(findings(
                [](Episodes& episodes) {
                  for (Episode& e : episodes)
                    for (float& action : e.actions) action = action > 0 ? 0.1f : -0.1f;
                },
                spec),
            Texts{});
}

TEST(Validate, FindsWrongFlags) {
  EXPECT_EQ(findings([](Episodes& e) { e[0].terminated[1] = 1; }),
            Texts{"/terminated[1] (episode 0, step 1): 1, wanted 0 before the last step"});
  EXPECT_EQ(findings([](Episodes& e) { e[1].truncated[0] = 2; }),
            Texts{"/truncated[4] (episode 1, step 0): 2, wanted 0 or 1"});
  EXPECT_EQ(findings([](Episodes& e) { e[2].terminated[2] = e[2].truncated[2] = 0; }),
            Texts{"/episodes[2]: neither terminated nor truncated at its end, wanted one of them"});
}

TEST(Validate, FindsEpisodesBeyondTheTimeLimit) {
  TaskSpec spec = test::vector_task();
  spec.max_episode_steps = 3;
  EXPECT_EQ(findings([](Episodes&) {}, spec),
            Texts{"/episodes/length[0]: 4, wanted at most 3, the task's limit"});
  spec.max_episode_steps = 0;  // none
  EXPECT_EQ(findings([](Episodes&) {}, spec), Texts{});
}

TEST(Validate, SpellsOutFiveOfAKindAndCountsTheRest) {
  const Texts texts = findings([](Episodes& e) { e[0].actions.assign(8, 3.0f); });
  ASSERT_EQ(texts.size(), 6u);
  EXPECT_EQ(texts[5], "/actions: 3 more like these, wanted -1 to 1");
}

TEST(Validate, FindsAFalseReturnAndABrokenChecksum) {
  const test::TempFolder folder;
  const auto path = folder.path() / "data.h5";
  const TaskSpec spec = test::vector_task();
  const auto episodes = test::some_episodes(spec);
  test::write_dataset(path, spec, episodes);
  std::size_t at = 0;
  {
    const Dataset data(path);
    at = static_cast<std::size_t>(reinterpret_cast<const char*>(data.returns().data()) -
                                  reinterpret_cast<const char*>(data.arrays()[0].bytes.data()));
  }
  std::string bytes = read_file(path);
  at += bytes.find(std::string(reinterpret_cast<const char*>(episodes[0].observations.data()),
                               episodes[0].observations.size() * 4));
  const double wrong = 1e9;
  std::memcpy(bytes.data() + at + 8, &wrong, 8);
  test::write_text(path, bytes);
  const auto found = validate(EpisodeFile(path));
  ASSERT_EQ(found.size(), 2u);
  EXPECT_EQ(found[0].place, "/episodes/return");
  EXPECT_TRUE(found[0].found.starts_with("CRC32C "));
  EXPECT_EQ(found[1].place, "/episodes/return[1]");
  EXPECT_EQ(found[1].found, "1000000000");
}

TEST(Validate, FindsTheUnfinishedTailOfAJournal) {
  const test::TempFolder folder;
  const auto path = folder.path() / "data.h5", part = journal_path(path);
  const TaskSpec spec = test::vector_task();
  {
    DatasetWriter writer(path, spec, {"test", "1"});
    test::append_all(writer, test::some_episodes(spec));
  }
  const std::string whole = read_file(part);
  test::write_text(part, whole.substr(0, whole.size() - 10));
  const auto found = validate(EpisodeFile(part));
  ASSERT_EQ(found.size(), 1u);
  EXPECT_TRUE(found[0].found.ends_with(" bytes of an unfinished episode")) << found[0].found;
}
}  // namespace
}  // namespace lram::datasets::validate_test
