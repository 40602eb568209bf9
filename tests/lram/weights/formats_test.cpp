// Names and layouts: every format of every family there and back over random models, and what is
// refused.
#include "lram/weights/formats.h"

#include <gtest/gtest.h>

#include <cmath>

#include "lram/core/error.h"
#include "lram/core/file.h"
#include "lram/weights/convert.h"
#include "tests/support/random_weights.h"
#include "tests/support/temp_folder.h"

namespace lram::weights::formats_test {
namespace {
namespace fs = std::filesystem;
using test::RandomWeights;

/// Converts and gives the path.
fs::path converted(const fs::path& in, const fs::path& out, const std::string& from,
                   const std::string& to, std::vector<std::string> drop = {}) {
  fs::remove_all(out);
  ConvertOptions options;
  options.from = from;
  options.to = to;
  options.drop = std::move(drop);
  convert(in, out, options);
  return out;
}

std::string refusal(const fs::path& in, const std::string& from, const std::string& to,
                    ErrorKind kind = ErrorKind::kInput) {
  const fs::path out = in.string() + ".refused.safetensors";
  try {
    converted(in, out, from, to);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    EXPECT_FALSE(fs::exists(out));
    return error.what();
  }
  return "accepted";
}

class Formats : public testing::Test {
 protected:
  fs::path path(const std::string& name) const { return folder_.path() / (name + ".safetensors"); }

