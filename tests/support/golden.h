#pragma once
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <string>

namespace lram::test {

/// The golden references: tests/golden, or the folder that LRAM_GOLDEN names.
inline std::filesystem::path golden_root() {
  const char* other = std::getenv("LRAM_GOLDEN");
  return other != nullptr ? std::filesystem::path(other)
                          : std::filesystem::path(LRAM_SOURCE_DIR) / "tests/golden";
}

}  // namespace lram::test

/// Skips the test, naming the folder, where the golden set has no sub-folder `name`.
#define LRAM_SKIP_WITHOUT_GOLDEN(name)                                    \
  if (!std::filesystem::is_directory(::lram::test::golden_root() / name)) \
  GTEST_SKIP() << "no folder " << (::lram::test::golden_root() / name)
