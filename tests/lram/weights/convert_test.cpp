// Folders, shards, what happens to OUT.
#include "lram/weights/convert.h"

#include <gtest/gtest.h>

#include <fstream>

#include "lram/core/error.h"
#include "lram/core/file.h"
#include "tests/support/random_weights.h"
#include "tests/support/temp_folder.h"

namespace lram::weights::convert_test {
namespace {
namespace fs = std::filesystem;
using test::RandomWeights;

class Convert : public testing::Test {
 protected:
  Convert() {
    add_xlstm_large(weights_, 12, /*bias=*/false);
    weights_.save(path("in.safetensors"));
  }
  fs::path path(const std::string& name) const { return folder_.path() / name; }
  static ConvertOptions to(const std::string& format, std::uint64_t max_shard_bytes = 0) {
    ConvertOptions options;
    options.to = format;
    options.max_shard_bytes = max_shard_bytes;
    return options;
  }
  /// Every file of a folder with its bytes.
  static std::map<std::string, std::string> contents(const fs::path& folder) {
    std::map<std::string, std::string> out;
    for (const auto& item : fs::directory_iterator(folder))
      out[item.path().filename()] = read_file(item.path());
    return out;
  }
  std::string refusal(const fs::path& in, const fs::path& out, const ConvertOptions& options,
                      ErrorKind kind) {
    try {
      convert(in, out, options);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), kind) << error.what();
      return error.what();
    }
    return "accepted";
  }
  test::TempFolder folder_;
  RandomWeights weights_{1};
};

TEST_F(Convert, ShardsThereAndBack) {
  const ConvertResult result =
      convert(path("in.safetensors"), path("hf"), to("xlstm_large_hf", 300));
  EXPECT_GT(result.files.size(), 4u);
  EXPECT_EQ(result.files.back(), kIndexName);
  const TensorFiles shards(path("hf"));
  for (const SafetensorsFile& file : shards.files()) {
    std::uint64_t bytes = 0;
    for (const TensorEntry& tensor : file.tensors()) bytes += tensor.data.size();
    EXPECT_TRUE(bytes <= 300 || file.tensors().size() == 1) << file.path();
    EXPECT_EQ(file.metadata(), (TensorMetadata{{"format", "pt"}}));
  }
  EXPECT_EQ(shards.index()->total_size, result.bytes);
  // One file again, byte for byte; and shards of shards.
  convert(path("hf"), path("back.safetensors"), to("xlstm_large"));
  EXPECT_EQ(read_file(path("back.safetensors")), read_file(path("in.safetensors")));
  convert(path("hf"), path("plain"), to("xlstm_large", 300));
  EXPECT_TRUE(fs::exists(path("plain") / "model_0.safetensors"));
  convert(path("plain"), path("again"), to("xlstm_large_hf", 300));
  EXPECT_EQ(contents(path("again")), contents(path("hf")));
}

TEST_F(Convert, TheXlstmPackagesShardsAreReadWithoutTheIndex) {
  convert(path("in.safetensors"), path("plain"), to("xlstm_large", 400));
  fs::remove(path("plain") / kIndexName);
  convert(path("plain"), path("back.safetensors"), to("xlstm_large"));
  EXPECT_EQ(read_file(path("back.safetensors")), read_file(path("in.safetensors")));
}

TEST_F(Convert, FolderWithoutALimitHoldsOneFile) {
  const ConvertResult result = convert(path("in.safetensors"), path("out"), to("xlstm_large_hf"));
  EXPECT_EQ(result.files, (std::vector<std::string>{kWeightsName}));
  EXPECT_EQ(result.from, "xlstm_large");
}

TEST_F(Convert, OutIsNeverReplaced) {
  std::ofstream(path("out.safetensors")) << "mine";
  fs::create_directory(path("out"));
  for (const char* name : {"out.safetensors", "out", "in.safetensors"})
    EXPECT_NE(refusal(path("in.safetensors"), path(name), to("xlstm_large_hf"), ErrorKind::kUsage)
                  .find("is there already"),
              std::string::npos);
  EXPECT_EQ(read_file(path("out.safetensors")), "mine");
}

TEST_F(Convert, FailingLeavesNothing) {
  // A disk that fails at any of its calls.
  for (int countdown = 1; countdown < 400; ++countdown) {
    internal::inject_file_fault(countdown, ENOSPC);
    const std::string text = refusal(path("in.safetensors"), path("out"), to("xlstm_large_hf", 400),
                                     ErrorKind::kResource);
    const bool struck = internal::inject_file_fault(0, 0);
    if (!struck) {
      EXPECT_EQ(text, "accepted");
      break;
    }
    EXPECT_NE(text.find("No space left"), std::string::npos) << text;
    if (fs::exists(path("out"))) {  // the fsync of the folder behind the rename
      EXPECT_NO_THROW(TensorFiles(path("out")));
      fs::remove_all(path("out"));
    }
    EXPECT_FALSE(fs::exists(path("out.new")));
  }
}

TEST_F(Convert, OptionsThatDoNotFitAreRefused) {
  EXPECT_NE(refusal(path("in.safetensors"), path("o.safetensors"), to("xlstm_large_hf", 10),
                    ErrorKind::kUsage)
                .find("shards want a folder"),
            std::string::npos);
  EXPECT_NE(refusal(path("in.safetensors"), path("o"), to("lram"), ErrorKind::kUsage)
                .find("--to lram wants --into"),
            std::string::npos);
  ConvertOptions options = to("xlstm_large_hf");
  options.drop = {"nothing"};
  EXPECT_NE(
      refusal(path("in.safetensors"), path("o"), options, ErrorKind::kUsage).find("--drop nothing"),
      std::string::npos);
  options = to("xlstm_large_hf");
  options.into = path("x");
  EXPECT_NE(refusal(path("in.safetensors"), path("o"), options, ErrorKind::kUsage)
                .find("--into is for --to lram"),
            std::string::npos);
  EXPECT_FALSE(fs::exists(path("o")));
}

}  // namespace
}  // namespace lram::weights::convert_test