  /// `weights` in the format `first`: to each other format of the family and back gives the same
  /// file, byte for byte, and detection finds each.
  void expect_round_trips(const RandomWeights& weights, const std::string& first,
                          const std::vector<std::string>& others) {
    weights.save(path("first"));
    const std::string bytes = read_file(path("first"));
    for (const std::string& other : others) {
      converted(path("first"), path("other"), "", other);
      const TensorFiles files(path("other"));
      const WeightFormat* found = detect_format(weight_set(files));
      ASSERT_NE(found, nullptr) << other;
      EXPECT_EQ(found->name, other);
      converted(path("other"), path("back"), other, first);
      EXPECT_EQ(read_file(path("back")), bytes) << first << " -> " << other;
      // And the other way round.
      converted(path("back"), path("again"), first, other);
      EXPECT_EQ(read_file(path("again")), read_file(path("other"))) << other << " -> " << first;
    }
  }
  test::TempFolder folder_;
};

TEST_F(Formats, OfXlstmLargeRoundTrip) {
  for (std::uint64_t seed = 0; seed < 8; ++seed) {
    RandomWeights weights(seed, seed % 3 == 0 ? Dtype::kBF16 : Dtype::kF32);
    add_xlstm_large(weights, weights.between(1, 4), /*bias=*/seed % 2 == 0);
    SCOPED_TRACE(seed);
    expect_round_trips(weights, "xlstm_large", {"xlstm_large_fused", "xlstm_large_hf"});
  }
}

// The published fuser takes "blocks.1" for a prefix of "blocks.10".
TEST_F(Formats, OfXlstmLargeKnowMoreThanTenBlocks) {
  for (const std::int64_t blocks : {11, 12, 40}) {
    RandomWeights weights(static_cast<std::uint64_t>(blocks));
    add_xlstm_large(weights, blocks, /*bias=*/false);
    SCOPED_TRACE(blocks);
    expect_round_trips(weights, "xlstm_large", {"xlstm_large_fused", "xlstm_large_hf"});
    const TensorFiles files(converted(path("first"), path("fused"), "", "xlstm_large_fused"));
    // Of the 13 single tensors of a block, 4 and 2 and 2 become one, the gates' biases too.
    EXPECT_EQ(std::ssize(files.tensors()), 3 + blocks * 9);
  }
}

TEST_F(Formats, FusedRowsAreQueryKeyValueOutput) {
  RandomWeights weights(3);
  add_xlstm_large(weights, 1, /*bias=*/false);
  weights.save(path("a"));
  converted(path("a"), path("b"), "xlstm_large", "xlstm_large_fused");
  const TensorFiles files(path("b"));
  const auto expect = [&](const std::string& fused, const std::vector<std::string>& parts) {
    std::vector<std::byte> want;
    for (const std::string& part : parts) {
      const auto& data = weights.data("backbone.blocks.0." + part);
      want.insert(want.end(), data.begin(), data.end());
    }
    const TensorEntry& entry = *files.tensors().at("backbone.blocks.0." + fused);
    EXPECT_TRUE(std::equal(want.begin(), want.end(), entry.data.begin(), entry.data.end()))
        << fused;
  };
  expect("mlstm_layer.qkv_opreact.weight",
         {"mlstm_layer.q.weight", "mlstm_layer.k.weight", "mlstm_layer.v.weight",
          "mlstm_layer.ogate_preact.weight"});
  expect("mlstm_layer.ifgate_preact.bias",
         {"mlstm_layer.igate_preact.bias", "mlstm_layer.fgate_preact.bias"});
  expect("ffn.proj_up_gate_z.weight", {"ffn.proj_up_gate.weight", "ffn.proj_up.weight"});
}

TEST_F(Formats, OfXlstmLargeAcceptTheLongNames) {
  RandomWeights weights(5);
  add_xlstm_large(weights, 2, /*bias=*/true);
  weights.save(path("plain"));
  for (const std::string block :
       {"backbone.blocks.0.mlstm_layer.", "backbone.blocks.1.mlstm_layer."})
    for (const auto& [plain, longer] : {std::pair{"q", "query"}, {"k", "key"}, {"v", "value"}})
      for (const char* kind : {".weight", ".bias"})
        weights.rename(block + plain + kind, block + longer + kind);
  weights.save(path("long"));
  converted(path("long"), path("out"), "", "xlstm_large");
  EXPECT_EQ(read_file(path("out")), read_file(path("plain")));
  // Both at once are two tensors for one place.
  weights.add("backbone.blocks.0.mlstm_layer.q.weight",
              weights.shape("backbone.blocks.0.mlstm_layer.query.weight"));
  weights.save(path("both"));
  EXPECT_NE(refusal(path("both"), "xlstm_large", "xlstm_large_hf")
                .find("two tensors stand for 'backbone.blocks.0.mlstm_layer.q.weight'"),
            std::string::npos);
}

TEST_F(Formats, TransformersHaveNoPlaceForTheOutputNormsBias) {
  RandomWeights weights(6);
  add_xlstm_large(weights, 1, /*bias=*/true);
  weights.data("backbone.out_norm.bias")[3] = std::byte{0x40};
  weights.save(path("a"));
  const std::string text = refusal(path("a"), "xlstm_large", "xlstm_large_hf");
  EXPECT_NE(text.find("'backbone.out_norm.bias' is not zero"), std::string::npos) << text;
  converted(path("a"), path("b"), "xlstm_large", "xlstm_large_hf", {"backbone.out_norm.bias"});
  EXPECT_FALSE(TensorFiles(path("b")).tensors().contains("backbone.out_norm.bias"));
}

TEST_F(Formats, OfXlstmV1RoundTrip) {
  for (std::uint64_t seed = 0; seed < 8; ++seed) {
    RandomWeights weights(seed, seed % 3 == 0 ? Dtype::kF64 : Dtype::kF32);
    add_xlstm_v1(weights, seed == 7 ? 12 : weights.between(2, 4), /*language_model=*/seed % 2 == 0);
    SCOPED_TRACE(seed);
    expect_round_trips(weights, "xlstm_v1", {"xlstm_v1_cuda"});
  }
}

// Hand-sized: one head of two units, every number its own place.
TEST_F(Formats, OfXlstmV1TurnTheSlstm) {
  RandomWeights weights(1);
  const std::string x = "blocks.0.xlstm.";
  weights.add("blocks.0.xlstm_norm.weight", {4});
  for (const char* gate : {"fgate", "igate", "zgate", "ogate"})
    weights.add(x + gate + ".weight", {2, 2, 2});
  weights.add(x + "slstm_cell._recurrent_kernel_", {2, 8, 2});
  weights.add(x + "slstm_cell._bias_", {16});
  weights.add(x + "group_norm.weight", {4});
  weights.add("post_blocks_norm.weight", {4});
  const auto fill = [&](const std::string& name) {
    auto& data = weights.data(name);
    for (std::size_t i = 0; i < data.size() / 4; ++i) {
      const float value = static_cast<float>(i);
      std::memcpy(&data[4 * i], &value, 4);
    }
  };
  fill(x + "slstm_cell._recurrent_kernel_");
  fill(x + "slstm_cell._bias_");
  weights.save(path("vanilla"));
  converted(path("vanilla"), path("cuda"), "xlstm_v1", "xlstm_v1_cuda");
  const TensorFiles files(path("cuda"));
  const auto values = [&](const std::string& name) {
    const TensorEntry& entry = *files.tensors().at(name);
    std::vector<float> out(entry.data.size() / 4);
    std::memcpy(out.data(), entry.data.data(), entry.data.size());
    return out;
  };
  // Vanilla [head, gate, out, in] -> [head, in, gate, out].
  const std::vector<float> r = values(x + "slstm_cell._recurrent_kernel_");
  for (std::size_t head = 0; head < 2; ++head)
    for (std::size_t in = 0; in < 2; ++in)
      for (std::size_t gate = 0; gate < 4; ++gate)
        for (std::size_t to = 0; to < 2; ++to)
          EXPECT_EQ(r[((head * 2 + in) * 4 + gate) * 2 + to],
                    static_cast<float>(((head * 4 + gate) * 2 + to) * 2 + in));
  EXPECT_EQ(files.tensors().at(x + "slstm_cell._recurrent_kernel_")->shape,
            (std::vector<std::int64_t>{2, 2, 8}));
  // Vanilla [gate, head, unit] -> [head, gate, unit].
  EXPECT_EQ(values(x + "slstm_cell._bias_"),
            (std::vector<float>{0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15}));

  // The kernel's shape tells a wrong --from; the bias's layout is an option.
  EXPECT_NE(
      refusal(path("cuda"), "xlstm_v1", "xlstm_v1_cuda").find("this is the format xlstm_v1_cuda"),
      std::string::npos);
  EXPECT_NE(
      refusal(path("vanilla"), "xlstm_v1_cuda", "xlstm_v1").find("this is the format xlstm_v1)"),
      std::string::npos);
  ConvertOptions options;
  options.from = "xlstm_v1_cuda";
  options.to = "xlstm_v1";
  options.format.slstm_bias = "vanilla";
  convert(path("cuda"), path("mixed"), options);
  const TensorFiles mixed(path("mixed"));
  EXPECT_EQ(std::memcmp(mixed.tensors().at(x + "slstm_cell._bias_")->data.data(),
                        files.tensors().at(x + "slstm_cell._bias_")->data.data(), 64),
            0);
  options.format.slstm_bias = "fortran";
  EXPECT_THROW(convert(path("cuda"), path("mixed2"), options), Error);
}

TEST_F(Formats, OfGpt2RoundTrip) {
  for (std::uint64_t seed = 0; seed < 5; ++seed) {
    RandomWeights weights(seed);
    add_gpt2(weights, seed == 4 ? 12 : weights.between(1, 3));
    SCOPED_TRACE(seed);
    expect_round_trips(weights, "gpt2", {"gpt2_lm"});
  }
}

TEST_F(Formats, OfGpt2LeaveOutMasksAndATiedHead) {
  RandomWeights weights(2);
  add_gpt2(weights, 2);

  weights.add("wte.weight", {5, weights.shape("wpe.weight")[1]});
  weights.save(path("bare"));
  weights.add("h.0.attn.bias", {1, 1, 4, 4});
  weights.add("h.1.attn.masked_bias", {});
  weights.save(path("old"));
  converted(path("old"), path("new"), "gpt2", "gpt2");
  EXPECT_EQ(read_file(path("new")), read_file(path("bare")));

  converted(path("bare"), path("lm"), "gpt2", "gpt2_lm");
  RandomWeights head(2);
  const TensorFiles lm(path("lm"));
  std::vector<TensorEntry> entries;
  for (const auto& [name, entry] : lm.tensors()) entries.push_back(*entry);
  TensorEntry tied = *lm.tensors().at("transformer.wte.weight");
  tied.name = "lm_head.weight";
  entries.push_back(tied);
  write_safetensors(path("tied"), entries, lm.metadata());
  converted(path("tied"), path("untied"), "", "gpt2");
  EXPECT_EQ(read_file(path("untied")), read_file(path("bare")));
  const std::vector<std::byte> other(tied.data.size());
  entries.back().data = other;
  write_safetensors(path("own"), entries, lm.metadata());
  EXPECT_NE(refusal(path("own"), "gpt2_lm", "gpt2").find("'lm_head.weight' is not 'wte.weight'"),
            std::string::npos);
}

TEST_F(Formats, OfMambaRoundTrip) {
  for (std::uint64_t seed = 0; seed < 5; ++seed) {
    RandomWeights weights(seed);
    add_mamba(weights, seed == 4 ? 24 : weights.between(1, 3));
    SCOPED_TRACE(seed);
    expect_round_trips(weights, "mamba", {"mamba_lm", "mamba_ssm"});
  }
}

TEST_F(Formats, OfVilRoundTrip) {
  for (std::uint64_t seed = 0; seed < 6; ++seed) {
    RandomWeights weights(seed);
    const int version = seed % 2 == 0 ? 1 : 2;
    add_vil(weights, seed > 3 ? 12 : weights.between(1, 3), version);
    SCOPED_TRACE(seed);
    expect_round_trips(weights, "vil", {version == 1 ? "vil_v1_hub" : "vil_v2_hub"});
  }
}

TEST_F(Formats, OfVilRenameAsThePackageDoes) {
  const auto names = [&](int version, const std::string& to) {
    RandomWeights weights(1);
    add_vil(weights, 2, version);
    weights.save(path("vil"));
    converted(path("vil"), path("hub"), "vil", to);
    std::string all = "\n";
    const TensorFiles files(path("hub"));
    for (const auto& [name, entry] : files.tensors()) all += std::string(name) + "\n";
    return all;
  };
  const std::string v1 = names(1, "vil_v1_hub"), v2 = names(2, "vil_v2_hub");
  for (const char* name :
       {"xlstm.blocks.1.xlstm.conv1d.conv.weight", "xlstm.blocks.1.xlstm_norm.weight",
        "xlstm.post_blocks_norm.weight", "head.0.bias", "head.1.weight", "pos_embed.embed"})
    EXPECT_NE(v1.find("\n" + std::string(name) + "\n"), std::string::npos) << name << v1;
  for (const char* name : {"xlstm.blocks.3.xlstm.conv1d.weight", "xlstm.blocks.2.xlstm_norm.bias",
                           "xlstm.blocks.0.xlstm.mlstm_cell.outnorm.weight",
                           "xlstm.post_blocks_norm.bias", "head.0.weight", "head.1.bias"})
    EXPECT_NE(v2.find("\n" + std::string(name) + "\n"), std::string::npos) << name << v2;
}

TEST_F(Formats, OfStatesScaleAndBack) {
  RandomWeights weights(9);
  // Four and sixteen units: a factor that is exact, so that the way back is too.
  weights.add("block_0.mlstm_c", {2, 3, 4, 5});
  weights.add("block_0.mlstm_n", {2, 3, 4, 1});
  weights.add("block_0.mlstm_m", {2, 3, 1, 1});
  weights.add("block_0.conv", {2, 4, 6});
  weights.add("block_1.slstm", {4, 2, 6});
  for (std::size_t row = 0; row < 2; ++row)  // the oldest input, which nobody reads again
    for (std::size_t i = 0; i < 24; ++i) weights.data("block_0.conv")[row * 96 + i] = std::byte{0};
  weights.save(path("public"));
  converted(path("public"), path("ours"), "", "lram_state");
  const TensorFiles ours(path("ours"));
  const auto value = [](const TensorEntry& entry, std::size_t i) {
    float out = 0.0f;
    std::memcpy(&out, &entry.data[4 * i], 4);
    return out;
  };
  const TensorFiles theirs(path("public"));
  EXPECT_EQ(value(*ours.tensors().at("blocks.0.c"), 7),
            2.0f * value(*theirs.tensors().at("block_0.mlstm_c"), 7));
  EXPECT_EQ(value(*ours.tensors().at("blocks.0.n"), 7),
            2.0f * value(*theirs.tensors().at("block_0.mlstm_n"), 7));
  EXPECT_EQ(ours.tensors().at("blocks.0.m")->shape, (std::vector<std::int64_t>{2, 3}));
  EXPECT_EQ(ours.tensors().at("blocks.0.window")->shape, (std::vector<std::int64_t>{2, 3, 6}));
  EXPECT_EQ(value(*ours.tensors().at("blocks.0.window"), 18),
            value(*theirs.tensors().at("block_0.conv"), 30));
  EXPECT_EQ(ours.tensors().at("blocks.1.cell")->shape, (std::vector<std::int64_t>{2, 4, 6}));
  EXPECT_EQ(value(*ours.tensors().at("blocks.1.cell"), 6),
            value(*theirs.tensors().at("block_1.slstm"), 12));
  converted(path("ours"), path("back"), "lram_state", "xlstm_v1_state");
  EXPECT_EQ(read_file(path("back")), read_file(path("public")));
}

TEST_F(Formats, RefuseWhatIsNoModel) {
  struct Bad {
    std::string name;
    std::function<void(RandomWeights&)> change;
    std::string want;
  };
  const std::string block = "blocks.0.xlstm.";
  const std::vector<Bad> all = {
      {"missing", [&](auto& w) { w.erase(block + "learnable_skip"); },
       "no tensor 'blocks.0.xlstm.learnable_skip'"},
      {"extra", [&](auto& w) { w.add(block + "learnable_skp", {3}); },
       "tensor 'blocks.0.xlstm.learnable_skp' of shape [3] is no part of an xLSTM v1 model, did "
       "you "
       "mean 'blocks.0.xlstm.learnable_skip'?"},
      {"shape", [&](auto& w) { w.add("post_blocks_norm.weight", {77}); },
       "tensor 'post_blocks_norm.weight' has shape [77], wanted ["},
      {"rank",
       [&](auto& w) {
         w.add("blocks.0.xlstm_norm.weight", {2, 2});
       },
       "tensor 'blocks.0.xlstm_norm.weight' has shape [2, 2], wanted 1 sizes"},
      {"gap",
       [&](auto& w) { w.rename("blocks.1.xlstm_norm.weight", "blocks.9.xlstm_norm.weight"); },
       "but none of block"},
      {"far_block", [&](auto& w) { w.add("blocks.999999999999.xlstm_norm.weight", {1}); },
       "tensors of block blocks.999999999999, but none of block blocks.2"},
      {"leading_zero", [&](auto& w) { w.add("blocks.01.xlstm_norm.weight", {1}); },
       "is no part of an xLSTM v1 model"},
      {"no_blocks",
       [&](auto& w) {
         w = RandomWeights(1);
         w.add("post_blocks_norm.weight", {4});
       },
       "no tensor 'blocks.0...', wanted at least one block"},
      {"outside_prefix", [&](auto& w) { w.add("xlstm_block_stack.x", {1}); },
       "lies outside 'xlstm_block_stack....'"},
  };
  for (const Bad& bad : all) {
    RandomWeights weights(4);
    add_xlstm_v1(weights, 2, /*language_model=*/false);
    bad.change(weights);
    weights.save(path("bad"));
    const std::string text = refusal(path("bad"), "xlstm_v1", "xlstm_v1_cuda");
    EXPECT_NE(text.find(bad.want), std::string::npos) << bad.name << ": " << text;
    EXPECT_EQ(text.find(path("bad").string()), 0u) << text;
  }
}

TEST_F(Formats, RefuseIntegersAndMixedTypes) {
  RandomWeights weights(2);
  add_xlstm_large(weights, 1, /*bias=*/false);
  weights.save(path("a"));
  const TensorFiles files(path("a"));
  const auto with = [&](const std::string& name, Dtype dtype) {
    std::vector<TensorEntry> entries;
    std::vector<std::byte> data;
    for (const auto& [key, entry] : files.tensors()) {
      entries.push_back(*entry);
      if (key != name) continue;
      entries.back().dtype = dtype;
      data.resize(*byte_size(dtype, entry->shape));
      entries.back().data = data;
    }
    write_safetensors(path("b"), entries);
    return path("b");
  };
  const std::string name = "backbone.blocks.0.mlstm_layer.k.weight";
  EXPECT_NE(refusal(with(name, Dtype::kI32), "xlstm_large", "xlstm_large_hf")
                .find("'" + name + "' is of type I32, wanted a floating type"),
            std::string::npos);
  EXPECT_NE(refusal(with(name, Dtype::kBF16), "xlstm_large", "xlstm_large_fused")
                .find("'" + name + "' is of type BF16, those it is fused with of F32"),
            std::string::npos);
}

TEST_F(Formats, OfOtherArchitecturesAreRefused) {
  RandomWeights weights(2);
  add_mamba(weights, 1);
  weights.save(path("a"));
  EXPECT_NE(refusal(path("a"), "", "gpt2", ErrorKind::kUsage).find("another architecture"),
            std::string::npos);
  EXPECT_NE(refusal(path("a"), "", "gpt3", ErrorKind::kUsage).find("did you mean 'gpt2'?"),
            std::string::npos);
  EXPECT_NE(refusal(path("a"), "gpt2", "gpt2_lm").find("no tensor 'h.0...'"), std::string::npos);
  RandomWeights unknown(2);
  unknown.add("x", {1});
  unknown.save(path("b"));
  EXPECT_NE(refusal(path("b"), "", "gpt2").find("no known format"), std::string::npos);
}

}  // namespace
}  // namespace lram::weights::formats_test
