#include "lram/core/manifest.h"

#include <gtest/gtest.h>

#include <fstream>
#include <string>

#include "lram/core/error.h"
#include "lram/core/file.h"

namespace lram::manifest_test {
namespace {
namespace fs = std::filesystem;

void write(const fs::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

class ManifestTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ =
        fs::path(testing::TempDir()) /
        (std::string("manifest_") + testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::remove_all(folder_);
    fs::create_directories(folder_ / "state");
    write(folder_ / "config.json", "123456789");
    write(folder_ / "state/empty", "");
    write_manifest(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::string failure(std::initializer_list<std::string_view> files = {}) {
    try {
      verify_manifest(folder_, files);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kInput);
      return error.what();
    }
    return "";
  }
  fs::path folder_;
};

TEST_F(ManifestTest, ListsSizeAndChecksumOfEveryFile) {
  // CRC32C of "123456789" is e3069283 (RFC 3720 B.4), of nothing 0.
  const std::string text = read_file(folder_ / kManifestName);
  EXPECT_NE(text.find("\"config.json\""), std::string::npos);
  EXPECT_NE(text.find("\"e3069283\""), std::string::npos);
  EXPECT_NE(text.find("\"state/empty\""), std::string::npos);
  EXPECT_EQ(failure(), "");
}

TEST_F(ManifestTest, EverySingleBitAndEveryLengthOfTheListCounts) {
  const std::string good = read_file(folder_ / kManifestName);
  for (std::size_t i = 0; i < good.size(); ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string bad = good;
      bad[i] = static_cast<char>(bad[i] ^ (1 << bit));
      write(folder_ / kManifestName, bad);
      ASSERT_NE(failure(), "") << "byte " << i << " bit " << bit;
    }
    write(folder_ / kManifestName, good.substr(0, i));
    ASSERT_NE(failure(), "") << "cut to " << i;
  }
}

TEST_F(ManifestTest, NamesTheFileTheFoundAndTheWanted) {
  const std::string config = (folder_ / "config.json").string();
  write(folder_ / "config.json", "12345678");
  EXPECT_EQ(failure(), config + ": has 8 bytes, MANIFEST.json wants 9");
  write(folder_ / "config.json", "123456780");
  EXPECT_NE(failure().find(config + ": damaged, has CRC32C "), std::string::npos);
  EXPECT_NE(failure().find("MANIFEST.json wants e3069283"), std::string::npos);
  fs::remove(folder_ / "config.json");
  EXPECT_EQ(failure(), config + ": cannot open: No such file or directory");
}

TEST_F(ManifestTest, ChecksOnlyTheNamedFiles) {
  write(folder_ / "config.json", "other");
  EXPECT_EQ(failure({"state/empty"}), "");
  EXPECT_NE(failure({"config.json"}), "");
  EXPECT_EQ(failure({"model.safetensors"}),
            (folder_ / "MANIFEST.json").string() + ": does not list 'model.safetensors'");
}
}  // namespace
}  // namespace lram::manifest_test
