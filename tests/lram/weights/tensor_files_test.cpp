#include "lram/weights/tensor_files.h"

#include <gtest/gtest.h>

#include <fstream>

#include "lram/core/error.h"
#include "tests/support/temp_folder.h"

namespace lram::weights::tensor_files_test {
namespace {
namespace fs = std::filesystem;

const std::string kBytes(64, 'x');

/// A file of U8 tensors with these names, 4 bytes each.
void write_shard(const fs::path& path, const std::vector<std::string>& names) {
  std::vector<TensorEntry> entries;
  for (const std::string& name : names)
    entries.push_back({name, Dtype::kU8, {4}, std::as_bytes(std::span(kBytes).first(4))});
  write_safetensors(path, entries);
}

std::string refusal(const fs::path& path) {
  try {
    const TensorFiles files(path);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kInput);
    return error.what();
  }
  return "accepted";
}

/// Two shards, a.safetensors with 'a' and b.safetensors with 'b' and 'c', and the given index.
class Shards : public testing::Test {
 protected:
  Shards() {
    write_shard(folder_.path() / "a.safetensors", {"a"});
    write_shard(folder_.path() / "b.safetensors", {"b", "c"});
  }
  void write_index(const std::string& text) {
    std::ofstream(folder_.path() / kIndexName, std::ios::binary) << text;
  }
  test::TempFolder folder_;
};

TEST_F(Shards, AreReadAsOne) {
  write_index(R"({"metadata":{"total_size":12,"note":["any",{"thing":null}]},)"
              R"("weight_map":{"a":"a.safetensors","b":"b.safetensors","c":"b.safetensors"}})");
  const TensorFiles files(folder_.path());
  EXPECT_EQ(files.files().size(), 2u);
  EXPECT_EQ(files.tensors().size(), 3u);
  EXPECT_EQ(files.index()->total_size, 12u);
}

TEST_F(Shards, OfTheXlstmPackageNeedNoIndex) {
  test::TempFolder other;
  write_shard(other.path() / "model_0.safetensors", {"a"});
  write_shard(other.path() / "model_1.safetensors", {"b"});
  write_shard(other.path() / "model_3.safetensors", {"d"});  // behind a gap: not of the row
  EXPECT_EQ(TensorFiles(other.path()).tensors().size(), 2u);
  write_shard(other.path() / "model_2.safetensors", {"a"});
  EXPECT_NE(refusal(other.path()).find("tensor 'a' is in 'model_0.safetensors' too"),
            std::string::npos)
      << refusal(other.path());
}

TEST_F(Shards, BadIndexesAreRefused) {
  const std::string map = R"("weight_map":{"a":"a.safetensors","b":"b.safetensors")";
  struct Bad {
    std::string name, text, want;
  };
  const std::vector<Bad> all = {
      {"empty", "", "not valid JSON at its byte"},
      {"no_json", "weight_map", "not valid JSON"},
      {"cut", "{" + map, "not valid JSON"},
      {"not_utf8", "{\"\xff\":1}", "not valid JSON"},
      {"behind_nul", "{" + map + "}}" + std::string(1, '\0') + "x", "not valid JSON"},
      {"array", "[]", "is an array, wanted an object"},
      {"number", "3", "is the number 3, wanted an object"},
      {"no_map", R"({"metadata":{}})", "no key 'weight_map'"},
      {"empty_map", R"({"weight_map":{}})", "weight_map lists no tensor"},
      {"map_is_array", R"({"weight_map":[]})", "weight_map is an array"},
      {"map_is_null", R"({"weight_map":null})", "weight_map is null"},
      {"map_twice", "{" + map + "}," + map + "}}", "key 'weight_map' is there twice"},
      {"tensor_twice", "{" + map + R"(,"a":"b.safetensors"}})", "tensor 'a' is there twice"},
      {"shard_is_number", R"({"weight_map":{"a":1}})", "tensor 'a' is the number 1, wanted a file"},
      {"shard_is_object", R"({"weight_map":{"a":{}}})", "tensor 'a' is an object"},
      {"shard_is_null", R"({"weight_map":{"a":null}})", "tensor 'a' is null"},
      {"parent_path", R"({"weight_map":{"a":"../a.safetensors"}})",
       "shard '../a.safetensors' is not a file name"},
      {"absolute_path", R"({"weight_map":{"a":"/tmp/a.safetensors"}})", "is not a file name"},
      {"inner_path", R"({"weight_map":{"a":"x/a.safetensors"}})", "is not a file name"},
      {"parent", R"({"weight_map":{"a":".."}})", "shard '..' is not a file name"},
      {"no_name", R"({"weight_map":{"a":""}})", "shard '' is not a file name"},
      {"only_extension", R"({"weight_map":{"a":".safetensors"}})", "is not a file name"},
      {"pickle", R"({"weight_map":{"a":"pytorch_model.bin"}})", "that ends in .safetensors"},
      {"missing_shard", "{" + map + R"(,"d":"d.safetensors"}})",
       "shard 'd.safetensors' is missing"},
      {"tensor_not_listed", "{" + map + "}}", "tensor 'c' is not listed in"},
      {"tensor_elsewhere", "{" + map + R"(,"c":"a.safetensors"}})",
       "tensor 'c' is here, model.safetensors.index.json wants it in 'a.safetensors'"},
      {"tensor_missing", "{" + map + R"(,"c":"b.safetensors","d":"b.safetensors"}})",
       "no tensor 'd', which model.safetensors.index.json lists"},
  };
  for (const Bad& bad : all) {
    write_index(bad.text);
    EXPECT_NE(refusal(folder_.path()).find(bad.want), std::string::npos)
        << bad.name << ": " << refusal(folder_.path());
  }
}

TEST_F(Shards, TensorInTwoShardsIsRefused) {
  write_shard(folder_.path() / "a.safetensors", {"a", "b"});
  write_index(R"({"weight_map":{"a":"a.safetensors","b":"b.safetensors","c":"b.safetensors"}})");
  EXPECT_NE(refusal(folder_.path()).find("tensor 'b' is in 'a.safetensors' too"), std::string::npos)
      << refusal(folder_.path());
}

TEST_F(Shards, BadShardIsRefusedByItsName) {
  write_index(R"({"weight_map":{"a":"a.safetensors","b":"b.safetensors","c":"b.safetensors"}})");
  std::ofstream(folder_.path() / "b.safetensors", std::ios::app) << "x";
  EXPECT_NE(refusal(folder_.path()).find("b.safetensors: 9 bytes of data"), std::string::npos)
      << refusal(folder_.path());
}

TEST(TensorFiles, RefusesAFolderWithoutWeights) {
  const test::TempFolder folder;
  EXPECT_NE(refusal(folder.path()).find("no model.safetensors"), std::string::npos);
  EXPECT_NE(refusal(folder.path() / "absent").find("cannot open"), std::string::npos);
  const fs::path index = folder.path() / kIndexName;
  std::ofstream(index) << "{}";
  EXPECT_NE(refusal(index).find("an index, wanted its folder"), std::string::npos);
}

}  // namespace
}  // namespace lram::weights::tensor_files_test
