// lram ckpt show and convert as a user meets them.
#include <fmt/core.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "lram/core/file.h"
#include "lram/core/json.h"
#include "tests/support/bad_safetensors.h"
#include "tests/support/random_weights.h"
#include "tests/support/run_command.h"

namespace lram::weights {
namespace {
namespace fs = std::filesystem;
using nlohmann::json;
using test::CommandResult;

CommandResult ckpt(std::vector<std::string> words) {
  words.insert(words.begin(), {test::program("lram"), "ckpt"});
  return test::run_command(words);
}

class Ckpt : public testing::Test {
 protected:
  std::string path(const std::string& name) const { return folder_.path() / name; }
  test::TempFolder folder_;
};

TEST_F(Ckpt, ShowListsEveryTensor) {
  test::RandomWeights weights(1);
  add_xlstm_v1(weights, 3, /*language_model=*/true);
  weights.save(path("a.safetensors"));
  const CommandResult text = ckpt({"show", path("a.safetensors")});
  EXPECT_EQ(text.exit_code, 0) << text.err;
  EXPECT_EQ(text.err, "");
  for (const TensorEntry& entry : weights.entries())
    EXPECT_NE(text.out.find(fmt::format("\n{} ", entry.name)), std::string::npos) << entry.name;
  EXPECT_NE(text.out.find("xlstm_v1\n"), std::string::npos) << text.out;

  const CommandResult out = ckpt({"show", path("a.safetensors"), "--json", "--stats"});
  ASSERT_EQ(out.exit_code, 0) << out.err;
  const json shown = parse_json(out.out);
  EXPECT_EQ(shown["format"], "xlstm_v1");
  EXPECT_EQ(shown["metadata"], (json{{"format", "pt"}}));
  ASSERT_EQ(shown["tensors"].size(), weights.entries().size());
  std::uint64_t bytes = 0;
  for (const TensorEntry& entry : weights.entries()) {
    const auto row = std::find_if(shown["tensors"].begin(), shown["tensors"].end(),
                                  [&](const json& r) { return r["name"] == entry.name; });
    ASSERT_NE(row, shown["tensors"].end()) << entry.name;
    EXPECT_EQ((*row)["shape"], entry.shape);
    EXPECT_EQ((*row)["dtype"], "F32");
    EXPECT_EQ((*row)["bytes"], entry.data.size());
    EXPECT_LE((*row)["min"], (*row)["mean"]);
    EXPECT_EQ((*row)["non_finite"], 0);
    bytes += entry.data.size();
  }
  EXPECT_EQ(shown["bytes"], bytes);
}

TEST_F(Ckpt, ShowReadsShardsAndTheFoldersConfig) {
  test::RandomWeights weights(1);
  add_gpt2(weights, 2);
  weights.save(path("a.safetensors"));
  const CommandResult made = ckpt(
      {"convert", "--to", "gpt2_lm", path("a.safetensors"), path("hf"), "--max-shard-bytes", "50"});
  ASSERT_EQ(made.exit_code, 0) << made.err;
  std::ofstream(path("hf/config.json")) << R"({"model_type":"gpt2","n_layer":2})";
  const CommandResult out = ckpt({"show", path("hf"), "--json"});
  ASSERT_EQ(out.exit_code, 0) << out.err;
  const json shown = parse_json(out.out);
  EXPECT_GT(shown["files"].size(), 1u);
  EXPECT_EQ(shown["config"]["n_layer"], 2);
  EXPECT_EQ(shown["tensors"].size(), weights.entries().size());
  const CommandResult text = ckpt({"show", path("hf")});
  EXPECT_NE(text.out.find("model_type           gpt2"), std::string::npos) << text.out;
}

TEST_F(Ckpt, NamesCannotDriveTheTerminal) {
  const std::string bytes = test::safetensors_bytes(
      R"({"\u001b[2Jx":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1);
  std::ofstream(path("a.safetensors"), std::ios::binary) << bytes;
  const CommandResult out = ckpt({"show", path("a.safetensors")});
  EXPECT_EQ(out.exit_code, 0);
  EXPECT_EQ(out.out.find('\x1b'), std::string::npos);
  EXPECT_NE(out.out.find(R"("\u001b[2Jx")"), std::string::npos) << out.out;
}

TEST_F(Ckpt, BadFilesEndWithCode3AndOneLine) {
  for (const test::BadFile& bad : test::bad_safetensors()) {
    std::ofstream(path("bad.safetensors"), std::ios::binary) << bad.bytes;
    const CommandResult out = ckpt({"show", path("bad.safetensors")});
    EXPECT_EQ(out.exit_code, 3) << bad.name << ": " << out.err;
    EXPECT_EQ(out.out, "") << bad.name;
    EXPECT_TRUE(out.err.starts_with(fmt::format("lram ckpt show: {}: ", path("bad.safetensors"))))
        << out.err;
    EXPECT_EQ(std::count(out.err.begin(), out.err.end(), '\n'), 1) << out.err;
  }
}

TEST_F(Ckpt, ConvertTellsWhatItDid) {
  test::RandomWeights weights(1);
  add_xlstm_large(weights, 2, /*bias=*/false);
  weights.save(path("a.safetensors"));
  const CommandResult out = ckpt({"convert", "--from", "xlstm_large", "--to", "xlstm_large_fused",
                                  path("a.safetensors"), path("b.safetensors"), "--json"});
  ASSERT_EQ(out.exit_code, 0) << out.err;
  const json done = parse_json(out.out);
  EXPECT_EQ(done["tensors"], 3 + 2 * 9);
  EXPECT_EQ(done["files"], (json{"b.safetensors"}));
  EXPECT_EQ(ckpt({"convert", "--to", "xlstm_large", path("b.safetensors"), path("c.safetensors")})
                .exit_code,
            0);
  EXPECT_EQ(read_file(path("c.safetensors")), read_file(path("a.safetensors")));
}

TEST_F(Ckpt, UsageErrorsEndWithCode2) {
  test::RandomWeights weights(1);
  add_mamba(weights, 1);
  weights.save(path("a.safetensors"));
  EXPECT_EQ(ckpt({"convert", "--to", "mamba_lm", path("a.safetensors")}).exit_code, 2);
  EXPECT_EQ(ckpt({"convert", path("a.safetensors"), path("b.safetensors")}).exit_code, 2);
  EXPECT_EQ(
      ckpt({"convert", "--to", "mamba_ml", path("a.safetensors"), path("b.safetensors")}).exit_code,
      2);
  EXPECT_EQ(ckpt({"show"}).exit_code, 2);
  EXPECT_EQ(ckpt({"show", path("absent")}).exit_code, 3);
  EXPECT_EQ(ckpt({"convert", "--to", "mamba_lm", path("absent"), path("b")}).exit_code, 3);
  EXPECT_FALSE(fs::exists(path("b.safetensors")));
}

TEST_F(Ckpt, ListNamesEveryFormat) {
  const CommandResult out = ckpt({"convert", "--list", "--json"});
  ASSERT_EQ(out.exit_code, 0) << out.err;
  EXPECT_GE(parse_json(out.out)["formats"].size(), 16u);
  EXPECT_NE(ckpt({"convert", "--list"}).out.find("xlstm_v1_cuda"), std::string::npos);
}

}  // namespace
}  // namespace lram::weights
