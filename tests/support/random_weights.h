#pragma once
#include <cstring>
#include <filesystem>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "lram/core/safetensors.h"

namespace lram::test {

/// A made-up model: tensors with random finite values under the names they are given.
class RandomWeights {
 public:
  explicit RandomWeights(std::uint64_t seed, Dtype dtype = Dtype::kF32)
      : random_(seed), dtype_(dtype) {}

  std::int64_t between(std::int64_t low, std::int64_t high) {
    return std::uniform_int_distribution<std::int64_t>(low, high)(random_);
  }
  bool coin() { return between(0, 1) == 1; }

  void add(const std::string& name, std::vector<std::int64_t> shape) {
    std::vector<std::byte> data(*byte_size(dtype_, shape));
    std::normal_distribution<float> normal;
    const std::size_t width = dtype_size(dtype_);
    for (std::size_t at = 0; at < data.size(); at += width) {
      const float value = normal(random_);
      const double wide = value;
      if (dtype_ == Dtype::kF64)
        std::memcpy(&data[at], &wide, 8);
      else if (dtype_ == Dtype::kF32)
        std::memcpy(&data[at], &value, 4);
      else  // BF16: the upper half
        std::memcpy(&data[at], reinterpret_cast<const std::byte*>(&value) + 2, 2);
    }
    shapes_[name] = std::move(shape);
    data_[name] = std::move(data);
  }
  void add_affine(const std::string& name, std::int64_t out, std::int64_t in, bool bias) {
    add(name + ".weight", {out, in});
    if (bias) add(name + ".bias", {out});
  }
  void erase(const std::string& name) { shapes_.erase(name), data_.erase(name); }
  void rename(const std::string& from, const std::string& to) {
    shapes_[to] = shapes_.at(from);
    data_[to] = data_.at(from);
    erase(from);
  }
  const std::vector<std::int64_t>& shape(const std::string& name) const { return shapes_.at(name); }
  std::vector<std::byte>& data(const std::string& name) { return data_.at(name); }

  std::vector<TensorEntry> entries() const {
    std::vector<TensorEntry> out;
    for (const auto& [name, shape] : shapes_) out.push_back({name, dtype_, shape, data_.at(name)});
    return out;
  }
  void save(const std::filesystem::path& path) const {
    write_safetensors(path, entries(), {{"format", "pt"}});
  }

