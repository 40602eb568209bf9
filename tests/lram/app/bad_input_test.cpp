// The whole way, collect to evaluation, with bad input at each station: the exit code, one line
// that names the place, and nothing lost.
#include <fmt/core.h>
#include <gtest/gtest.h>

#include <fstream>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>

#include "datasets/reader.h"
#include "datasets/writer.h"
#include "lram/core/file.h"
#include "lram/core/json.h"
#include "lram/core/manifest.h"
#include "lram/core/text.h"
#include "tests/support/run_command.h"

namespace lram::bad_input_test {
namespace {
namespace fs = std::filesystem;
using test::CommandResult;
using Words = std::vector<std::string>;

CommandResult lram_command(Words words) {
  words.insert(words.begin(), test::program("lram"));
  return test::run_command(words);
}

/// The same with files of at most `kib` KiB, which is how a disk that runs full looks.
CommandResult lram_on_a_full_disk(int kib, const Words& words) {
  std::string line = fmt::format("ulimit -f {}; exec {}", kib, test::program("lram"));
  for (const std::string& word : words) line += " '" + word + "'";
  return test::run_command({"/bin/bash", "-c", line});
}

/// Fails with `code`; the last line of stderr is the cause and holds all `parts`. Nothing else is
/// there unless the verb was at work already and had `progress` to tell.
void expect_failure(const CommandResult& result, int code, const Words& parts,
                    bool progress = false) {
  EXPECT_EQ(result.exit_code, code) << result.err;
  EXPECT_EQ(result.out, "");
  ASSERT_TRUE(result.err.ends_with('\n')) << "'" << result.err << "'";
  const std::string text = result.err.substr(0, result.err.size() - 1);
  const auto newline = text.rfind('\n');
  EXPECT_TRUE(progress || newline == std::string::npos) << text;
  const std::string cause = newline == std::string::npos ? text : text.substr(newline + 1);
  EXPECT_TRUE(cause.starts_with("lram")) << cause;
  for (const std::string& part : parts)
    EXPECT_NE(cause.find(part), std::string::npos) << "'" << part << "' is not in: " << cause;
}

/// Every file below `folder` with its bytes.
std::map<std::string, std::string> contents(const fs::path& folder) {
  std::map<std::string, std::string> out;
  for (const auto& item : fs::recursive_directory_iterator(folder))
    if (item.is_regular_file()) out[item.path()] = read_file(item.path());
  return out;
}

void write_bytes(const fs::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

std::string with_flipped_bit(std::string bytes) {
  bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 16);
  return bytes;
}

const std::string kTask = "grid/dark_room_10x10_dense";

// A data set of four episodes, a recipe of two steps and the run that it leaves.
class BadInput : public testing::Test {
 protected:
  void SetUp() override {
    write_bytes(recipe_,
                "[model]\nembed_dim = 16\nnum_blocks = 2\nnum_heads = 2\ncontext_length = 8\n"
                "state_dim = 6\n\n[train]\nsteps = 2\nbatch_size = 2\nwarmup_steps = 1\n"
                "validation_batches = 1\n");
    const CommandResult collected = lram_command(collect_words(4, data_));
    ASSERT_EQ(collected.exit_code, 0) << collected.err;
    const CommandResult trained = lram_command(train_words("run"));
    ASSERT_EQ(trained.exit_code, 0) << trained.err;
  }

