// lram ckpt verify and show on checkpoints of our own.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "lram/core/file.h"
#include "lram/core/json.h"
#include "lram/core/manifest.h"
#include "lram/core/safetensors.h"
#include "tests/support/run_command.h"
#include "tests/support/tiny_policy.h"

namespace lram::weights {
namespace {
namespace fs = std::filesystem;
using nlohmann::json;
using test::CommandResult;

CommandResult ckpt(std::vector<std::string> words) {
  words.insert(words.begin(), {test::program("lram"), "ckpt"});
  return test::run_command(words);
}

class Verify : public testing::Test {
 protected:
  Verify() {
    const auto policy =
        test::tiny_policy(test::tiny_config("xlstm"), {"grid/dark_room_10x10_dense"});
    test::write_checkpoint(*policy, checkpoint_);
  }
  void change(const fs::path& path, const std::function<void(std::string&)>& edit) {
    std::string bytes = read_file(path);
    edit(bytes);
    std::ofstream(path, std::ios::binary) << bytes;
  }
  test::TempFolder folder_;
  fs::path checkpoint_ = folder_.path() / "checkpoint";
  fs::path weights_ = checkpoint_ / "model.safetensors";
};

TEST_F(Verify, SoundCheckpointEndsWithCode0) {
  const CommandResult out = ckpt({"verify", checkpoint_, "--json"});
  ASSERT_EQ(out.exit_code, 0) << out.err;
  const json report = parse_json(out.out);
  EXPECT_EQ(report["manifest"], "agrees");
  EXPECT_EQ(report["shapes"], "as config.json builds them");
  EXPECT_EQ(report["tensors"], SafetensorsFile(weights_).tensors().size());
  EXPECT_NE(ckpt({"verify", checkpoint_}).out.find("sound, "), std::string::npos);
}

TEST_F(Verify, AnyChangedByteEndsWithCode3) {
  change(weights_, [](std::string& bytes) { bytes[bytes.size() / 2] ^= 1; });
  const CommandResult out = ckpt({"verify", checkpoint_});
  EXPECT_EQ(out.exit_code, 3);
  EXPECT_EQ(out.out, "");
  EXPECT_NE(out.err.find("model.safetensors: damaged, has CRC32C"), std::string::npos) << out.err;
}

TEST_F(Verify, ConfigOfAnotherModelEndsWithCode3) {
  change(checkpoint_ / "config.json", [](std::string& text) {
    const auto at = text.find("\"num_blocks\": 2");
    ASSERT_NE(at, std::string::npos);
    text.replace(at, 15, "\"num_blocks\": 3");
  });
  write_manifest(checkpoint_);
  const CommandResult out = ckpt({"verify", checkpoint_});
  EXPECT_EQ(out.exit_code, 3);
  EXPECT_NE(out.err.find("no tensor 'encoder.layers.blocks.2."), std::string::npos) << out.err;
}

TEST_F(Verify, ValuesThatAreNotFiniteEndWithCode1) {
  change(weights_, [](std::string& bytes) {
    const float nan = NAN;
    std::memcpy(&bytes[bytes.size() - 4], &nan, 4);
  });
  write_manifest(checkpoint_);
  for (const fs::path& path : {checkpoint_, weights_}) {
    const CommandResult out = ckpt({"verify", path});
    EXPECT_EQ(out.exit_code, 1) << out.err;
    EXPECT_NE(out.out.find("1 values that are not finite, wanted finite values"), std::string::npos)
        << out.out;
  }
}

TEST_F(Verify, MissingPartsEndWithCode3) {
  fs::remove(checkpoint_ / kManifestName);
  EXPECT_EQ(ckpt({"verify", checkpoint_}).exit_code, 3);
  EXPECT_EQ(ckpt({"verify", folder_.path() / "absent"}).exit_code, 3);
  EXPECT_EQ(ckpt({"verify"}).exit_code, 2);
}

TEST_F(Verify, PublicWeightsAreComparedWithTheirFormat) {
  const fs::path stack = folder_.path() / "stack.safetensors";
  ASSERT_EQ(ckpt({"convert", "--to", "xlstm_v1", checkpoint_, stack}).exit_code, 0);
  const CommandResult sound = ckpt({"verify", stack, "--json"});
  ASSERT_EQ(sound.exit_code, 0) << sound.err;
  EXPECT_EQ(parse_json(sound.out)["shapes"], "of one xlstm_v1 model");
  const SafetensorsFile file(stack);
  std::vector<TensorEntry> entries = file.tensors();
  ASSERT_EQ(std::erase_if(entries,
                          [](const TensorEntry& entry) {
                            return entry.name == "blocks.0.xlstm.learnable_skip";
                          }),
            1u);
  const fs::path cut = folder_.path() / "cut.safetensors";
  write_safetensors(cut, entries);
  EXPECT_EQ(ckpt({"verify", cut}).exit_code, 3);
}

TEST_F(Verify, ShowPrintsConfigAndTasks) {
  fs::create_directories(checkpoint_ / "training_state");
  std::ofstream(checkpoint_ / "training_state/trainer.json") << R"({"step": 1234})";
  const CommandResult text = ckpt({"show", checkpoint_});
  ASSERT_EQ(text.exit_code, 0) << text.err;
  for (const char* part :
       {"format               lram", "step                 1234",
        "task                 grid/dark_room_10x10_dense, target return 100",
        "embed_dim            32", "encoder.layers.blocks.0.xlstm.proj_up.weight"})
    EXPECT_NE(text.out.find(part), std::string::npos) << part << "\n" << text.out;
  const CommandResult out = ckpt({"show", checkpoint_, "--json"});
  ASSERT_EQ(out.exit_code, 0) << out.err;
  const json shown = parse_json(out.out);
  EXPECT_EQ(shown["step"], 1234);
  EXPECT_EQ(shown["config"]["model"]["embed_dim"], 32);
}

}  // namespace
}  // namespace lram::weights
