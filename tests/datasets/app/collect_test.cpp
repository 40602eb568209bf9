// The verb from the outside: what scripts rely on.
#include <fmt/core.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <thread>

#include "datasets/journal.h"
#include "datasets/reader.h"
#include "datasets/writer.h"
#include "lram/core/file.h"
#include "lram/core/json.h"
#include "tests/support/run_command.h"

namespace lram::collect_test {
namespace {
namespace fs = std::filesystem;
using datasets::Dataset;
using test::CommandResult;

std::vector<std::string> command(const std::string& task, const std::string& agent, int episodes,
                                 const fs::path& out, std::vector<std::string> more = {}) {
  std::vector<std::string> words = {
      test::program("lram"),    "data",  "collect", "--task", task, "--agent", agent, "--episodes",
      std::to_string(episodes), "--out", out};
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

/// Starts `words`, waits until the journal of `out` has `bytes`, and sends `signal`; the exit code,
/// or 128 + the signal that ended it.
int run_and_signal(const std::vector<std::string>& words, const fs::path& out, std::uintmax_t bytes,
                   int signal) {
  std::vector<char*> argv;
  for (const std::string& word : words) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  const pid_t child = fork();
  if (child == 0) {
    execv(argv[0], argv.data());
    _exit(127);
  }
  const fs::path journal = out.string() + ".part";
  std::error_code missing;
  for (int i = 0; i < 6000; ++i) {
    const std::uintmax_t size = fs::file_size(journal, missing);
    if (!missing && size >= bytes) break;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  kill(child, signal);
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

TEST(Collect, RecordsTheExecutedOrTheIntendedAction) {
  const test::TempFolder folder;
  for (const std::string record : {"executed", "intended"}) {
    const fs::path out = folder.path() / (record + ".h5");
    const CommandResult result =
        test::run_command(command("point_mass_easy", "controller", 1, out,
                                  {"--noise", "0.5", "--noise-share", "1", "--record", record}));
    ASSERT_EQ(result.exit_code, 0) << result.err;
    const Dataset data(out);
    const datasets::EpisodeView episode = data.episode(0);
    double largest = 0.0;  // difference to what the controller says of the same observation
    for (std::size_t t = 0; t < 1000; ++t)
      for (std::size_t i = 0; i < 2; ++i) {
        const float* obs = &episode.observations[4 * t];
        const double law = std::clamp(-(12.0 * obs[i] + 4.0 * obs[2 + i]), -1.0, 1.0);
        largest = std::max(largest, std::abs(law - episode.actions[2 * t + i]));
      }
    if (record == "intended")
      EXPECT_LT(largest, 1e-6);  // float32
    else
      EXPECT_GT(largest, 0.5);
  }
  EXPECT_EQ(test::run_command(command("point_mass_easy", "controller", 1, folder.path() / "x.h5",
                                      {"--record", "both"}))
                .exit_code,
            2);
}

TEST(Collect, WritesTheEpisodesOfItsSeedsInOrder) {
  const test::TempFolder folder;
  const fs::path out = folder.path() / "sweep.h5";
  const CommandResult result =
      test::run_command(command("dark_room_10x10_dense", "sweep", 7, out, {"--first-seed", "40"}));
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const Dataset data(out);
  EXPECT_EQ(data.spec().id, "grid/dark_room_10x10_dense");
  EXPECT_EQ(data.generator().name, "sweep");
  ASSERT_EQ(data.num_episodes(), 7);
  for (int i = 0; i < 7; ++i) {
    EXPECT_EQ(data.episode(i).seed, 40u + static_cast<unsigned>(i));
    EXPECT_TRUE(data.episode(i).variant.starts_with("goal_")) << data.episode(i).variant;
    EXPECT_EQ(data.episode(i).truncated.back(), 1);
  }
  EXPECT_FALSE(fs::exists(out.string() + ".part"));
}

TEST(Collect, TheFileDoesNotDependOnTheThreads) {
  const test::TempFolder folder;
  const fs::path one = folder.path() / "one.h5", four = folder.path() / "four.h5";
  const std::vector<std::string> small = {"--settings", "horizon=4,samples=3,elites=2", "--noise",
                                          "0.3"};
  const auto with_threads = [&](const char* threads) {
    std::vector<std::string> more = small;
    more.insert(more.end(), {"--threads", threads});
    return more;
  };
  ASSERT_EQ(
      test::run_command(command("reacher_easy", "planner", 5, one, with_threads("1"))).exit_code,
      0);
  ASSERT_EQ(
      test::run_command(command("reacher_easy", "planner", 5, four, with_threads("4"))).exit_code,
      0);
  EXPECT_EQ(read_file(one), read_file(four));
}

TEST(Collect, AHistoryIsOneGoalInTheOrderOfLearning) {
  const test::TempFolder folder;
  const fs::path out = folder.path() / "q.h5";
  const CommandResult result = test::run_command(command(
      "dark_room_10x10_dense", "q_learning", 250, out, {"--settings", "history=100", "--json"}));
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(parse_json(result.out)["episodes"], 250);
  const Dataset data(out);
  for (int i = 0; i < 250; ++i) {
    EXPECT_EQ(data.episode(i).seed, static_cast<unsigned>(i) / 100);
    EXPECT_EQ(data.episode(i).variant, data.episode(i / 100 * 100).variant);
  }
}

TEST(Collect, StoppedItLeavesAWholeFileAndGoesOn) {
  const test::TempFolder folder;
  const fs::path out = folder.path() / "data.h5", whole = folder.path() / "whole.h5";
  const std::vector<std::string> slow = {"--threads", "1", "--settings", "samples=8"};
  const auto words = command("pendulum_swingup", "planner", 6, out, slow);
  EXPECT_EQ(run_and_signal(words, out, 20'000, SIGINT), 130);
  const std::int64_t stopped_at = Dataset(out).num_episodes();
  EXPECT_GE(stopped_at, 1);
  EXPECT_LT(stopped_at, 6);

  const CommandResult result = test::run_command(words);
  ASSERT_EQ(result.exit_code, 0) << result.err;
  ASSERT_EQ(test::run_command(command("pendulum_swingup", "planner", 6, whole, slow)).exit_code, 0);
  EXPECT_EQ(read_file(out), read_file(whole));
}

TEST(Collect, KilledItGoesOnBehindTheLastWholeEpisode) {
  const test::TempFolder folder;
  const fs::path out = folder.path() / "data.h5", whole = folder.path() / "whole.h5";
  const std::vector<std::string> slow = {"--threads", "2", "--settings", "samples=8"};
  const auto words = command("pendulum_swingup", "planner", 6, out, slow);
  EXPECT_EQ(run_and_signal(words, out, 40'000, SIGKILL), 128 + SIGKILL);
  EXPECT_FALSE(fs::exists(out));

  const CommandResult result = test::run_command(words);
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_NE(result.err.find("episodes_found="), std::string::npos) << result.err;
  ASSERT_EQ(test::run_command(command("pendulum_swingup", "planner", 6, whole, slow)).exit_code, 0);
  EXPECT_EQ(read_file(out), read_file(whole));
}

TEST(Collect, AKillLosesNoEpisodeThatHasEnded) {
  const test::TempFolder folder;
  const fs::path out = folder.path() / "data.h5", whole = folder.path() / "whole.h5";
  const std::vector<std::string> slow = {"--threads", "3", "--settings", "samples=8"};
  const auto words = command("pendulum_swingup", "planner", 7, out, slow);
  EXPECT_EQ(run_and_signal(words, out, 40'000, SIGKILL), 128 + SIGKILL);
  const datasets::Journal journal(out.string() + ".part");
  const std::size_t ended = journal.episodes().size();
  ASSERT_GE(ended, 1u);

  const CommandResult result = test::run_command(words);
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_NE(result.err.find(fmt::format("episodes_found={}", ended)), std::string::npos)
      << result.err;
  ASSERT_EQ(test::run_command(command("pendulum_swingup", "planner", 7, whole, slow)).exit_code, 0);
  EXPECT_EQ(read_file(out), read_file(whole));
}

TEST(Collect, GoesOnWhereSeedsAreMissing) {
  const test::TempFolder folder;
  const fs::path out = folder.path() / "data.h5", whole = folder.path() / "whole.h5";
  const auto words = command("dark_room_10x10_dense", "sweep", 6, out);
  ASSERT_EQ(test::run_command(command("dark_room_10x10_dense", "sweep", 6, whole)).exit_code, 0);
  {  // as several threads may leave it: 4 and 1 have ended, 0, 2, 3 and 5 have not
    const Dataset source(whole);
    datasets::DatasetWriter writer(out, source.spec(), source.generator());
    for (const std::int64_t index : {4, 1}) writer.append(source.episode(index));
  }
  const CommandResult result = test::run_command(words);
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(read_file(out), read_file(whole));
}

TEST(Collect, AKilledHistoryGoesOnWhereItWas) {
  const test::TempFolder folder;
  const fs::path out = folder.path() / "q.h5", whole = folder.path() / "whole.h5";
  const auto words = command("dark_room_10x10_dense", "q_learning", 400, out);
  run_and_signal(words, out, 60'000, SIGKILL);
  ASSERT_EQ(test::run_command(words).exit_code, 0);
  ASSERT_EQ(test::run_command(command("dark_room_10x10_dense", "q_learning", 400, whole)).exit_code,
            0);
  EXPECT_EQ(read_file(out), read_file(whole));
}

TEST(Collect, WhatCannotBeDoneExitsWithItsReason) {
  const test::TempFolder folder;
  const fs::path out = folder.path() / "data.h5";
  const auto expect_refused = [](const std::vector<std::string>& words, int code,
                                 const std::string& reason) {
    const CommandResult result = test::run_command(words);
    EXPECT_EQ(result.exit_code, code) << result.err;
    EXPECT_NE(result.err.find(reason), std::string::npos) << result.err;
  };
  expect_refused(command("cartpole_swingu", "planner", 1, out), 2,
                 "did you mean 'cartpole_swingup'?");
  expect_refused(command("cartpole_swingup", "planer", 1, out), 2, "did you mean 'planner'?");
  expect_refused(command("cartpole_swingup", "planner", 0, out), 2,
                 "--episodes is 0, wanted at least 1");
  expect_refused(command("cartpole_swingup", "planner", 1, out, {"--noise-share", "2"}), 2,
                 "--noise-share is 2, wanted a share in 0..1");
  expect_refused(command("cartpole_swingup", "planner", 1, out, {"--theads", "2"}), 2,
                 "did you mean '--threads'?");
  expect_refused(command("cartpole_swingup", "sweep", 1, out), 2, "it wants a grid world");
  EXPECT_FALSE(fs::exists(out.string() + ".part"));

  ASSERT_EQ(test::run_command(command("dark_room_10x10_dense", "sweep", 1, out)).exit_code, 0);
  expect_refused(command("dark_room_10x10_dense", "random", 2, out), 3, "collected by 'sweep'");
  expect_refused(command("dark_room_10x10_dense", "sweep", 2, out, {"--first-seed", "5"}), 3,
                 "first_seed=0");
  expect_refused(command("dark_room_10x10_dense", "sweep", 1, out / "data.h5"), 4, "data.h5");
}
}  // namespace
}  // namespace lram::collect_test
