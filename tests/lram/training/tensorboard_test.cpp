#include "lram/training/tensorboard.h"

#include <fmt/core.h>
#include <gtest/gtest.h>

#include <cstring>
#include <nlohmann/json.hpp>
#include <span>
#include <string>

#include "lram/core/crc32c.h"
#include "lram/core/file.h"
#include "lram/core/json.h"
#include "tests/support/golden_case.h"
#include "tests/support/temp_folder.h"

namespace lram::training {
namespace {
using nlohmann::json;

std::string from_hex(const std::string& hex) {
  std::string out;
  for (std::size_t i = 0; i < hex.size(); i += 2)
    out.push_back(static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  return out;
}

std::uint32_t crc_of(std::string_view data) { return crc32c(std::as_bytes(std::span(data))); }

std::uint32_t read_u32(const std::string& bytes, std::size_t at) {
  std::uint32_t value = 0;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

void check_case(const test::GoldenCase& one) {
  const std::string files = one.row.at("file");  // EVENTS + JSON
  const auto plus = files.find(" + ");
  ASSERT_NE(plus, std::string::npos) << "index names no pair of files: " << files;
  const std::string wanted = read_file(one.folder / files.substr(0, plus));
  const json golden = parse_json(read_file(one.folder / files.substr(plus + 3)));

  for (const json& vector : golden.at("crc32c"))
    EXPECT_EQ(fmt::format("{:08x}", crc_of(from_hex(vector.at("data_hex")))),
              vector.at("crc").get<std::string>());

  std::size_t end = 0;
  for (const json& record : golden.at("records")) {
    const std::string data = from_hex(record.at("data_hex"));
    const std::string got = encode_record(data);
    EXPECT_EQ(record.at("offset"), end);
    EXPECT_EQ(fmt::format("{:08x}", read_u32(got, 8)),
              record.at("masked_crc_of_length").get<std::string>());
    EXPECT_EQ(fmt::format("{:08x}", read_u32(got, got.size() - 4)),
              record.at("masked_crc_of_data").get<std::string>());
    EXPECT_EQ(got, wanted.substr(end, got.size()));
    end += got.size();
  }
  EXPECT_EQ(end, wanted.size());

  // The whole file from its scalars. The first record has the wall time of the first scalar.
  const json& scalars = golden.at("scalars");
  std::string got = encode_record(encode_version_event(scalars.at(0).at("wall_time")));
  for (const json& scalar : scalars)
    got += encode_record(encode_scalar_event(scalar.at("wall_time"), scalar.at("step"),
                                             scalar.at("tag").get<std::string>(),
                                             scalar.at("value_float32")));
  EXPECT_EQ(got, wanted);
}

TEST(Tensorboard, GoldenFileIsByteEqual) {
  LRAM_SKIP_WITHOUT_GOLDEN("baselines");
  for (const auto& one : test::golden_cases(
           "baselines", "tensorboard",
           [](const test::GoldenCase& golden) { return golden.class_has("RecordWriter"); })) {
    SCOPED_TRACE(one.name());
    check_case(one);
  }
}

TEST(Tensorboard, WriterBeginsWithTheVersionAndNamesAreUnique) {
  const test::TempFolder folder;
  EventWriter first(folder.path()), second(folder.path());
  EXPECT_NE(first.path(), second.path());
  first.add_scalar("loss", 300, 0.5);
  const std::string bytes = read_file(first.path());
  EXPECT_NE(bytes.find("brain.Event:2"), std::string::npos);
  // step 300 = varint ac 02; 0.5f = 3f000000
  EXPECT_NE(bytes.find(std::string("\x10\xac\x02\x2a", 4)), std::string::npos);
  EXPECT_NE(bytes.find(std::string("loss\x15\x00\x00\x00\x3f", 9)), std::string::npos);
}
}  // namespace
}  // namespace lram::training
