#include "lram/model/load_weights.h"

#include <gtest/gtest.h>
#include <torch/types.h>

#include <cmath>

#include "lram/core/error.h"
#include "lram/model/gpt2.h"
#include "lram/model/tensor_io.h"
#include "lram/model/xlstm_backbone.h"
#include "lram/model/xlstm_large_lm.h"
#include "tests/support/golden_reference.h"
#include "tests/support/temp_folder.h"
#include "tests/support/tiny_policy.h"

namespace lram::model::load_weights_test {
namespace {
namespace fs = std::filesystem;
using test::GoldenCase;
using test::GoldenTensors;
using torch::Tensor;

std::vector<XlstmBlockConfig> two_blocks(std::int64_t embed_dim = 8) {
  return {{.embed_dim = embed_dim, .num_heads = 2, .index = 0, .num_blocks = 2},
          {.kind = XlstmBlockKind::kSlstm,
           .embed_dim = embed_dim,
           .num_heads = 2,
           .index = 1,
           .num_blocks = 2}};
}

NamedTensors copies(const torch::nn::Module& module) {
  NamedTensors out;
  for (const auto& [name, tensor] : named_tensors(module))
    out.emplace_back(name, tensor.detach().clone());
  return out;
}

void expect_equal(const NamedTensors& got, const NamedTensors& want) {
  ASSERT_EQ(got.size(), want.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    EXPECT_EQ(got[i].first, want[i].first);
    EXPECT_TRUE(torch::equal(got[i].second, want[i].second)) << got[i].first;
  }
}

void randomise(torch::nn::Module& module) {
  const torch::NoGradGuard no_grad;
  for (auto& parameter : module.parameters()) parameter.normal_();
}

/// Converts a file; gives the new path.
fs::path converted(const fs::path& in, const fs::path& out, const std::string& to) {
  weights::ConvertOptions options;
  options.to = to;
  weights::convert(in, out, options);
  return out;
}

class LoadWeights : public testing::Test {
 protected:
  fs::path path(const std::string& name) const { return folder_.path() / name; }
  std::string refusal(torch::nn::Module& module, const fs::path& file,
                      const std::string& format = "") {
    const NamedTensors before = copies(module);
    std::string text = "accepted";
    try {
      load_weights(module, file, format);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kInput);
      text = error.what();
      expect_equal(copies(module), before);
    }
    return text;
  }
  test::TempFolder folder_;
};

TEST_F(LoadWeights, TakeAStackInEitherLayout) {
  torch::manual_seed(1);
  XlstmBackbone source(two_blocks()), target(two_blocks());
  randomise(source);
  save_tensors(path("v1.safetensors"), named_tensors(source));
  converted(path("v1.safetensors"), path("cuda.safetensors"), "xlstm_v1_cuda");
  for (const auto& [file, format] : {std::pair{"v1.safetensors", "xlstm_v1"},
                                     {"cuda.safetensors", "xlstm_v1_cuda"},
                                     {"cuda.safetensors", ""}}) {
    randomise(target);
    load_weights(target, path(file), format);
    expect_equal(copies(target), copies(source));
  }
}

TEST_F(LoadWeights, LeaveOutTheLanguageModelAround) {
  torch::manual_seed(2);
  XlstmBackbone source(two_blocks()), target(two_blocks());
  NamedTensors whole;
  for (const auto& [name, tensor] : named_tensors(source))
    whole.emplace_back("xlstm_block_stack." + name, tensor);
  whole.emplace_back("token_embedding.weight", torch::randn({5, 8}));
  whole.emplace_back("lm_head.weight", torch::randn({5, 8}));
  save_tensors(path("lm.safetensors"), whole);
  load_weights(target, path("lm.safetensors"));
  expect_equal(copies(target), copies(source));
}

TEST_F(LoadWeights, ConvertFloatingTypes) {
  torch::manual_seed(3);
  XlstmBackbone source(two_blocks()), target(two_blocks());
  source.to(torch::kBFloat16);
  save_tensors(path("half.safetensors"), named_tensors(source));
  load_weights(target, path("half.safetensors"));
  for (const auto& [name, tensor] : named_tensors(target))
    EXPECT_EQ(tensor.scalar_type(), torch::kFloat32) << name;
  source.to(torch::kFloat32);
  expect_equal(copies(target), copies(source));
}

TEST_F(LoadWeights, TakeGpt2WithItsWordEmbedding) {
  const Gpt2Config config = {.embed_dim = 8, .num_heads = 2, .num_blocks = 2, .num_positions = 9};
  Gpt2Backbone source(config), target(config);
  randomise(source);
  NamedTensors whole = named_tensors(source);
  whole.emplace_back("wte.weight", torch::randn({5, 8}));
  save_tensors(path("gpt2.safetensors"), whole);
  load_weights(target, converted(path("gpt2.safetensors"), path("lm"), "gpt2_lm"));
  expect_equal(copies(target), copies(source));
}

TEST_F(LoadWeights, RefuseWhatDoesNotFit) {
  XlstmBackbone source(two_blocks());
  save_tensors(path("a.safetensors"), named_tensors(source));
  XlstmBackbone wider(two_blocks(16));
  EXPECT_NE(refusal(wider, path("a.safetensors")).find("has shape ["), std::string::npos);
  auto three = two_blocks();
  three.push_back(three[0]);
  XlstmBackbone longer(three);
  EXPECT_NE(refusal(longer, path("a.safetensors")).find("no tensor 'blocks.2."), std::string::npos);
  XlstmBackbone shorter({two_blocks()[0]});
  EXPECT_NE(
      refusal(shorter, path("a.safetensors"))
          .find("tensor 'blocks.1.ffn.proj_down.weight' (xlstm_v1) of shape [8, 64] belongs to "
                "no part of the model"),
      std::string::npos);
  EXPECT_NE(
      refusal(source, path("a.safetensors"), "xlstm_v1_cuda").find("this is the format xlstm_v1)"),
      std::string::npos);
  EXPECT_NE(refusal(source, path("a.safetensors"), "mamba").find("no tensor 'layers.0"),
            std::string::npos);
  EXPECT_THROW(load_weights(source, path("a.safetensors"), "xlstm"), Error);

  NamedTensors broken = copies(source);
  broken.back().second.view(-1)[0] = NAN;
  save_tensors(path("nan.safetensors"), broken);
  EXPECT_NE(refusal(source, path("nan.safetensors"))
                .find("tensor '" + broken.back().first + "' holds a value that is not finite"),
            std::string::npos);
}

TEST_F(LoadWeights, PolicyGivesAndTakesItsBackbone) {
  const test::TempFolder folder;
  for (const std::string backbone : {"xlstm", "gpt2", "xlstm_large"}) {
    const auto config = test::tiny_config(backbone);
    const std::string task = "grid/dark_room_10x10_dense";
    const auto a = test::tiny_policy(config, {task}, 1), b = test::tiny_policy(config, {task}, 2);
    randomise(*a);
    const fs::path at = folder.path() / backbone;
    test::write_checkpoint(*a, at / "a");
    test::write_checkpoint(*b, at / "b");
    // Out of a, under public names.
    const std::string format = backbone == "xlstm"  ? "xlstm_v1_cuda"
                               : backbone == "gpt2" ? "gpt2_lm"
                                                    : "xlstm_large_fused";
    converted(at / "a", at / "public.safetensors", format);
    // Into b: a's backbone, b's embeddings and head.
    weights::ConvertOptions options;
    options.from = format;
    options.to = "lram";
    options.into = at / "b";
    weights::convert(at / "public.safetensors", at / "c", options);
    const auto c = load_policy(at / "c");
    expect_equal(copies(c->backbone()), copies(a->backbone()));
    const auto of_b = copies(*b), of_c = copies(*c);
    for (std::size_t i = 0; i < of_b.size(); ++i)
      if (!of_b[i].first.starts_with("encoder.")) {
        EXPECT_TRUE(torch::equal(of_b[i].second, of_c[i].second)) << of_b[i].first;
      }
    EXPECT_EQ(c->tasks().entries().size(), 1u);
    // And straight from the checkpoint.
    load_weights(b->backbone(), at / "a");
    expect_equal(copies(b->backbone()), copies(a->backbone()));
  }
}

// The package's state, converted, is the one that our stack arrives at.
TEST(GoldenState, ConvertsToOurs) {
  LRAM_SKIP_WITHOUT_GOLDEN("models");
  for (const GoldenCase& one : test::golden_cases(
           "models", "stack", [](const GoldenCase& c) { return c.row.at("kind") == "v1_stack"; })) {
    const test::TempFolder folder;
    const SafetensorsFile file(one.file());
    std::vector<TensorEntry> parameters, state;
    for (const TensorEntry& entry : file.tensors()) {
      TensorEntry renamed = entry;
      if (entry.name.starts_with("param.")) {
        renamed.name = entry.name.substr(6);
        parameters.push_back(renamed);
      } else if (entry.name.starts_with("state.")) {
        renamed.name = entry.name.substr(6);
        state.push_back(renamed);
      }
    }
    write_safetensors(folder.path() / "stack.safetensors", parameters);
    write_safetensors(folder.path() / "state.safetensors", state);

    // Configs from the shapes alone.
    const weights::TensorFiles files(folder.path() / "stack.safetensors");
    const auto given = weights::read_weights(files, "xlstm_v1").tensors;
    const std::string map = one.row.at("block_map");
    std::vector<XlstmBlockConfig> blocks;
    const auto count = static_cast<std::int64_t>((map.size() + 1) / 2);
    for (std::int64_t i = 0; i < count; ++i) {
      const std::string block = fmt::format("blocks.{}.", i), layer = block + "xlstm.";
      XlstmBlockConfig config;
      config.embed_dim = given.at(block + "xlstm_norm.weight").shape[0];
      config.index = i;
      config.num_blocks = count;
      config.cell.eps = one.row.at("cell_eps");
      const auto conv = given.find(layer + "conv1d.conv.weight");
      config.conv_kernel = conv == given.end() ? 0 : conv->second.shape[2];
      if (map.at(static_cast<std::size_t>(2 * i)) == '0') {
        config.num_heads = given.at(layer + "mlstm_cell.igate.weight").shape[0];
        config.qkv_blocksize = given.at(layer + "q_proj.weight").shape[2];
        config.bias = given.contains(layer + "proj_up.bias");
      } else {
        config.kind = XlstmBlockKind::kSlstm;
        config.num_heads = given.at(layer + "fgate.weight").shape[0];
        if (!given.contains(block + "ffn.proj_down.weight")) config.ffn_factor = 0.0;
        config.bias = given.contains(block + "ffn.proj_up.bias");
      }
      blocks.push_back(config);
    }
    XlstmBackbone backbone(blocks);
    const torch::ScalarType dtype = one.row.at("dtype") == "f64" ? torch::kDouble : torch::kFloat;
    backbone.to(dtype);
    load_weights(backbone, folder.path() / "stack.safetensors", "xlstm_v1");

    const torch::NoGradGuard no_grad;
    const auto out = backbone.forward(to_tensor(file.at("in.x")).to(dtype), {});
    const weights::TensorFiles states(folder.path() / "state.safetensors");
    const auto ours = weights::read_weights(states, "xlstm_v1_state").tensors;
    std::size_t next = 0;
    for (const XlstmBlockConfig& block : blocks)
      for (const char* part : block.kind == XlstmBlockKind::kMlstm
                                  ? std::vector<const char*>{"c", "n", "m", "window"}
                                  : std::vector<const char*>{"cell", "window"}) {
        if (std::string(part) == "window" && block.conv_kernel == 0) continue;
        const std::string name = fmt::format("blocks.{}.{}", block.index, part);
        const weights::WeightTensor& tensor = ours.at(name);
        const auto bytes = tensor.bytes();
        const Tensor want = to_tensor({name, tensor.dtype, tensor.shape, bytes});
        const Tensor got = out.state.tensors.at(next++);
        ASSERT_EQ(got.sizes(), want.sizes()) << one.file() << " " << name;
        const double error =
            (got - want).norm().item<double>() / std::max(1e-6, want.norm().item<double>());
        EXPECT_LE(error, one.row.at("tolerance").at("forward_rel_l2").get<double>())
            << one.file() << " " << name;
      }
    EXPECT_EQ(next, out.state.tensors.size());
  }
}

// The published files with fused matrices and with transformers' names give the stored logits.
TEST(GoldenLarge, LogitsOfTheFileAreOurs) {
  LRAM_SKIP_WITHOUT_GOLDEN("models");
  for (const GoldenCase& one : test::golden_cases("models", "large", [](const GoldenCase& c) {
         return c.row.at("kind") == "xlstm_transformers" || c.row.at("kind") == "xlstm_large";
       })) {
    const test::GoldenReference golden(one);
    const nlohmann::json& c = golden.config();
    const test::TempFolder folder;
    const fs::path path = folder.path() / "model.safetensors";
    save_tensors(path, golden.tensors().with_prefix("param."));
    XlstmLargeConfig config;
    config.embed_dim = c.contains("hidden_size") ? c.at("hidden_size") : c.at("embedding_dim");
    config.num_blocks =
        c.contains("num_hidden_layers") ? c.at("num_hidden_layers") : c.at("num_blocks");
    config.num_heads = c.at("num_heads");
    config.qk_dim_factor = c.at("qk_dim_factor");
    config.ffn_factor = c.at("ffn_proj_factor");
    config.ffn_round_up_to = c.at("ffn_round_up_to_multiple_of");
    config.bias = c.at("use_bias");
    config.cell.eps = c.at("eps");
    XlstmLargeLm model(config, c.at("vocab_size"));
    model.to(golden.dtype());
    load_weights(model, path);
    const torch::NoGradGuard no_grad;
    golden.expect(model.forward(golden.tensors()["in.tokens"]).logits, "out.logits", "loaded");
    // The backbone alone takes the same file.
    XlstmLargeBackbone backbone(config);
    backbone.to(golden.dtype());
    load_weights(backbone, path);
    expect_equal(copies(backbone), copies(model.backbone()));
  }
}

}  // namespace
}  // namespace lram::model::load_weights_test