  Words collect_words(int episodes, const fs::path& out) const {
    return {"data",    "collect", "--task",     kTask,
            "--agent", "sweep",   "--episodes", std::to_string(episodes),
            "--out",   out};
  }
  /// Words that train the run `name` on the data set, with changes after them.
  Words train_words(const std::string& name, const Words& more = {}) const {
    Words words = {
        "train",     "--recipe", recipe_, "--data.files", data_, "--run", folder_.path() / name,
        "--threads", "1"};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
  CommandResult eval(const Words& more = {}) const {
    Words words = {"eval", "--checkpoint", checkpoint_, "--episodes", "1", "--threads", "1"};
    words.insert(words.end(), more.begin(), more.end());
    return lram_command(words);
  }

  const test::TempFolder folder_;
  const fs::path data_ = folder_.path() / "room.h5", recipe_ = folder_.path() / "tiny.ini",
                 run_ = folder_.path() / "run", fresh_ = folder_.path() / "fresh",
                 checkpoint_ = run_ / "checkpoints/000000002";
};

TEST_F(BadInput, MissingFilesAreNamed) {
  const std::string absent = folder_.path() / "absent";
  for (const char* verb : {"ls", "show"})
    expect_failure(lram_command({"data", verb, absent}), 3, {absent});
  EXPECT_EQ(lram_command({"data", "validate", absent}).exit_code, 3);
  expect_failure(lram_command({"train", "--recipe", recipe_, "--data.files", absent}), 3, {absent});
  expect_failure(lram_command({"train", "--recipe", absent}), 3, {absent});
  expect_failure(lram_command({"train", "--recipe", folder_.path()}), 3, {folder_.path()});
  expect_failure(lram_command({"train", "--resume", absent}), 3, {absent});
  expect_failure(lram_command({"eval", "--checkpoint", absent}), 3, {absent});
  expect_failure(lram_command({"report", absent}), 3, {absent});
}

TEST_F(BadInput, AbsurdNumbersOfThreadsAreRefused) {
  const std::string out = folder_.path() / "more.h5";
  for (const Words& verb :
       std::vector<Words>{{"data", "collect", "--task", kTask, "--agent", "sweep", "--episodes",
                           "1", "--out", out},
                          {"train", "--recipe", recipe_, "--data.files", data_, "--run", fresh_},
                          {"eval", "--checkpoint", checkpoint_, "--episodes", "1"},
                          {"bench", "env", "--task", "dmcontrol/point_mass_easy"},
                          {"bench", "step", "--steps", "1"},
                          {"probe", "--steps", "1"}})
    for (const char* threads : {"1025", "-1"}) {
      Words words = verb;
      words.insert(words.end(), {"--threads", threads});
      expect_failure(lram_command(words), 2, {"--threads", threads, "wanted "});
    }
  EXPECT_FALSE(fs::exists(out));
  EXPECT_FALSE(fs::exists(fresh_));
}

TEST_F(BadInput, ATruncatedDataSetIsRefused) {
  const std::string bytes = read_file(data_);
  for (const std::size_t size : {std::size_t{0}, std::size_t{100}, bytes.size() - 1}) {
    SCOPED_TRACE(size);
    write_bytes(data_, bytes.substr(0, size));
    expect_failure(lram_command({"data", "show", data_}), 3, {data_});
    expect_failure(lram_command(train_words("fresh")), 3, {data_});
    expect_failure(lram_command(collect_words(6, data_)), 3, {data_});
    EXPECT_EQ(read_file(data_), bytes.substr(0, size));
    EXPECT_FALSE(fs::exists(fresh_));
  }
}

TEST_F(BadInput, ADamagedCheckpointIsRefused) {
  ASSERT_EQ(eval().exit_code, 0);
  for (const char* name : {"model.safetensors", "config.json"}) {
    SCOPED_TRACE(name);
    const std::string bytes = read_file(checkpoint_ / name);
    fs::remove(checkpoint_ / name);
    expect_failure(eval(), 3, {checkpoint_ / name});
    write_bytes(checkpoint_ / name, bytes.substr(0, bytes.size() / 2));
    expect_failure(eval(), 3, {checkpoint_ / name, fmt::format("wants {}", bytes.size())});
    write_bytes(checkpoint_ / name, with_flipped_bit(bytes));
    expect_failure(eval(), 3, {checkpoint_ / name});
    write_bytes(checkpoint_ / name, bytes);
  }
  EXPECT_EQ(eval().exit_code, 0);
  // There is no older checkpoint to go on from.
  const fs::path optimizer = checkpoint_ / "training_state/optimizer.safetensors";
  write_bytes(optimizer, with_flipped_bit(read_file(optimizer)));
  expect_failure(lram_command({"train", "--resume", run_}), 3, {"checkpoints"}, /*progress=*/true);
}

TEST_F(BadInput, ACheckpointOfAnotherArchitectureIsRefused) {
  const auto change = [&](const char* key, const nlohmann::json& value) {
    auto config = parse_json(read_file(checkpoint_ / "config.json"));
    config.at("model").at(key) = value;
    write_bytes(checkpoint_ / "config.json", json_text(config));
    write_manifest(checkpoint_);
  };
  const std::string weights = checkpoint_ / "model.safetensors";
  change("embed_dim", 32);
  expect_failure(eval(), 3, {weights, "wanted"});
  change("embed_dim", 16);
  EXPECT_EQ(eval().exit_code, 0);
  change("num_blocks", 3);
  expect_failure(eval(), 3, {weights});
  change("num_blocks", 2);
  change("backbone", "gpt2");
  expect_failure(eval(), 3, {checkpoint_});
  change("backbone", "rwkv");
  expect_failure(eval(), 3, {checkpoint_ / "config.json", "rwkv", "xlstm"});
}

TEST_F(BadInput, AConfigThatCannotBeBuiltIsRefused) {
  struct Row {
    Words options;  ///< FIELD, value, ... below model.
    std::string cause;
  };
  const std::vector<Row> rows = {
      {{"backbone", "lstmx"}, "model.backbone is 'lstmx', wanted one of xlstm, "},
      {{"embed_dim", "0"}, "model.embed_dim is 0, wanted 1 to 65536"},
      {{"num_heads", "3"}, "model.num_heads is 3, which does not divide the mLSTM's width"},
      {{"qkv_blocksize", "5"}, "model.qkv_blocksize is 5, which does not divide the mLSTM's width"},
      {{"slstm_at", "2"}, "model.slstm_at"},
      {{"slstm_at", "1", "num_heads", "32"},
       "model.num_heads is 32, which does not divide embed_dim"},
      {{"cell_eps", "nan"}, "model.cell_eps is nan, wanted 0 to 1"},
      {{"input_gate", "tanh"}, "model.input_gate is 'tanh', wanted exp or sigmoid"},
      {{"normalize", "false"}, "model.normalize is false, wanted true or else model.input_gate"},
      {{"backbone", "xlstm_large", "num_heads", "5"},
       "model.num_heads is 5, which does not divide"},
      {{"backbone", "xlstm_large", "swiglu_factor", "0"},
       "model.swiglu_factor is 0, wanted more than 0"},
      {{"backbone", "gru", "num_heads", "3"},
       "model.num_heads is 3, which does not divide embed_dim (16)"},
      {{"backbone", "gru", "slstm_at", "1"}, "model.slstm_at is \"1\", wanted \"\" with gru"},
      {{"backbone", "mamba", "conv_kernel", "0"}, "model.conv_kernel is 0, wanted 1 to 1024"},
      {{"backbone", "gpt2", "positions", "sin"},
       "model.positions is 'sin', wanted learned or rope"},
      {{"backbone", "gpt2", "positions", "rope", "num_heads", "16"},
       "model.num_heads is 16, which leaves heads of width 1"},
      {{"backbone", "gpt2", "num_heads", "3"},
       "model.num_heads is 3, which does not divide embed_dim (16)"},
      {{"image_encoder", "unet"}, "model.image_encoder is 'unet', wanted one of impala, vil, vit"},
      {{"image_size", "64", "image_encoder", "vil", "image_patch", "7"},
       "model.image_patch is 7, which does not divide image_size (64)"},
      {{"image_size", "64", "image_encoder", "vil", "image_blocks", "3"},
       "model.image_blocks is 3, wanted an even number"},
      {{"image_size", "64", "image_encoder", "vit", "image_heads", "5"},
       "model.image_heads is 5, which does not divide image_dim (192)"},
      {{"num_blocks", "two"}, "model.num_blocks"},
  };
  for (const Row& row : rows) {
    Words words;
    for (std::size_t i = 0; i < row.options.size(); i += 2) {
      words.push_back("--model." + row.options[i]);
      words.push_back(row.options[i + 1]);
    }
    SCOPED_TRACE(joined(words, " "));
    expect_failure(lram_command(train_words("fresh", words)), 2, {row.cause});
    EXPECT_FALSE(fs::exists(fresh_));
  }
}

TEST_F(BadInput, WeightsOfAnotherBackboneAreRefused) {
  const CommandResult other = lram_command(
      train_words("other", {"--model.backbone", "gpt2", "--model.max_episode_steps", "100"}));
  ASSERT_EQ(other.exit_code, 0) << other.err;
  const fs::path foreign = folder_.path() / "other/checkpoints/000000002";
  // Its weights under our config, and our config's weights there: names tell them apart.
  for (const auto& [from, to] :
       {std::pair{foreign, checkpoint_}, std::pair{checkpoint_, foreign}}) {
    const fs::path mixed = folder_.path() / "mixed";
    fs::remove_all(mixed);
    fs::copy(to, mixed, fs::copy_options::recursive);
    fs::copy_file(from / "model.safetensors", mixed / "model.safetensors",
                  fs::copy_options::overwrite_existing);
    write_manifest(mixed);
    expect_failure(lram_command({"eval", "--checkpoint", mixed, "--episodes", "1"}), 3,
                   {mixed / "model.safetensors", "no tensor 'encoder.", "wanted one of shape ["});
  }
}

TEST_F(BadInput, UnknownNamesGetTheNearest) {
  const auto changed = [](Words words, const std::string& from, const std::string& to) {
    std::replace(words.begin(), words.end(), from, to);
    return lram_command(words);
  };
  const Words words = collect_words(4, fresh_);
  expect_failure(changed(words, kTask, "dark_room_10x10_dens"), 2,
                 {"did you mean 'grid/dark_room_10x10_dense'"});
  expect_failure(changed(words, "sweep", "swep"), 2, {"did you mean 'sweep'"});
  expect_failure(changed(words, "--episodes", "--episode"), 2, {"did you mean '--episodes'"});
  expect_failure(changed(words, "collect", "colect"), 2, {"did you mean 'lram data collect'"});
  expect_failure(lram_command({"env", "show", "cartpole_swingop"}), 2, {"cartpole_swingup'"});
  expect_failure(eval({"--task", "dark_room_10x10_dens"}), 2,
                 {"did you mean 'grid/dark_room_10x10_dense'"});
  expect_failure(lram_command(train_words("fresh", {"--train.step", "3"})), 2,
                 {"did you mean '--train.steps'"});
  write_bytes(recipe_, read_file(recipe_) + "batchsize = 2\n");
  expect_failure(lram_command(train_words("fresh")), 2,
                 {recipe_, "did you mean 'train.batch_size'"});
  EXPECT_FALSE(fs::exists(fresh_));
}

TEST_F(BadInput, NanInTheDataIsFoundAndNotTrainedOn) {
  const fs::path path = folder_.path() / "nan.h5";
  {
    const datasets::Dataset good(data_);
    datasets::DatasetWriter writer(path, good.spec(), good.generator());
    for (int i = 0; i < 4; ++i) {
      const datasets::EpisodeView episode = good.episode(i);
      std::vector<float> rewards(episode.rewards.begin(), episode.rewards.end());
      if (i == 2) rewards[7] = std::numeric_limits<float>::quiet_NaN();
      datasets::EpisodeView changed = episode;
      changed.rewards = rewards;
      writer.append(changed);
    }
    writer.finish();
  }
  const CommandResult found = lram_command({"data", "validate", path});
  EXPECT_EQ(found.exit_code, 3);
  EXPECT_NE(found.out.find(path.string() + ": /rewards["), std::string::npos) << found.out;
  EXPECT_NE(found.out.find("(episode 2, step 7)"), std::string::npos) << found.out;
  fs::rename(path, data_);
  expect_failure(lram_command(train_words("fresh")), 3, {data_, "/rewards", "episode 2"});
  EXPECT_FALSE(fs::exists(fresh_));
}

TEST_F(BadInput, AFullDiskLosesNothing) {
  const auto before = contents(folder_.path());
  expect_failure(lram_on_a_full_disk(8, collect_words(6, data_)), 4,
                 {data_, "cannot write", "File too large"}, /*progress=*/true);
  EXPECT_EQ(contents(folder_.path()), before);
  expect_failure(lram_on_a_full_disk(8, train_words("fresh")), 4,
                 {fresh_ / "checkpoints", "cannot write", "File too large"}, /*progress=*/true);
  EXPECT_TRUE(fs::is_empty(fresh_ / "checkpoints"));
  fs::remove_all(fresh_);
  EXPECT_EQ(contents(folder_.path()), before);

  const CommandResult again = lram_command(collect_words(6, data_));
  ASSERT_EQ(again.exit_code, 0) << again.err;
  EXPECT_EQ(datasets::Dataset(data_).num_episodes(), 6);
}
}  // namespace
}  // namespace lram::bad_input_test
