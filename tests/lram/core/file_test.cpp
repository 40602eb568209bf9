#include "lram/core/file.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lram/core/error.h"
#include "tests/support/temp_folder.h"

namespace lram::file_test {
namespace {
TEST(WriteFileAtomically, ReplacesTheContentAndLeavesNothingBeside) {
  const test::TempFolder folder;
  const auto path = folder.path() / "a.json";
  write_file_atomically(path, "old");
  write_file_atomically(path, "new");
  EXPECT_EQ(read_file(path), "new");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1);
}

TEST(WriteFileAtomically, KeepsTheOldFileWhenTheDiskIsFull) {
  const test::TempFolder folder;
  const auto path = folder.path() / "a.json";
  write_file_atomically(path, "old");
  const pid_t child = fork();
  if (child == 0) {  // the limit would outlast the test
    const rlimit limit{1000, 1000};
    setrlimit(RLIMIT_FSIZE, &limit);
    try {
      write_file_atomically(path, std::string(5000, 'x'));
    } catch (const Error& error) {
      const bool named =
          std::string(error.what()).find("a.json.new: cannot write: File too large") !=
          std::string::npos;
      _exit(named ? static_cast<int>(error.kind()) : 99);
    }
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_EQ(WEXITSTATUS(status), static_cast<int>(ErrorKind::kResource));
  EXPECT_EQ(read_file(path), "old");
  EXPECT_FALSE(std::filesystem::exists(path.string() + ".new"));
}

TEST(OutputFile, SaysThatTheDeviceIsFull) {
  OutputFile file("/dev/full", OutputFile::Mode::kAppend);
  try {
    file.write("x");
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "/dev/full: cannot write: No space left on device");
    EXPECT_EQ(error.kind(), ErrorKind::kResource);
  }
}

TEST(MappedFile, NamesAMissingFileAndAFolder) {
  const test::TempFolder folder;
  try {
    MappedFile file(folder.path() / "none");
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.what(),
              (folder.path() / "none").string() + ": cannot open: No such file or directory");
    EXPECT_EQ(error.kind(), ErrorKind::kInput);
  }
  EXPECT_THROW(MappedFile(folder.path()), Error);
}
}  // namespace
}  // namespace lram::file_test
