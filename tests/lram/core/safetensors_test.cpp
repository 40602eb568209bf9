#include "lram/core/safetensors.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <new>
#include <set>
#include <vector>

#include "lram/core/error.h"
#include "tests/support/bad_safetensors.h"

namespace {
std::uint64_t allocated_bytes = 0;  // by operator new, since the program's start
}

[[gnu::noinline]] void* operator new(std::size_t size) {
  allocated_bytes += size;
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  allocated_bytes += size;
  return std::malloc(size);
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace lram::safetensors_test {
namespace {
namespace fs = std::filesystem;

fs::path temporary(const std::string& name) {
  return fs::path(testing::TempDir()) / ("safetensors_" + name);
}

fs::path file_with(const std::string& header, std::size_t data_bytes) {
  const fs::path path = temporary("made");
  std::ofstream(path, std::ios::binary) << test::safetensors_bytes(header, data_bytes);
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

TEST(Safetensors, RefusesWhatIsNoFile) {
  EXPECT_NE(message(temporary("absent")).find("cannot open"), std::string::npos);
  EXPECT_NE(message(fs::path(testing::TempDir())).find("cannot read"), std::string::npos);
}

class BadFiles : public testing::TestWithParam<test::BadFile> {};

TEST_P(BadFiles, AreRefusedWithTheReason) {
  const fs::path path = temporary("bad_" + GetParam().name);
  std::ofstream(path, std::ios::binary) << GetParam().bytes;
  const std::string found = message(path);
  EXPECT_EQ(found.find(path.string() + ": "), 0u) << found;
  EXPECT_NE(found.find(GetParam().want), std::string::npos)
      << found << "\nrule: " << GetParam().rule;
  fs::remove(path);
}

// What a file claims is never allocated: all that is, is of the order of the header's own bytes.
TEST_P(BadFiles, AllocateNoMoreThanTheirHeader) {
  const std::string& bytes = GetParam().bytes;
  const std::uint64_t before = allocated_bytes;
  std::uint64_t used = 0;
  try {
    parse_safetensors(std::as_bytes(std::span(bytes)), "file");
    FAIL() << "accepted";
  } catch (const Error& error) {
    used = allocated_bytes - before;
    EXPECT_EQ(error.kind(), ErrorKind::kInput);
  }
  EXPECT_LE(used, 16'384 + 16 * bytes.size());
}

INSTANTIATE_TEST_SUITE_P(Safetensors, BadFiles, testing::ValuesIn(test::bad_safetensors()),
                         [](const auto& file) { return file.param.name; });

TEST(Safetensors, SixtyBadFilesAndMoreBreakOneRuleEach) {
  const auto files = test::bad_safetensors();
  EXPECT_GE(files.size(), 60u);
  std::set<std::string> names, contents;
  for (const test::BadFile& file : files) {
    EXPECT_TRUE(names.insert(file.name).second) << file.name;
    EXPECT_TRUE(contents.insert(file.bytes).second) << file.name;
  }
}

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

TEST(Safetensors, ReadsDataThatIsNotAligned) {
  const std::string header =
      R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"F64","shape":[1],"data_offsets":[1,9]}})";
  std::string bytes = test::safetensors_bytes(header, 9);
  const double value = 2.5;
  std::memcpy(&bytes[bytes.size() - 8], &value, 8);
  const auto content = parse_safetensors(std::as_bytes(std::span(bytes)), "file");
  double found = 0.0;
  std::memcpy(&found, content.tensors[1].data.data(), 8);
  EXPECT_EQ(found, value);
}

TEST(Safetensors, StreamsTensorsInTheOrderOfTheFile) {
  const fs::path path = temporary("stream");
  std::string order;
  const auto source = [&](const std::string& name, Dtype dtype, std::int64_t size, char fill) {
    return TensorSource{
        name, dtype, {size}, [&order, name, size, fill, dtype](OutputFile& file) {
          order += name;
          file.write(std::string(static_cast<std::size_t>(size) * dtype_size(dtype), fill));
        }};
  };
  stream_safetensors(path, {source("b", Dtype::kU8, 3, 'b'), source("c", Dtype::kF32, 2, 'c'),
                            source("a", Dtype::kU8, 1, 'a')});
  EXPECT_EQ(order, "cab");
  const SafetensorsFile file(path);
  EXPECT_EQ(std::memcmp(file.at("b").data.data(), "bbb", 3), 0);
  // A source that writes too little leaves no file.
  fs::remove(path);
  TensorSource bad{"a", Dtype::kU8, {2}, [](OutputFile& out) { out.write("x"); }};
  EXPECT_THROW(stream_safetensors(path, {bad}), Error);
  EXPECT_FALSE(fs::exists(path));
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
}  // namespace lram::safetensors_test
