#include "lram/core/safetensors.h"

#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <vector>

#include "lram/core/error.h"

namespace lram {
namespace {
namespace fs = std::filesystem;

fs::path temporary(const std::string& name) {
  return fs::path(testing::TempDir()) / ("safetensors_" + name);
}

/// A file of this header and `data_bytes` zeros behind it.
fs::path file_with(const std::string& header, std::size_t data_bytes,
                   const std::string& name = "bad") {
  const fs::path path = temporary(name);
  std::ofstream out(path, std::ios::binary);
  const std::uint64_t length = header.size();
  out.write(reinterpret_cast<const char*>(&length), 8);
  out << header << std::string(data_bytes, '\0');
  return path;
}

std::string message(const fs::path& path) {
  try {
    const SafetensorsFile file(path);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kInput);
    return error.what();
  }
  return "accepted";
}

TEST(Safetensors, ReadsWhatItWrote) {
  const std::vector<float> a = {1.0f, -2.0f, 3.5f, 4.0f, 5.0f, 6.0f};
  const std::vector<std::int64_t> b = {-7};
  const std::vector<std::uint8_t> c = {1, 2, 3};
  const fs::path path = temporary("round_trip");
  write_safetensors(path,
                    {{"z.c", Dtype::kU8, {3}, std::as_bytes(std::span(c))},
                     {"b \"quoted\"", Dtype::kI64, {}, std::as_bytes(std::span(b))},
                     {"a", Dtype::kF32, {2, 3}, std::as_bytes(std::span(a))},
                     {"empty", Dtype::kF32, {4, 0}, {}}},
                    {{"format", "pt"}});
  const SafetensorsFile file(path);
  EXPECT_EQ(file.metadata(), (TensorMetadata{{"format", "pt"}}));
  ASSERT_EQ(file.tensors().size(), 4u);
  // By descending type, then by name.
  EXPECT_EQ(file.tensors()[0].name, "b \"quoted\"");
  EXPECT_EQ(file.tensors()[1].name, "a");
  EXPECT_EQ(file.tensors()[2].name, "empty");
  EXPECT_EQ(file.tensors()[3].name, "z.c");
  EXPECT_EQ(std::memcmp(file.at("a").data.data(), a.data(), 24), 0);
  EXPECT_EQ(file.at("a").shape, (std::vector<std::int64_t>{2, 3}));
  EXPECT_EQ(file.at("empty").data.size(), 0u);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(file.tensors()[0].data.data()) % 8, 0u);
  EXPECT_EQ(file.find("absent"), nullptr);
  EXPECT_THROW(file.at("absent"), Error);
  EXPECT_FALSE(fs::exists(path.string() + ".new"));
}

TEST(Safetensors, WritesTheBytesOfThePublicWriter) {
  // safetensors.torch.save of {"b": tensor([1.5]), "a": tensor([2], int64)}.
  const float b = 1.5f;
  const std::int64_t a = 2;
  const fs::path path = temporary("bytes");
  write_safetensors(path, {{"b", Dtype::kF32, {1}, std::as_bytes(std::span(&b, 1))},
                           {"a", Dtype::kI64, {1}, std::as_bytes(std::span(&a, 1))}});
  std::string want =
      R"({"a":{"dtype":"I64","shape":[1],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}})";
  want.append((8 - want.size() % 8) % 8, ' ');
  const std::string bytes = read_file(path);
  EXPECT_EQ(bytes.substr(8, want.size()), want);
  EXPECT_EQ(bytes.size(), 8 + want.size() + 12);
}

TEST(Safetensors, WriterRefusesWhatDoesNotFit) {
  const float a = 1.0f;
  const auto data = std::as_bytes(std::span(&a, 1));
  const fs::path path = temporary("never");
  EXPECT_THROW(write_safetensors(path, {{"a", Dtype::kF32, {2}, data}}), Error);
  EXPECT_THROW(
      write_safetensors(path, {{"a", Dtype::kF32, {1}, data}, {"a", Dtype::kF32, {1}, data}}),
      Error);
  EXPECT_FALSE(fs::exists(path));
}

TEST(Safetensors, RefusesAFileThatIsNotOne) {
  const fs::path path = temporary("short");
  std::ofstream(path) << "1234567";
  EXPECT_NE(message(path).find("7 bytes"), std::string::npos) << message(path);
  EXPECT_NE(message(temporary("absent")).find("cannot open"), std::string::npos);
  const std::uint64_t lengths[] = {100'000'001, 100, ~std::uint64_t{0}};
  for (const std::uint64_t length : lengths) {
    std::ofstream out(path, std::ios::binary);
    out.write(reinterpret_cast<const char*>(&length), 8);
    out << "{}      ";
    out.close();
    EXPECT_NE(message(path).find(fmt::format("header of {} bytes", length)), std::string::npos)
        << message(path);
  }
}

struct BadHeader {
  const char* header;
  std::size_t data_bytes;
  const char* want;  ///< part of the message
};

class BadHeaders : public testing::TestWithParam<BadHeader> {};

TEST_P(BadHeaders, AreRefusedWithTheReason) {
  const fs::path path = file_with(GetParam().header, GetParam().data_bytes);
  const std::string found = message(path);
  EXPECT_EQ(found.find(path.string()), 0u) << found;
  EXPECT_NE(found.find(GetParam().want), std::string::npos) << found;
}