 private:
  std::mt19937_64 random_;
  Dtype dtype_;
  std::map<std::string, std::vector<std::int64_t>> shapes_;
  std::map<std::string, std::vector<std::byte>> data_;
};

/// xlstm v1 in the vanilla layout; each block an mLSTM or, at random, an sLSTM.
inline void add_xlstm_v1(RandomWeights& w, std::int64_t blocks, bool language_model) {
  const std::int64_t heads = w.between(1, 4), units = w.between(1, 3), dim = heads * units;
  const std::int64_t inner = 4 * heads * w.between(1, 2), ffn = w.between(1, 9);
  const bool bias = w.coin();
  const std::string stack = language_model ? "xlstm_block_stack." : "";
  for (std::int64_t i = 0; i < blocks; ++i) {
    const std::string block = stack + "blocks." + std::to_string(i) + ".", x = block + "xlstm.";
    w.add(block + "xlstm_norm.weight", {dim});
    if (i % 2 == 0) {
      w.add_affine(x + "proj_up", 2 * inner, dim, bias);
      for (const char* name : {"q_proj", "k_proj", "v_proj"}) {
        w.add(x + name + ".weight", {inner / 4, 4, 4});
        if (bias) w.add(x + name + ".bias", {inner});
      }
      w.add(x + "conv1d.conv.weight", {inner, 1, 4});
      w.add(x + "conv1d.conv.bias", {inner});
      w.add_affine(x + "mlstm_cell.igate", heads, 3 * inner, true);
      w.add_affine(x + "mlstm_cell.fgate", heads, 3 * inner, true);
      w.add(x + "mlstm_cell.outnorm.weight", {inner});
      w.add(x + "learnable_skip", {inner});
      w.add_affine(x + "proj_down", dim, inner, bias);
    } else {
      if (w.coin()) {
        w.add(x + "conv1d.conv.weight", {dim, 1, 4});
        w.add(x + "conv1d.conv.bias", {dim});
      }
      for (const char* gate : {"fgate", "igate", "zgate", "ogate"})
        w.add(x + gate + ".weight", {heads, units, units});
      w.add(x + "slstm_cell._recurrent_kernel_", {heads, 4 * units, units});
      w.add(x + "slstm_cell._bias_", {4 * dim});
      w.add(x + "group_norm.weight", {dim});
      if (w.coin()) {
        w.add(block + "ffn_norm.weight", {dim});
        w.add_affine(block + "ffn.proj_up", 2 * ffn, dim, bias);
        w.add_affine(block + "ffn.proj_down", dim, ffn, bias);
      }
    }
  }
  w.add(stack + "post_blocks_norm.weight", {dim});
  if (language_model) {
    w.add("token_embedding.weight", {w.between(1, 9), dim});
    w.add("lm_head.weight", {w.between(1, 9), dim});
  }
}

/// The 7B-style model, single matrices. `bias`: use_bias, whose output norm has its bias at zero.
inline void add_xlstm_large(RandomWeights& w, std::int64_t blocks, bool bias) {
  const std::int64_t heads = w.between(1, 4), key = heads * w.between(1, 3),
                     value = heads * w.between(1, 3), dim = w.between(1, 12),
                     ffn = w.between(1, 20), vocabulary = w.between(1, 9);
  const auto norm = [&](const std::string& name, std::int64_t width) {
    w.add(name + ".weight", {width});
    if (bias) w.add(name + ".bias", {width});
  };
  for (std::int64_t i = 0; i < blocks; ++i) {
    const std::string block = "backbone.blocks." + std::to_string(i) + ".";
    const std::string layer = block + "mlstm_layer.";
    norm(block + "norm_mlstm", dim);
    w.add_affine(layer + "q", key, dim, bias);
    w.add_affine(layer + "k", key, dim, bias);
    w.add_affine(layer + "v", value, dim, bias);
    w.add_affine(layer + "ogate_preact", value, dim, bias);
    w.add_affine(layer + "igate_preact", heads, dim, true);
    w.add_affine(layer + "fgate_preact", heads, dim, true);
    norm(layer + "multihead_norm", value);
    w.add_affine(layer + "out_proj", dim, value, bias);
    norm(block + "norm_ffn", dim);
    w.add_affine(block + "ffn.proj_up_gate", ffn, dim, bias);
    w.add_affine(block + "ffn.proj_up", ffn, dim, bias);
    w.add_affine(block + "ffn.proj_down", dim, ffn, bias);
  }
  norm("backbone.out_norm", dim);
  if (bias)
    for (std::byte& b : w.data("backbone.out_norm.bias")) b = std::byte{0};
  w.add("embedding.weight", {vocabulary, dim});
  w.add("lm_head.weight", {vocabulary, dim});
}

inline void add_gpt2(RandomWeights& w, std::int64_t blocks) {
  const std::int64_t dim = w.between(1, 8), inner = w.between(1, 20);
  const auto pair = [&](const std::string& name, std::int64_t in, std::int64_t out) {
    w.add(name + ".weight", {in, out});
    w.add(name + ".bias", {out});
  };
  const auto norm = [&](const std::string& name) {
    w.add(name + ".weight", {dim});
    w.add(name + ".bias", {dim});
  };
  for (std::int64_t i = 0; i < blocks; ++i) {
    const std::string block = "h." + std::to_string(i) + ".";
    norm(block + "ln_1");
    pair(block + "attn.c_attn", dim, 3 * dim);
    pair(block + "attn.c_proj", dim, dim);
    norm(block + "ln_2");
    pair(block + "mlp.c_fc", dim, inner);
    pair(block + "mlp.c_proj", inner, dim);
  }
  norm("ln_f");
  w.add("wpe.weight", {w.between(1, 9), dim});
  if (w.coin()) w.add("wte.weight", {w.between(1, 9), dim});
}

inline void add_mamba(RandomWeights& w, std::int64_t blocks) {
  const std::int64_t dim = w.between(1, 8), inner = w.between(1, 16), state = w.between(1, 5),
                     rank = w.between(1, 3);
  const bool bias = w.coin();
  for (std::int64_t i = 0; i < blocks; ++i) {
    const std::string layer = "layers." + std::to_string(i) + ".", mixer = layer + "mixer.";
    w.add(layer + "norm.weight", {dim});
    w.add(mixer + "A_log", {inner, state});
    w.add(mixer + "D", {inner});
    w.add(mixer + "conv1d.weight", {inner, 1, 4});
    w.add(mixer + "conv1d.bias", {inner});
    w.add_affine(mixer + "in_proj", 2 * inner, dim, bias);
    w.add(mixer + "x_proj.weight", {rank + 2 * state, inner});
    w.add_affine(mixer + "dt_proj", inner, rank, true);
    w.add_affine(mixer + "out_proj", dim, inner, bias);
  }
  w.add("norm_f.weight", {dim});
  w.add("embeddings.weight", {w.between(1, 9), dim});
}

/// Vision-LSTM of version 1 (blocks in a row) or 2 (pairs).
inline void add_vil(RandomWeights& w, std::int64_t blocks, int version) {
  const std::int64_t dim = w.between(1, 8), inner = 4 * w.between(1, 4), outputs = w.between(1, 5),
                     pooled = version == 1 ? dim : 2 * dim;
  const bool v2 = version == 2;
  const auto add_block = [&](const std::string& block) {
    const std::string layer = block + "layer.";
    w.add(block + "norm.weight", {dim});
    if (v2) w.add(block + "norm.bias", {dim});
    w.add_affine(layer + "proj_up", 2 * inner, dim, v2);
    for (const char* name : {"q_proj", "k_proj", "v_proj"}) {
      w.add(layer + name + ".weight", {inner / 4, 4, 4});
      if (v2) w.add(layer + name + ".bias", {inner});
    }
    const std::string conv = layer + (v2 ? "conv" : "conv1d.conv");
    w.add(conv + ".weight",
          v2 ? std::vector<std::int64_t>{inner, 1, 3, 3} : std::vector<std::int64_t>{inner, 1, 4});
    w.add(conv + ".bias", {inner});
    w.add_affine(layer + "mlstm_cell.igate", 4, 3 * inner, true);
    w.add_affine(layer + "mlstm_cell.fgate", 4, 3 * inner, true);
    w.add(layer + "mlstm_cell.outnorm.weight", {inner});
    if (v2) w.add(layer + "mlstm_cell.outnorm.bias", {inner});
    w.add(layer + "learnable_skip", {inner});
    w.add_affine(layer + "proj_down", dim, inner, v2);
  };
  for (std::int64_t i = 0; i < blocks; ++i) {
    const std::string block = "blocks." + std::to_string(i) + ".";
    if (v2) {
      add_block(block + "rowwise_from_top_left.");
      add_block(block + "rowwise_from_bot_right.");
    } else {
      add_block(block);
    }
  }
  w.add("patch_embed.proj.weight", {dim, 3, 2, 2});
  w.add("patch_embed.proj.bias", {dim});
  w.add("pos_embed.embed", {1, 2, 3, dim});
  w.add("norm.weight", {dim});
  w.add("norm.bias", {dim});
  w.add("legacy_norm.weight", {pooled});
  if (v2) w.add("legacy_norm.bias", {pooled});
  w.add_affine("head", outputs, pooled, true);
}

}  // namespace lram::test
