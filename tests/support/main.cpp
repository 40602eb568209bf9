// The main() of every test program. With --file=tests/FOLDER/NAME.cpp it runs the tests of that
// file alone: cmake compiles several files into one program, and their suites may share a name.
#include <gtest/gtest.h>

#include <cstdio>
#include <string>
#include <string_view>

namespace {
bool lies_in(const char* path, std::string_view file) {
  const std::string_view whole(path == nullptr ? "" : path);
  if (!whole.ends_with(file)) return false;
  return whole.size() == file.size() || whole[whole.size() - file.size() - 1] == '/';
}

/// Excludes the tests of all other files from gtest's filter; false when that leaves none.
bool keep_file(std::string_view file) {
  std::string& filter = testing::GTEST_FLAG(filter);
  const testing::UnitTest& unit = *testing::UnitTest::GetInstance();
  bool found = false;
  for (int i = 0; i < unit.total_test_suite_count(); ++i) {
    const testing::TestSuite& suite = *unit.GetTestSuite(i);
    for (int j = 0; j < suite.total_test_count(); ++j) {
      const testing::TestInfo& test = *suite.GetTestInfo(j);
      if (lies_in(test.file(), file)) {
        found = true;
        continue;
      }
      filter += filter.find('-') == std::string::npos ? '-' : ':';
      filter += suite.name();
      filter += '.';
      filter += test.name();
    }
  }
  return found;
}
}  // namespace

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  for (int i = 1; i < argc; ++i) {
    const std::string_view word(argv[i]);
    if (word.starts_with("--file=") && !keep_file(word.substr(7))) {
      std::fprintf(stderr, "no test of %s is in this program\n", argv[i] + 7);
      return 2;
    }
  }
  return RUN_ALL_TESTS();
}
