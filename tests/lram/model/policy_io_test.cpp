#include <gtest/gtest.h>
#include <torch/utils.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "lram/core/error.h"
#include "lram/core/file.h"
#include "lram/core/json.h"
#include "lram/core/manifest.h"
#include "lram/model/policy.h"
#include "lram/model/tensor_io.h"
#include "tests/support/temp_folder.h"

namespace lram::model::policy_io_test {
namespace {
namespace fs = std::filesystem;
using nlohmann::json;

PolicyConfig small(const std::string& backbone) {
  PolicyConfig config;
  config.backbone = backbone;
  config.embed_dim = 16;
  config.num_blocks = 2;
  config.num_heads = 2;
  config.slstm_at = backbone == "xlstm" ? "1" : "";
  config.max_episode_steps = 10;
  config.state_dim = 5;
  config.action_slots = 2;
  config.discrete_ids = 3;
  config.num_bins = 4;
  return config;
}

class PolicyIo : public testing::Test {
 protected:
  void SetUp() override {
    torch::manual_seed(3);
    policy_ = std::make_shared<Policy>(small("xlstm"));
    tokenization::TaskEntry task;
    task.spec.id = "grid/made_up";
    task.spec.observation.vector_size = 2;
    task.spec.action.discrete = true;
    task.spec.action.size = 1;
    task.spec.action.num_actions = 3;
    task.target_return = 12.5;
    tokenization::TaskTable tasks;
    tasks.add(task);
    policy_->set_tasks(tasks);
    fs::create_directories(step_);
    save_policy_files(*policy_, step_);
    write_manifest(step_);
  }

  /// Changes config.json and vouches for it again, so that only its content is wrong.
  void edit_config(const std::function<void(json&)>& edit) {
    json config = parse_json(read_file(step_ / "config.json"));
    edit(config);
    write_file_atomically(step_ / "config.json", json_text(config));
    write_manifest(step_);
  }

  std::string load_message(const fs::path& folder) {
    try {
      load_policy(folder);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kInput);
      const std::string text = error.what();
      EXPECT_EQ(text.find('\n'), std::string::npos) << text;
      return text;
    }
    return "loaded";
  }

  test::TempFolder folder_;
  fs::path step_ = folder_.path() / "checkpoints/000000010";
  std::shared_ptr<Policy> policy_;
};

#define EXPECT_SAYS(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)

TEST_F(PolicyIo, LoadsWhatWasSavedThroughTheLink) {
  const fs::path last = folder_.path() / "checkpoints/last";
  fs::create_directory_symlink("000000010", last);
  const auto back = load_policy(last);
  EXPECT_EQ(back->config(), policy_->config());
  EXPECT_EQ(back->tasks().at("grid/made_up"), policy_->tasks().at("grid/made_up"));
  EXPECT_FALSE(back->is_training());
  const auto want = named_tensors(*policy_), got = named_tensors(*back);
  ASSERT_EQ(want.size(), got.size());
  for (std::size_t i = 0; i < want.size(); ++i) {
    EXPECT_EQ(want[i].first, got[i].first);
    EXPECT_TRUE(torch::equal(want[i].second, got[i].second)) << want[i].first;
  }
}

TEST_F(PolicyIo, EveryImageEncoderComesBack) {
  for (const std::string encoder : {"impala", "vil", "vit"}) {
    PolicyConfig config = small("xlstm");
    config.image_encoder = encoder;
    config.image_size = 16;
    if (encoder != "impala") {
      config.image_dim = 12;
      config.image_blocks = 2;
    }
    policy_ = std::make_shared<Policy>(config);
    policy_->set_tasks({});
    save_policy_files(*policy_, step_);
    write_manifest(step_);
    const auto back = load_policy(step_);
    EXPECT_EQ(back->config(), config);
    WindowBatch batch;
    batch.image = torch::randint(256, {2, 3, 3, 16, 16}, torch::kUInt8);
    batch.return_to_go = torch::randn({2, 3});
    batch.reward = torch::randn({2, 3});
    EXPECT_TRUE(torch::equal(back->forward(batch).logits, policy_->forward(batch).logits))
        << encoder;
    edit_config([](json& c) { c["model"]["image_encoder"] = "unet"; });
    EXPECT_SAYS(load_message(step_),
                "config.json: model.image_encoder is 'unet', wanted one of impala, vil, vit");
  }
  edit_config([](json& c) {
    const json initial = PolicyConfig();
    c["model"]["image_encoder"] = "impala";
    for (const char* field : {"image_dim", "image_blocks"}) c["model"][field] = initial[field];
  });
  EXPECT_SAYS(load_message(step_), "model.safetensors: no tensor 'embed_image.cnn.0.conv.weight'");
}

TEST_F(PolicyIo, AnotherArchitectureIsNamed) {
  edit_config([](json& config) { config["model"]["num_blocks"] = 3; });
  EXPECT_SAYS(load_message(step_), "model.safetensors: no tensor 'encoder.layers.blocks.2.");
  edit_config([](json& config) {
    config["model"]["num_blocks"] = 2;
    config["model"]["action_slots"] = 4;
  });
  EXPECT_SAYS(load_message(step_),
              "tensor 'action_net.0.weight' has shape [14, 16], wanted [28, 16]");
  edit_config([](json& config) {
    config["model"]["action_slots"] = 2;
    config["model"]["backbone"] = "gpt2";
    config["model"]["slstm_at"] = "";
  });
  EXPECT_SAYS(load_message(step_), "no tensor 'encoder.wpe.weight'");
  edit_config([](json& config) { config["model"]["backbone"] = "rwkv"; });
  EXPECT_SAYS(load_message(step_), "config.json: model.backbone is 'rwkv', wanted one of xlstm, ");
}

TEST_F(PolicyIo, BadConfigsAreNamed) {
  edit_config([](json& config) { config["format_version"] = 2; });
  EXPECT_SAYS(load_message(step_), "config.json: format_version is 2, this program reads 1");
  edit_config([](json& config) {
    config["format_version"] = 1;
    config["model"].erase("state_dim");
  });
  EXPECT_SAYS(load_message(step_), "config.json: model: no field 'state_dim'");
  edit_config([](json& config) { config["model"]["state_dim"] = "wide"; });
  EXPECT_SAYS(load_message(step_), "field 'state_dim' is \"wide\", wanted a whole number");
  edit_config([](json& config) { config.erase("tasks"); });
  EXPECT_SAYS(load_message(step_), "config.json: no field 'tasks'");
  write_file_atomically(step_ / "config.json", "{");
  write_manifest(step_);
  EXPECT_SAYS(load_message(step_), "config.json: not a JSON object");
}

TEST_F(PolicyIo, DamageIsNoticed) {
  EXPECT_SAYS(load_message(folder_.path() / "absent"), "absent: not a checkpoint folder");
  const std::string weights = read_file(step_ / "model.safetensors");
  std::string broken = weights;
  broken[broken.size() - 100] ^= 1;
  write_file_atomically(step_ / "model.safetensors", broken);
  EXPECT_SAYS(load_message(step_), "model.safetensors");
  write_file_atomically(step_ / "model.safetensors", weights.substr(0, weights.size() / 2));
  EXPECT_SAYS(load_message(step_), "model.safetensors");
  fs::remove(step_ / "model.safetensors");
  EXPECT_SAYS(load_message(step_), "model.safetensors");
}

}  // namespace
}  // namespace lram::model::policy_io_test