INSTANTIATE_TEST_SUITE_P(
    Safetensors, BadHeaders,
    testing::Values(
        BadHeader{"", 0, "does not begin with '{'"}, BadHeader{" {}", 0, "does not begin with '{'"},
        BadHeader{"[]", 0, "does not begin with '{'"}, BadHeader{"{", 0, "not valid JSON"},
        BadHeader{"{}}", 0, "not valid JSON"}, BadHeader{"{\"a\":}", 0, "not valid JSON"},
        BadHeader{"{\"\xff\":{}}", 0, "not valid JSON"},
        BadHeader{"{}", 4, "4 bytes of data behind the header, the tensors want 0"},
        BadHeader{R"({"a":3})", 0, "'a' is the number 3, wanted an object"},
        BadHeader{R"({"a":null})", 0, "'a' is null"},
        BadHeader{R"({"__metadata__":{"k":1}})", 0, "'k' is the number 1, wanted a text"},
        BadHeader{R"({"__metadata__":{"k":{}}})", 0, "'k' is an object, wanted a text"},
        BadHeader{R"({"__metadata__":{"k":"","k":""}})", 0, "key 'k' is there twice"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[1]}})", 4, "tensor 'a': no key 'data_offsets'"},
        BadHeader{R"({"a":{}})", 0, "tensor 'a': no key 'dtype'"},
        BadHeader{R"({"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 4,
                  "key 'dtype' is there twice"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":[]}})", 4,
                  "unknown key 'x'"},
        BadHeader{R"({"a":{"dtype":"F31","shape":[1],"data_offsets":[0,4]}})", 4,
                  "dtype 'F31' is not known"},
        BadHeader{R"({"a":{"dtype":4,"shape":[1],"data_offsets":[0,4]}})", 4,
                  "dtype holds the number 4"},
        BadHeader{R"({"a":{"dtype":["F32"],"shape":[1],"data_offsets":[0,4]}})", 4,
                  "dtype holds an array"},
        BadHeader{R"({"a":{"dtype":"F32","shape":1,"data_offsets":[0,4]}})", 4,
                  "shape holds the number 1"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", 4,
                  "shape holds the number -1"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}})", 4,
                  "shape holds the number 1.0"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[true],"data_offsets":[0,4]}})", 4,
                  "shape holds true"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[[1]],"data_offsets":[0,4]}})", 4,
                  "shape holds an array"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,4]}})", 4,
                  "size of 18446744073709551615"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}})", 4,
                  "data_offsets has 1 numbers"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}})", 4,
                  "data_offsets has 3 numbers"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4,
                  "4 bytes, but shape [2] of F32 wants 8"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", 8,
                  "leave a hole at 0"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 8,
                  "8 bytes of data behind the header, the tensors want 4"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 4,
                  "4 bytes of data behind the header, the tensors want 8"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[0],"data_offsets":[0,18446744073709551615]}})", 0,
                  "18446744073709551615 bytes, but shape [0] of F32 wants 0"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}})",
                  0, "overflows 64 bits"},
        BadHeader{R"({"a":{"dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,0]}})", 0,
                  "overflows 64 bits"},
        BadHeader{R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
                  R"("b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}})",
                  6, "tensor 'b': data_offsets [2, 6] overlap the data at 2, wanted a begin of 4"},
        BadHeader{R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
                  R"("b":{"dtype":"U8","shape":[4],"data_offsets":[5,9]}})",
                  9, "tensor 'b': data_offsets [5, 9] leave a hole at 4"},
        BadHeader{R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
                  R"("a":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})",
                  8, "key 'a' is there twice"},
        BadHeader{R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[4,0]}})", 4, "leave a hole"}));

TEST(Safetensors, AcceptsPaddingMetadataAloneAndUnorderedKeys) {
  EXPECT_EQ(message(file_with("{}   ", 0)), "accepted");
  EXPECT_EQ(message(file_with(R"({"__metadata__":{"a":"b"}})", 0)), "accepted");
  const fs::path path = file_with(
      R"({"b":{"shape":[2],"data_offsets":[1,3],"dtype":"U8"},"a":{"dtype":"BOOL","shape":[],"data_offsets":[0,1]}})",
      3);
  const SafetensorsFile file(path);
  EXPECT_EQ(file.tensors()[0].name, "a");
  EXPECT_TRUE(file.tensors()[0].shape.empty());
  EXPECT_EQ(file.tensors()[1].name, "b");
}

TEST(Safetensors, EveryTruncationIsRefused) {
  const std::vector<float> a(5, 1.0f);
  const fs::path path = temporary("whole");
  write_safetensors(path, {{"a", Dtype::kF32, {5}, std::as_bytes(std::span(a))}});
  const std::string bytes = read_file(path);
  const fs::path cut = temporary("cut");
  for (std::size_t length = 0; length < bytes.size(); ++length) {
    std::ofstream(cut, std::ios::binary) << bytes.substr(0, length);
    EXPECT_NE(message(cut), "accepted") << length;
  }
}

TEST(Safetensors, AnyChangedByteIsReadOrRefused) {
  const std::vector<float> a(5, 1.0f);
  const fs::path path = temporary("flip_base"), changed = temporary("flip");
  write_safetensors(path, {{"a", Dtype::kF32, {5}, std::as_bytes(std::span(a))}}, {{"k", "v"}});
  const std::string bytes = read_file(path);
  int refused = 0;
  for (std::size_t i = 0; i < bytes.size() - 20; ++i)
    for (const int bit : {1, 8, 128}) {
      std::string other = bytes;
      other[i] = static_cast<char>(other[i] ^ bit);
      std::ofstream(changed, std::ios::binary) << other;
      refused += message(changed) != "accepted";
    }
  EXPECT_GT(refused, 100);  // the rest: names, metadata, padding
}

}  // namespace
}  // namespace lram
