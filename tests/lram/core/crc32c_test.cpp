#include "lram/core/crc32c.h"

#include <fmt/core.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <span>
#include <string>

#include "lram/core/file.h"
#include "lram/core/json.h"
#include "lram/core/rng.h"
#include "tests/support/golden_case.h"

namespace lram::crc32c_test {
namespace {
std::uint32_t crc_of(std::string_view text) { return crc32c(std::as_bytes(std::span(text))); }

TEST(Crc32c, GivesTheCheckValue) {
  EXPECT_EQ(crc_of("123456789"), 0xE3069283u);  // RFC 3720
  EXPECT_EQ(crc_of(""), 0u);
}

TEST(Crc32c, ChainsOverAnySplit) {
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    SCOPED_TRACE(seed);
    CounterRng rng(seed);
    std::string text(rng.below(200), '\0');
    for (char& c : text) c = static_cast<char>(rng.below(256));
    const auto bytes = std::as_bytes(std::span(text));
    const std::size_t at = rng.below(text.size() + 1);
    EXPECT_EQ(crc32c(bytes.subspan(at), crc32c(bytes.first(at))), crc32c(bytes));
  }
}

TEST(Golden, Crc32cOfTheReferenceVectors) {
  LRAM_SKIP_WITHOUT_GOLDEN("baselines");
  for (const auto& one : test::golden_cases("baselines", "tensorboard", [](const auto& row) {
         return row.class_has("RecordWriter");
       })) {
    SCOPED_TRACE(one.name());
    const std::string files = one.row.at("file");  // EVENTS + JSON
    const auto golden = parse_json(read_file(one.folder / files.substr(files.find(" + ") + 3)));
    ASSERT_FALSE(golden.at("crc32c").empty());
    for (const auto& vector : golden.at("crc32c")) {
      const std::string hex = vector.at("data_hex");
      std::string text;
      for (std::size_t i = 0; i < hex.size(); i += 2)
        text.push_back(static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16)));
      EXPECT_EQ(fmt::format("{:08x}", crc_of(text)), vector.at("crc").get<std::string>()) << hex;
    }
  }
}
}  // namespace
}  // namespace lram::crc32c_test
