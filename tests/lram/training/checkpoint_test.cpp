#include "lram/training/checkpoint.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <fstream>
#include <set>
#include <string>

#include "lram/core/error.h"
#include "lram/core/file.h"
#include "lram/core/manifest.h"
#include "lram/core/rng.h"
#include "tests/support/temp_folder.h"

namespace lram::training {
namespace {
namespace fs = std::filesystem;

/// What a checkpoint of `step` holds in these tests.
void fill(const fs::path& folder, std::int64_t step, std::size_t size = 1000) {
  write_file_atomically(folder / "config.json", "{}");
  write_file_atomically(folder / "model.safetensors", std::string(size, char('a' + step % 26)));
  make_folder(folder / "training_state");
  write_file_atomically(folder / "training_state/state.json", std::to_string(step));
}

class CheckpointTest : public testing::Test {
 protected:
  fs::path write(std::int64_t step, std::int64_t keep = 0) {
    return CheckpointFolder(folder(), keep).write(step, [&](const fs::path& path) {
      fill(path, step);
    });
  }
  fs::path folder() const { return temp_.path() / "checkpoints"; }
  std::set<std::string> names() const {
    std::set<std::string> out;
    for (const auto& item : fs::directory_iterator(folder())) out.insert(item.path().filename());
    return out;
  }
  /// The newest whole one by name; what it warned about goes to warnings_.
  std::string newest() {
    testing::internal::CaptureStderr();
    const auto path = CheckpointFolder(folder(), 0).newest_whole();
    warnings_ = testing::internal::GetCapturedStderr();
    return path ? path->filename().string() : "none";
  }
  std::string warnings_;
  test::TempFolder temp_;
};

TEST_F(CheckpointTest, LastIsARelativeLinkToTheNewest) {
  write(100);
  EXPECT_EQ(write(200), folder() / "000000200");
  EXPECT_EQ(names(), (std::set<std::string>{"000000100", "000000200", "last"}));
  EXPECT_EQ(fs::read_symlink(folder() / "last"), "000000200");
  EXPECT_EQ(read_file(folder() / "last/training_state/state.json"), "200");
  EXPECT_NO_THROW(verify_manifest(folder() / "last"));
  EXPECT_EQ(newest(), "000000200");
}

TEST_F(CheckpointTest, KeepsTheNewestOnes) {
  for (int step = 1; step <= 5; ++step) write(step, 2);
  EXPECT_EQ(names(), (std::set<std::string>{"000000004", "000000005", "last"}));
}

TEST_F(CheckpointTest, SameStepAgainReplaces) {
  write(1);
  std::ofstream(folder() / "000000001/config.json") << "broken";
  EXPECT_EQ(newest(), "none");
  write(1);
  EXPECT_EQ(newest(), "000000001");
}

TEST_F(CheckpointTest, NoneInAnEmptyOrMissingFolder) {
  EXPECT_EQ(newest(), "none");
  make_folder(folder());
  EXPECT_EQ(newest(), "none");
}

TEST_F(CheckpointTest, AnyDamageFallsBackToTheOneBefore) {
  write(1);
  const fs::path last = write(2);
  CounterRng rng(1);
  for (const char* file :
       {"config.json", "model.safetensors", "training_state/state.json", kManifestName}) {
    const std::string good = read_file(last / file);
    const auto check = [&](const std::string& bad, const std::string& what) {
      std::ofstream(last / file, std::ios::binary) << bad;
      EXPECT_EQ(newest(), "000000001") << file << " " << what;
      EXPECT_NE(warnings_.find("checkpoint 000000002 is broken, trying the one before"),
                std::string::npos);
    };
    for (int n = 0; n < 20; ++n) {
      const auto length = rng.below(good.size());
      check(good.substr(0, length), fmt::format("cut to {} bytes", length));
      std::string flipped = good;
      const auto byte = rng.below(good.size()), bit = rng.below(8);
      flipped[byte] = static_cast<char>(flipped[byte] ^ (1 << bit));
      check(flipped, fmt::format("byte {} bit {} flipped", byte, bit));
    }
    check(good + "x", "one byte more");
    fs::remove(last / file);
    EXPECT_EQ(newest(), "000000001") << file << " removed";
    std::ofstream(last / file, std::ios::binary) << good;
    EXPECT_EQ(newest(), "000000002");
  }
}

TEST_F(CheckpointTest, WhereverTheDiskFailsTheOldOneStays) {
  for (int countdown = 1;; ++countdown) {
    fs::remove_all(folder());
    write(1);
    bool threw = false;
    internal::inject_file_fault(countdown, ENOSPC);
    try {
      write(2);
    } catch (const Error& error) {
      threw = true;
      EXPECT_EQ(error.kind(), ErrorKind::kResource) << error.what();
    }
    if (!internal::inject_file_fault(0, 0)) break;  // fewer calls than that: all were tried
    EXPECT_TRUE(threw) << "call " << countdown;
    for (const std::string& name : names()) EXPECT_FALSE(name.ends_with(".new")) << name;
    const std::string found = newest();
    EXPECT_TRUE(found == "000000001" || found == "000000002") << "call " << countdown;
    EXPECT_NO_THROW(verify_manifest(folder() / "last")) << "call " << countdown;
    write(3);
    EXPECT_EQ(newest(), "000000003");
  }
}

TEST_F(CheckpointTest, FileSizeLimitIsAnErrorAndLeavesNoLitter) {
  write(1);
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  const rlimit small{500, before.rlim_max};
  setrlimit(RLIMIT_FSIZE, &small);
  try {
    write(2);
    ADD_FAILURE() << "1000 bytes fitted under a limit of 500";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kResource);
    EXPECT_NE(std::string(error.what()).find("model.safetensors"), std::string::npos);
    EXPECT_NE(std::string(error.what()).find("File too large"), std::string::npos);
  }
  setrlimit(RLIMIT_FSIZE, &before);
  EXPECT_EQ(names(), (std::set<std::string>{"000000001", "last"}));
  EXPECT_EQ(newest(), "000000001");
}

TEST_F(CheckpointTest, KilledAtAnyMomentTheRestIsWhole) {
  constexpr int kRounds = 30;
  write(1);
  CounterRng rng(7);
  std::int64_t reached = 1;
  for (int round = 0; round < kRounds; ++round) {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      for (std::int64_t step = reached + 1;; ++step)
        CheckpointFolder(folder(), 3).write(step, [&](const fs::path& path) {
          fill(path, step, 200'000);
        });
    }
    usleep(static_cast<useconds_t>(rng.below(300'000)));  // a write takes some 100 ms
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    const std::string found = newest();
    // Nothing broken has a checkpoint's name, and nothing finished was lost.
    EXPECT_EQ(warnings_, "") << "round " << round;
    ASSERT_NE(found, "none") << "round " << round;
    EXPECT_GE(std::stoll(found), reached);
    EXPECT_NO_THROW(verify_manifest(folder() / "last")) << "round " << round;
    reached = std::stoll(found);
  }
  EXPECT_GT(reached, 1) << "no checkpoint was ever finished";
}
}  // namespace
}  // namespace lram::training
