#include "lram/model/cost.h"

#include <gtest/gtest.h>
#include <torch/nn/module.h>

#include <string>
#include <vector>

#include "lram/model/backbones.h"
#include "lram/model/policy.h"

namespace lram::model::cost_test {
namespace {

PolicyConfig tiny(const std::string& backbone) {
  PolicyConfig config;
  config.backbone = backbone;
  config.embed_dim = 32;
  config.num_blocks = 2;
  config.num_heads = 2;
  config.context_length = 5;
  config.max_episode_steps = 7;
  config.state_dim = 3;
  config.action_slots = 2;
  config.discrete_ids = 1;
  config.num_bins = 4;
  clear_unused(config);
  return config;
}

// Encoders 3 x 32, 1 x 32, 1 x 32 and the head 32 x 10, with their biases; the norm.
constexpr std::int64_t kOutsideMaps = 96 + 32 + 32 + 320,
                       kOutside = kOutsideMaps + 3 * 32 + 10 + 64;

TEST(PolicyCost, CountsWhatIsBuilt) {
  for (const std::string& name : backbone_names()) {
    PolicyConfig config = tiny(name);
    if (name == "xlstm") config.slstm_at = std::string("1");
    const Policy policy(config);
    std::int64_t parameters = 0;
    for (const auto& parameter : policy.parameters()) parameters += parameter.numel();
    const PolicyCost cost = policy_cost(config);
    EXPECT_EQ(cost.parameters, parameters) << name;
    EXPECT_EQ(cost.backbone_parameters, parameters - kOutside) << name;
    EXPECT_EQ(cost.state_bytes, policy.initial_state(1).bytes()) << name;
    EXPECT_EQ(cost.flops_per_step, 3 * cost.flops_per_token + 2 * kOutsideMaps) << name;
    // What is built after it has memory again.
    EXPECT_TRUE(torch::zeros({1}).device().is_cpu());
  }
}

TEST(PolicyCost, FlopsByHand) {
  // xLSTM, one mLSTM block: I = 64, two heads of 32; up 32 x 128, down 64 x 32, q, k, v 64 x 4
  // each, gates 2 x 2 x 192, convolution 64 x 4; memory 2 x (5 x 1024 + 5 x 32).
  PolicyConfig config = tiny("xlstm");
  config.num_blocks = 1;
  EXPECT_EQ(policy_cost(config).flops_per_token,
            2 * (4096 + 2048 + 3 * 256 + 768 + 256) + 2 * (5120 + 160));

  // One post-up block: gate inputs and recurrent matrices 32 x 16 for each gate, convolution 32 x
  // 4, feed-forward 64 wide (1.3 x 32 rounded up): 32 x 128 and 64 x 32.
  const auto post_up = [&](const std::string& name, std::int64_t matrices, std::int64_t taps,
                           std::int64_t memory) {
    PolicyConfig one = tiny(name);
    one.num_blocks = 1;
    EXPECT_EQ(policy_cost(one).flops_per_token,
              2 * (matrices * 512 + 32 * taps + 4096 + 2048) + memory * 32)
        << name;
  };
  post_up("slstm", 8, 4, 7);
  post_up("lstm", 8, 4, 4);
  post_up("gru", 6, 4, 6);
  post_up("elman", 2, 0, 0);

  // xLSTM-7B's block: q, k 32 x 16, v, output gate and out 32 x 32, gates 32 x 4, feed-forward 128
  // wide (2.667 x 32 rounded up); memory of two heads 8 x 16.
  config = tiny("xlstm_large");
  config.num_blocks = 1;
  EXPECT_EQ(policy_cost(config).flops_per_token,
            2 * (2 * 512 + 3 * 1024 + 128 + 3 * 4096) + 2 * (5 * 128 + 40));

  // Mamba, two blocks: I = 64, N = 16, rank 2; in 32 x 128, convolution 64 x 4, x 64 x 34,
  // dt 2 x 64, out 64 x 32; memory 64 x (6 x 16 + 5).
  EXPECT_EQ(policy_cost(tiny("mamba")).flops_per_token,
            2 * (2 * (4096 + 256 + 2176 + 128 + 2048) + 64 * 101));

  // GPT-2, two blocks: 12 D^2 of weights, a window of 15 tokens.
  EXPECT_EQ(policy_cost(tiny("gpt2")).flops_per_token, 2 * (2 * 12 * 1024 + 4 * 32 * 15));
}

TEST(PolicyCost, BytesByHand) {
  // LSTM: every weight once, and the state, [2, 32] and [3, 32] in two blocks, both ways.
  const PolicyCost lstm = policy_cost(tiny("lstm"));
  EXPECT_EQ(lstm.state_bytes, 4 * 2 * 5 * 32);
  EXPECT_EQ(lstm.bytes_per_step, 4 * lstm.parameters + 2 * lstm.state_bytes);

  // GPT-2: two counters and keys and values of 15 tokens in two blocks; three of them written. Of
  // the table's 9 x 7 rows three are read.
  const PolicyCost gpt2 = policy_cost(tiny("gpt2"));
  constexpr std::int64_t kToken = 4 * 2 * 2 * 32;
  EXPECT_EQ(gpt2.state_bytes, 16 + 15 * kToken);
  EXPECT_EQ(gpt2.bytes_per_step,
            4 * (gpt2.parameters - (63 - 3) * 32) + gpt2.state_bytes + 16 + 3 * kToken);
}

TEST(PolicyCost, ImagesReplaceVectors) {
  PolicyConfig config = tiny("lstm");
  const PolicyCost vectors = policy_cost(config);
  config.image_size = 8;
  const PolicyCost images = policy_cost(config);
  // Sizes 8, 4, 2, 1: per stage one convolution before and four behind the pooling; then 32 x 32.
  const std::int64_t convolutions = 9 * (3 * 16 * 64 + 4 * 16 * 16 * 16 + 16 * 32 * 16 +
                                         4 * 32 * 32 * 4 + 32 * 32 * 4 + 4 * 32 * 32);
  EXPECT_EQ(images.flops_per_step - vectors.flops_per_step, 2 * (convolutions + 32 * 32 - 96));
}

TEST(PolicyCost, PatchesByHand) {
  // Images of 8 x 8 in four patches of 4 x 4 pixels, tokens of width 4, two blocks.
  PolicyConfig config = tiny("lstm");
  const PolicyCost vectors = policy_cost(config);
  config.image_size = 8;
  config.image_patch = 4;
  config.image_dim = 4;
  config.image_blocks = 2;
  constexpr std::int64_t kPatch = 4 * 48;
  const auto flops = [&] { return policy_cost(config).flops_per_step - vectors.flops_per_step; };

  // ViL, I = 8, four heads of 2: up 4 x 16, down 8 x 4, q, k, v 8 x 4 each, gates 2 x 4 x 24,
  // convolution 8 x 9; memory 4 x (5 x 4 + 5 x 2). The head takes first and last patch to 32.
  config.image_encoder = "vil";
  constexpr std::int64_t kVil = 64 + 32 + 96 + 192 + 72;
  EXPECT_EQ(flops(), 2 * (4 * (kPatch + 2 * kVil) + 8 * 32) + 4 * 2 * 120 - 2 * 96);

  // ViT: 12 D^2 of weights in a block, four patches seen from each.
  config.image_encoder = "vit";
  config.image_heads = 2;
  EXPECT_EQ(flops(), 2 * (4 * (kPatch + 2 * 12 * 16) + 4 * 32) + 4 * 2 * 4 * 4 * 4 - 2 * 96);
}

}  // namespace
}  // namespace lram::model::cost_test
