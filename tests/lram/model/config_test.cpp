#include "lram/model/config.h"

#include <fmt/core.h>
#include <gtest/gtest.h>

#include <functional>
#include <nlohmann/json.hpp>
#include <set>

#include "lram/core/error.h"
#include "lram/core/json.h"
#include "lram/model/backbones.h"

namespace lram::model::config_test {
namespace {
using nlohmann::json;

TEST(PolicyConfig, SurvivesJson) {
  PolicyConfig xlstm, gpt2;
  xlstm.max_episode_steps = 1000;
  xlstm.ffn_factor = 0.1;
  xlstm.slstm_at = "1,3";
  xlstm.input_gate = "sigmoid";
  xlstm.normalize = false;
  gpt2.backbone = "gpt2";
  gpt2.positions = "rope";
  for (const PolicyConfig& config : {xlstm, gpt2}) {
    EXPECT_EQ(parse_json(json_text(json(config))).get<PolicyConfig>(), config);
    EXPECT_FALSE(config == PolicyConfig());
  }
}

TEST(PolicyConfig, FilesThatAreOlderThanAFieldHaveItsDefault) {
  PolicyConfig config;
  config.embed_dim = 96;
  const json whole = config;
  json old = whole;
  // What the first release wrote.
  const std::set<std::string> first = {
      "backbone",     "embed_dim",    "num_blocks", "num_heads",  "context_length",
      "slstm_at",     "cell_eps",     "chunk_size", "ffn_factor", "max_episode_steps",
      "conv_kernel",  "state_dim",    "image_size", "num_bins",   "action_slots",
      "discrete_ids", "qkv_blocksize"};
  for (const auto& item : whole.items())
    if (!first.contains(item.key())) old.erase(item.key());
  ASSERT_EQ(old.size(), first.size());
  EXPECT_EQ(old.get<PolicyConfig>(), config);
  for (const std::string& name : first) {
    json damaged = old;
    damaged.erase(name);
    try {
      damaged.get<PolicyConfig>();
      ADD_FAILURE() << name;
    } catch (const Error& error) {
      EXPECT_EQ(error.what(), "model: no field '" + name + "'");
    }
  }
}

TEST(PolicyConfig, OptionsFillEveryField) {
  PolicyConfig config;
  po::options_description options;
  describe(options, config);
  EXPECT_EQ(options.options().size(), json(config).size());
  const std::vector<std::string> arguments = {"--model.backbone=gpt2", "--model.embed_dim=96",
                                              "--model.ffn_factor=2.5", "--model.normalize=false"};
  po::variables_map values;
  po::store(po::command_line_parser(arguments).options(options).run(), values);
  po::notify(values);
  EXPECT_EQ(config.backbone, "gpt2");
  EXPECT_EQ(config.embed_dim, 96);
  EXPECT_EQ(config.ffn_factor, 2.5);
  EXPECT_FALSE(config.normalize);
  EXPECT_EQ(config.num_blocks, PolicyConfig().num_blocks);
}

TEST(PolicyConfig, JsonOfAnotherTypeIsNamed) {
  json config = PolicyConfig();
  config["normalize"] = 1;
  try {
    config.get<PolicyConfig>();
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kInput);
    EXPECT_STREQ(error.what(), "model: field 'normalize' is 1, wanted true or false");
  }
}

/// What validate() says to an xlstm of four blocks, changed.
std::string message(const std::function<void(PolicyConfig&)>& edit) {
  PolicyConfig config;
  config.num_blocks = 4;
  edit(config);
  try {
    validate(config);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    return error.what();
  }
  return "accepted";
}

TEST(PolicyConfig, FieldsOfOtherArchitecturesAreRefused) {
  const auto with = [](const char* backbone, const std::function<void(PolicyConfig&)>& edit) {
    return message([&](PolicyConfig& c) {
      c.backbone = backbone;
      c.max_episode_steps = 9;
      edit(c);
    });
  };
  for (const std::string& backbone : backbone_names()) {
    EXPECT_EQ(with(backbone.c_str(), [](auto&) {}), "accepted");
    if (backbone == "xlstm") continue;
    EXPECT_EQ(with(backbone.c_str(), [](auto& c) { c.slstm_at = "1"; }),
              "model.slstm_at is \"1\", wanted \"\" with " + backbone + ": it is of xlstm alone");
  }
  EXPECT_EQ(with("mamba", [](auto& c) { c.num_heads = 8; }),
            "model.num_heads is 8, wanted 4 with mamba: it is of elman, gpt2, gru, lstm, slstm, "
            "xlstm, xlstm_large alone");
  EXPECT_EQ(with("gpt2", [](auto& c) { c.ffn_factor = 4.0; }),
            "model.ffn_factor is 4.0, wanted 1.3 with gpt2: it is of elman, gru, lstm, slstm, "
            "xlstm alone");
  EXPECT_EQ(with("lstm", [](auto& c) { c.normalize = false; }),
            "model.normalize is false, wanted true with lstm: it is of xlstm, xlstm_large alone");
  EXPECT_EQ(with("xlstm", [](auto& c) { c.positions = "rope"; }),
            "model.positions is \"rope\", wanted \"learned\" with xlstm: it is of gpt2 alone");
  EXPECT_EQ(with("xlstm", [](auto& c) { c.gate_soft_cap = 0.0; }),
            "model.gate_soft_cap is 0.0, wanted 15.0 with xlstm: it is of xlstm_large alone");
  EXPECT_EQ(with("xlstm", [](auto& c) { c.image_patch = 4; }),
            "model.image_patch is 4, wanted 8 with impala: it is of vil, vit alone");
  EXPECT_EQ(message([](auto& c) {
              c.image_size = 64;
              c.image_encoder = "vit";
              c.vil_version = 1;
            }),
            "model.vil_version is 1, wanted 2 with vit: it is of vil alone");
  EXPECT_EQ(message([](auto& c) { c.image_encoder = "vil"; }),
            "model.image_size is 0, wanted at least 1 for a vil");

  // A config made out of another's loses them, and nothing else.
  PolicyConfig config;
  config.slstm_at = "1,3";
  config.num_heads = 8;
  config.conv_kernel = 3;
  config.embed_dim = 96;
  config.backbone = "mamba";
  clear_unused(config);
  PolicyConfig wanted;
  wanted.conv_kernel = 3;
  wanted.embed_dim = 96;
  wanted.backbone = "mamba";
  EXPECT_EQ(config, wanted);
}

TEST(PolicyConfig, WhatCannotBeBuiltIsNamed) {
  EXPECT_EQ(message([](auto&) {}), "accepted");
  EXPECT_EQ(message([](auto& c) {
              c.backbone = "rwkv";
            }).find("model.backbone is 'rwkv', wanted one of xlstm, "),
            0u);
  for (const char* backbone : {"slstm", "lstm", "gru", "elman"})
    EXPECT_EQ(message([&](auto& c) {
                c.backbone = backbone;
                c.num_heads = 3;
              }),
              "model.num_heads is 3, which does not divide embed_dim (512)");
  EXPECT_EQ(message([](auto& c) {
              c.backbone = "lstm";
              c.conv_kernel = -1;
            }),
            "model.conv_kernel is -1, wanted 0 to 1024");
  EXPECT_EQ(message([](auto& c) {
              c.backbone = "mamba";
              c.conv_kernel = 0;
            }),
            "model.conv_kernel is 0, wanted 1 to 1024");
  EXPECT_EQ(message([](auto& c) {
              c.backbone = "gpt2";
              c.positions = "sine";
            }),
            "model.positions is 'sine', wanted learned or rope");
  EXPECT_EQ(message([](auto& c) {
              c.backbone = "gpt2";
              c.positions = "rope";
              c.num_heads = 512;
            }),
            "model.num_heads is 512, which leaves heads of width 1, wanted an even one for rope");
  EXPECT_EQ(message([](auto& c) {
              c.backbone = "gpt2";
              c.positions = "rope";
            }),
            "accepted");  // no table, so no longest episode
  EXPECT_EQ(message([](auto& c) { c.embed_dim = 0; }), "model.embed_dim is 0, wanted 1 to 65536");
  EXPECT_EQ(message([](auto& c) { c.num_heads = 3; }),
            "model.num_heads is 3, which does not divide the mLSTM's width, 2 x embed_dim rounded "
            "up to 64 (1024)");
  EXPECT_EQ(message([](auto& c) {
              c.backbone = "gpt2";
              c.max_episode_steps = 9;
              c.num_heads = 3;
            }),
            "model.num_heads is 3, which does not divide embed_dim (512)");
  EXPECT_EQ(message([](auto& c) { c.backbone = "gpt2"; }),
            "model.max_episode_steps is 0, wanted 1 to 16777216");
  EXPECT_EQ(message([](auto& c) { c.cell_eps = -1.0; }), "model.cell_eps is -1, wanted 0 to 1");
  EXPECT_EQ(message([](auto& c) { c.image_encoder = "resnet"; }),
            "model.image_encoder is 'resnet', wanted one of impala, vil, vit");
  const auto with_images = [&](const std::string& encoder,
                               const std::function<void(PolicyConfig&)>& edit) {
    return message([&](PolicyConfig& c) {
      c.image_encoder = encoder;
      c.image_size = 64;
      edit(c);
    });
  };
  for (const char* encoder : {"impala", "vil", "vit"})
    EXPECT_EQ(with_images(encoder, [](auto&) {}), "accepted");
  EXPECT_EQ(with_images("vil", [](auto& c) { c.image_patch = 12; }),
            "model.image_patch is 12, which does not divide image_size (64)");
  EXPECT_EQ(with_images("vil", [](auto& c) { c.image_patch = 65; }),
            "model.image_patch is 65, wanted 1 to 64");
  EXPECT_EQ(with_images("vil", [](auto& c) { c.image_dim = 30; }),
            "model.image_dim is 30, wanted a multiple of 4 for a vil");
  EXPECT_EQ(with_images("vil", [](auto& c) { c.image_blocks = 5; }),
            "model.image_blocks is 5, wanted an even number: a vil of version 2 scans in pairs");
  EXPECT_EQ(with_images("vil", [](auto& c) { c.vil_version = 3; }),
            "model.vil_version is 3, wanted 1 to 2");
  EXPECT_EQ(with_images("vit", [](auto& c) { c.image_heads = 5; }),
            "model.image_heads is 5, which does not divide image_dim (192)");
  EXPECT_EQ(with_images("vit", [](auto& c) { c.image_blocks = 0; }),
            "model.image_blocks is 0, wanted 1 to 1024");
  EXPECT_EQ(message([](auto& c) { c.input_gate = "relu"; }),
            "model.input_gate is 'relu', wanted exp or sigmoid");
  EXPECT_EQ(message([](auto& c) { c.normalize = false; }),
            "model.normalize is false, wanted true or else model.input_gate = sigmoid");
  EXPECT_EQ(message([](auto& c) {
              c.normalize = false;
              c.input_gate = "sigmoid";
            }),
            "accepted");
  const auto large = [&](const std::function<void(PolicyConfig&)>& edit) {
    return message([&](PolicyConfig& c) {
      c.backbone = "xlstm_large";
      edit(c);
    });
  };
  EXPECT_EQ(large([](auto&) {}), "accepted");
  EXPECT_EQ(
      large([](auto& c) { c.num_heads = 3; }),
      "model.num_heads is 3, which does not divide the width of queries and keys, embed_dim x "
      "qk_dim_factor (256)");
  EXPECT_EQ(large([](auto& c) {
              c.num_heads = 3;
              c.embed_dim = 256;
              c.qk_dim_factor = 0.75;
            }),
            "model.num_heads is 3, which does not divide embed_dim (256)");
  EXPECT_EQ(large([](auto& c) { c.qk_dim_factor = 0.0; }),
            "model.qk_dim_factor is 0, wanted at least 1 / embed_dim (512)");
  EXPECT_EQ(large([](auto& c) { c.qk_dim_factor = -1.0; }),
            "model.qk_dim_factor is -1, wanted 0 to 64");
  EXPECT_EQ(large([](auto& c) { c.swiglu_factor = 0.0; }),
            "model.swiglu_factor is 0, wanted more than 0");
  EXPECT_EQ(large([](auto& c) { c.gate_soft_cap = -15.0; }),
            "model.gate_soft_cap is -15, wanted 0 to 1000000");
  EXPECT_EQ(large([](auto& c) { c.input_gate = "tanh"; }),
            "model.input_gate is 'tanh', wanted exp or sigmoid");
  for (const std::string bad : {"4", "1,1", "x", "1,,2", "-1"})
    EXPECT_NE(message([&](auto& c) { c.slstm_at = bad; }).find("model.slstm_at"), std::string::npos)
        << bad;
}

}  // namespace
}  // namespace lram::model::config_test
