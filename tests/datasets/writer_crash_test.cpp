#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>

#include "datasets/journal.h"
#include "datasets/reader.h"
#include "datasets/writer.h"
#include "lram/core/file.h"
#include "tests/datasets/fixtures.h"
#include "tests/support/temp_folder.h"

namespace lram::datasets {
namespace {
namespace fs = std::filesystem;
using test::append_all;
using test::error_of;
using test::expect_dataset;
using test::names_in;
using test::some_episodes;
using test::write_text;

const Generator kGenerator{"test", "1"};

// Runs `work` in a child process and returns its exit code, or 128 + the signal that ended it.
template <typename Work>
int in_child(Work work) {
  const pid_t child = fork();
  if (child == 0) {
    int code = 0;
    try {
      work();
    } catch (const Error& error) {
      code = static_cast<int>(error.kind());
    } catch (...) {
      code = 99;
    }
    _exit(code);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

TEST(DatasetWriter, ATornTailAtAnyByteIsCut) {
  const test::TempFolder folder;
  const fs::path path = folder.path() / "data.h5", part = journal_path(path);
  const TaskSpec spec = test::vector_task();
  const auto episodes = some_episodes(spec);
  std::uint64_t two = 0;
  {
    DatasetWriter writer(path, spec, kGenerator);
    writer.append(episodes[0]);
    writer.append(episodes[1]);
    two = fs::file_size(part);
    writer.append(episodes[2]);
  }
  const std::string whole = read_file(part);
  for (std::uint64_t size = two; size < whole.size(); ++size) {
    SCOPED_TRACE(size);
    write_text(part, std::string_view(whole).substr(0, size));
    DatasetWriter writer(path, spec, kGenerator);
    ASSERT_EQ(writer.num_episodes(), 2);
    ASSERT_EQ(fs::file_size(part), two);
    writer.append(episodes[2]);
    ASSERT_EQ(read_file(part), whole);
  }
  // A crash of the machine may leave the length without the bytes.
  std::string zeros = whole;
  std::fill(zeros.begin() + static_cast<std::ptrdiff_t>(two), zeros.end(), '\0');
  write_text(part, zeros);
  DatasetWriter writer(path, spec, kGenerator);
  EXPECT_EQ(writer.num_episodes(), 2);
  append_all(writer, episodes);
  writer.finish();
  expect_dataset(path, episodes);
}

TEST(DatasetWriter, ADamagedEpisodeWithOthersBehindItIsNotCut) {
  const test::TempFolder folder;
  const fs::path path = folder.path() / "data.h5", part = journal_path(path);
  const TaskSpec spec = test::vector_task();
  std::uint64_t one = 0;
  {
    DatasetWriter writer(path, spec, kGenerator);
    for (const Episode& episode : some_episodes(spec)) {
      writer.append(episode);
      if (one == 0) one = fs::file_size(part);
    }
  }
  const std::string whole = read_file(part);
  for (const std::uint64_t at : {one, one + 8, one + kAlignment + 3}) {
    SCOPED_TRACE(at);
    std::string damaged = whole;
    damaged[at] = static_cast<char>(damaged[at] ^ 4);
    write_text(part, damaged);
    const std::string text =
        error_of(ErrorKind::kInput, [&] { DatasetWriter(path, spec, kGenerator); });
    EXPECT_NE(text.find(part.string() + ": episode 1 at byte"), std::string::npos) << text;
    EXPECT_EQ(read_file(part), damaged);
  }
}

TEST(DatasetWriter, KillLosesAtMostTheEpisodeUnderWay) {
  const test::TempFolder folder;
  const fs::path path = folder.path() / "data.h5";
  const TaskSpec spec = test::vector_task();
  // Episode e is the same in every process.
  const auto episode = [&](std::int64_t e) {
    CounterRng rng(static_cast<std::uint64_t>(e));
    return test::random_episode(spec, 1 + static_cast<std::int64_t>(rng.below(200)), rng);
  };
  CounterRng rng(1);
  std::int64_t reported = 0;
  for (int round = 0; round < 25; ++round) {
    SCOPED_TRACE(round);
    int pipe_ends[2];
    ASSERT_EQ(pipe(pipe_ends), 0);
    const pid_t child = fork();
    if (child == 0) {
      DatasetWriter writer(path, spec, kGenerator);
      for (;;) {
        writer.append(episode(writer.num_episodes()));
        const std::int64_t count = writer.num_episodes();
        if (write(pipe_ends[1], &count, sizeof count) < 0) _exit(1);
      }
    }
    close(pipe_ends[1]);
    std::int64_t count = 0;
    const std::int64_t wanted = reported + 1 + static_cast<std::int64_t>(rng.below(5));
    while (count < wanted && read(pipe_ends[0], &count, sizeof count) == sizeof count) {
    }
    usleep(static_cast<useconds_t>(rng.below(3000)));
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    reported = count;
    while (read(pipe_ends[0], &count, sizeof count) == sizeof count) reported = count;
    close(pipe_ends[0]);
    // An episode may have become complete right before the kill.
    const DatasetWriter writer(path, spec, kGenerator);
    ASSERT_GE(writer.num_episodes(), reported);
    ASSERT_LE(writer.num_episodes(), reported + 1);
    reported = writer.num_episodes();
  }
  DatasetWriter(path, spec, kGenerator).finish();
  const Dataset data(path);
  ASSERT_EQ(data.num_episodes(), reported);
  for (std::int64_t e = 0; e < reported; ++e)
    test::expect_same_episode(data.episode(e), view(episode(e)));
}

TEST(DatasetWriter, KillWhileBuildingTheFileLosesNothing) {
  const TaskSpec spec = test::vector_task();
  const auto episodes = some_episodes(spec, 20);
  CounterRng rng(2);
  for (int round = 0; round < 25; ++round) {
    SCOPED_TRACE(round);
    const test::TempFolder folder;
    const fs::path path = folder.path() / "data.h5";
    {
      DatasetWriter writer(path, spec, kGenerator);
      append_all(writer, episodes);
    }
    const pid_t child = fork();
    if (child == 0) {
      DatasetWriter(path, spec, kGenerator).finish();
      _exit(0);
    }
    usleep(static_cast<useconds_t>(rng.below(30000)));
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    if (fs::exists(path)) expect_dataset(path, episodes);
    DatasetWriter writer(path, spec, kGenerator);
    EXPECT_EQ(writer.num_episodes(), 20);
    writer.finish();
    expect_dataset(path, episodes);
    EXPECT_FALSE(fs::exists(journal_path(path)));
  }
}

// Collects into `path`, with the n-th file call failing for n = 1, 2, ... until none is left to
// fail; each time a second run must complete the data set.
void fail_every_call(int code, int already_finished) {
  const TaskSpec spec = test::vector_task();
  const auto episodes = some_episodes(spec);
  for (int n = 1;; ++n) {
    SCOPED_TRACE(n);
    const test::TempFolder folder;
    const fs::path path = folder.path() / "data.h5";
    if (already_finished > 0)
      test::write_dataset(path, spec, {episodes.begin(), episodes.begin() + already_finished});
    std::int64_t complete = 0;
    bool failed = false;
    internal::inject_file_fault(n, code);
    try {
      DatasetWriter writer(path, spec, kGenerator);
      while (writer.num_episodes() < 3) {
        complete = writer.num_episodes();
        writer.append(episodes[static_cast<std::size_t>(complete)]);
      }
      complete = 3;
      writer.finish();
    } catch (const Error& error) {
      failed = true;
      EXPECT_EQ(error.kind(), ErrorKind::kResource) << error.what();
      EXPECT_NE(std::string(error.what()).find(folder.path().string()), std::string::npos);
      EXPECT_NE(std::string(error.what()).find(std::strerror(code)), std::string::npos);
    }
    if (!internal::inject_file_fault(0, 0)) {
      EXPECT_FALSE(failed);
      EXPECT_GT(n, 15);
      return;
    }
    EXPECT_TRUE(failed);
    for (const std::string& name : names_in(folder.path())) EXPECT_EQ(name.find("new"), name.npos);
    if (already_finished > 0 && complete < 3)
      expect_dataset(path, {episodes.begin(), episodes.begin() + already_finished});
    DatasetWriter writer(path, spec, kGenerator);
    EXPECT_GE(writer.num_episodes(), complete);
    append_all(writer, episodes);
    writer.finish();
    expect_dataset(path, episodes);
    EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"data.h5"});
  }
}

TEST(DatasetWriter, AFullDiskAtAnyCallLosesNothing) { fail_every_call(ENOSPC, 0); }
TEST(DatasetWriter, ABrokenDiskAtAnyCallLosesNothing) { fail_every_call(EIO, 0); }
TEST(DatasetWriter, AFullDiskAtAnyCallKeepsAFinishedFile) { fail_every_call(ENOSPC, 2); }

TEST(DatasetWriter, TheWriterGoesOnOnceTheDiskHasRoomAgain) {
  const test::TempFolder folder;
  const fs::path path = folder.path() / "data.h5";
  const TaskSpec spec = test::vector_task();
  const auto episodes = some_episodes(spec);
  DatasetWriter writer(path, spec, kGenerator);
  writer.append(episodes[0]);
  internal::inject_file_fault(1, ENOSPC);
  error_of(ErrorKind::kResource, [&] { writer.append(episodes[1]); });
  EXPECT_EQ(writer.num_episodes(), 1);
  append_all(writer, episodes);
  internal::inject_file_fault(3, ENOSPC);
  error_of(ErrorKind::kResource, [&] { writer.finish(); });
  internal::inject_file_fault(0, 0);
  writer.finish();
  expect_dataset(path, episodes);
}

TEST(DatasetWriter, AFileSizeLimitEndsWithTheDocumentedCodeAndLosesNothing) {
  const TaskSpec spec = test::vector_task();
  CounterRng rng(3);
  const auto episodes = test::random_episodes(spec, 20, 100, rng);
  for (const rlim_t limit : {100, 5000, 20000, 50000, 70000, 75000, 80000}) {
    SCOPED_TRACE(limit);
    const test::TempFolder folder;
    const fs::path path = folder.path() / "data.h5";
    const int code = in_child([&] {
      const rlimit size{limit, limit};
      setrlimit(RLIMIT_FSIZE, &size);
      DatasetWriter writer(path, spec, kGenerator);
      append_all(writer, episodes);
      writer.finish();
    });
    EXPECT_EQ(code, static_cast<int>(ErrorKind::kResource));
    EXPECT_FALSE(fs::exists(path));
    DatasetWriter writer(path, spec, kGenerator);
    append_all(writer, episodes);
    writer.finish();
    expect_dataset(path, episodes);
  }
}

#if !defined(__SANITIZE_ADDRESS__)
TEST(DatasetWriter, BuildingTheFileNeedsLittleMemory) {
  const test::TempFolder folder;
  const fs::path path = folder.path() / "data.h5";
  TaskSpec spec = test::vector_task();
  spec.observation.image_height = spec.observation.image_width = 64;
  spec.observation.image_channels = 3;
  CounterRng rng(4);
  const Episode episode = test::random_episode(spec, 300, rng);  // 3.7 MB
  {
    DatasetWriter writer(path, spec, kGenerator);
    for (int e = 0; e < 16; ++e) writer.append(episode);
  }
  const int code = in_child([&] {
    std::ifstream status("/proc/self/status");
    rlim_t data_kb = 0;
    for (std::string word; status >> word;)
      if (word == "VmData:") status >> data_kb;
    const rlimit memory{(data_kb << 10) + (8 << 20), RLIM_INFINITY};
    setrlimit(RLIMIT_DATA, &memory);
    DatasetWriter(path, spec, kGenerator).finish();
  });
  EXPECT_EQ(code, 0);
  EXPECT_EQ(Dataset(path).num_episodes(), 16);
}
#endif

}  // namespace
}  // namespace lram::datasets
