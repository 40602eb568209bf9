// GPT-2 and Mamba under the names of transformers: the bare model, the language model around it,
// and the file of state-spaces/mamba. The families' own names are those of the bare models.
#include "lram/core/error.h"
#include "lram/weights/formats.h"

namespace lram::weights {
namespace {
constexpr const char* kHead = "lm_head.weight";

/// Names inside `prefix` without it; `kHead` may stand outside.
WeightSet without_prefix(const WeightSet& set, const std::string& prefix,
                         const std::string& where) {
  WeightSet out;
  for (const auto& [name, tensor] : set) {
    if (name.starts_with(prefix))
      add(out, name.substr(prefix.size()), tensor, where);
    else if (name == kHead)
      add(out, name, tensor, where);
    else
      throw_error(ErrorKind::kInput, "{}: tensor '{}' lies outside '{}...'", where, name, prefix);
  }
  return out;
}

WeightSet with_prefix(const WeightSet& set, const std::string& prefix, const std::string& where) {
  WeightSet out;
  for (const auto& [name, tensor] : set)
    add(out, name == kHead ? name : prefix + name, tensor, where);
  return out;
}

/// A bare model has no output layer; one that is the embedding again is none of its own.
WeightSet without_tied_head(const WeightSet& set, const char* embedding, const std::string& where) {
  WeightSet out = set;
  const auto head = set.find(kHead), table = set.find(embedding);
  if (head == set.end()) return out;
  if (table == set.end() || !(head->second == table->second))
    throw_error(ErrorKind::kInput,
                "{}: tensor '{}' is not '{}' again, and the bare model has no place for it (--drop "
                "{} leaves it out)",
                where, kHead, embedding, kHead);
  out.erase(kHead);
  return out;
}

/// Old GPT-2 files carry the causal mask of each block.
bool is_mask(const std::string& name) {
  return name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias");
}

WeightSet without_masks(const WeightSet& set) {
  WeightSet out;
  for (const auto& [name, tensor] : set)
    if (!is_mask(name)) out.emplace(name, tensor);
  return out;
}
}  // namespace

void check_gpt2(const WeightSet& set, const std::string& where) {
  const std::int64_t blocks = count_blocks(set, "h.", where);
  const std::int64_t dim = size_of(set, "wpe.weight", 1, 2, where);
  std::vector<WantedTensor> wanted = {
      {"wpe.weight", {size_of(set, "wpe.weight", 0, 2, where), dim}},
      {"ln_f.weight", {dim}},
      {"ln_f.bias", {dim}}};
  for (const char* name : {"wte.weight", kHead})
    if (set.contains(name)) wanted.push_back({name, {size_of(set, name, 0, 2, where), dim}});
  for (std::int64_t i = 0; i < blocks; ++i) {
    const std::string block = fmt::format("h.{}.", i);
    const auto pair = [&](const char* name, std::vector<std::int64_t> weight) {
      const std::int64_t width = weight.back();
      wanted.push_back({fmt::format("{}{}.weight", block, name), std::move(weight)});
      wanted.push_back({fmt::format("{}{}.bias", block, name), {width}});
    };
    const std::int64_t inner = size_of(set, block + "mlp.c_fc.weight", 1, 2, where);
    pair("ln_1", {dim});
    pair("attn.c_attn", {dim, 3 * dim});
    pair("attn.c_proj", {dim, dim});
    pair("ln_2", {dim});
    pair("mlp.c_fc", {dim, inner});
    pair("mlp.c_proj", {inner, dim});
  }
  check_tensors(set, wanted, "a GPT-2", where);
}

void check_mamba(const WeightSet& set, const std::string& where) {
  const std::int64_t blocks = count_blocks(set, "layers.", where);
  const std::int64_t dim = size_of(set, "norm_f.weight", 0, 1, where);
  std::vector<WantedTensor> wanted = {{"norm_f.weight", {dim}}};
  for (const char* name : {"embeddings.weight", kHead})
    if (set.contains(name)) wanted.push_back({name, {size_of(set, name, 0, 2, where), dim}});
  for (std::int64_t i = 0; i < blocks; ++i) {
    const std::string block = fmt::format("layers.{}.", i), mixer = block + "mixer.";
    const auto want = [&](const char* name, std::vector<std::int64_t> shape, bool required = true) {
      wanted.push_back({mixer + name, std::move(shape), required});
    };
    const std::int64_t inner = size_of(set, mixer + "A_log", 0, 2, where);
    const std::int64_t state = size_of(set, mixer + "A_log", 1, 2, where);
    const std::int64_t rank = size_of(set, mixer + "dt_proj.weight", 1, 2, where);
    const std::int64_t kernel = size_of(set, mixer + "conv1d.weight", 2, 3, where);
    wanted.push_back({block + "norm.weight", {dim}});
    want("A_log", {inner, state});
    want("D", {inner});
    want("conv1d.weight", {inner, 1, kernel});
    want("conv1d.bias", {inner}, false);
    want("in_proj.weight", {2 * inner, dim});
    want("in_proj.bias", {2 * inner}, false);
    want("x_proj.weight", {rank + 2 * state, inner});
    want("dt_proj.weight", {inner, rank});
    want("dt_proj.bias", {inner});
    want("out_proj.weight", {dim, inner});
    want("out_proj.bias", {dim}, false);
  }
  check_tensors(set, wanted, "a Mamba", where);
}

WeightSet read_gpt2(const WeightSet& set, const FormatOptions&, const std::string& where) {
  WeightSet out = without_masks(set);
  check_gpt2(out, where);
  return out;
}
WeightSet write_gpt2(const WeightSet& set, const std::string& where) {
  return without_tied_head(set, "wte.weight", where);
}
WeightSet read_gpt2_lm(const WeightSet& set, const FormatOptions& options,
                       const std::string& where) {
  return read_gpt2(without_prefix(set, "transformer.", where), options, where);
}
WeightSet write_gpt2_lm(const WeightSet& set, const std::string& where) {
  return with_prefix(set, "transformer.", where);
}

WeightSet read_mamba(const WeightSet& set, const FormatOptions&, const std::string& where) {
  check_mamba(set, where);
  return set;
}
WeightSet write_mamba(const WeightSet& set, const std::string& where) {
  return without_tied_head(set, "embeddings.weight", where);
}
WeightSet read_mamba_lm(const WeightSet& set, const FormatOptions& options,
                        const std::string& where) {
  return read_mamba(without_prefix(set, "backbone.", where), options, where);
}
WeightSet write_mamba_lm(const WeightSet& set, const std::string& where) {
  return with_prefix(set, "backbone.", where);
}
WeightSet read_mamba_ssm(const WeightSet& set, const FormatOptions& options,
                         const std::string& where) {
  WeightSet out = without_prefix(set, "backbone.", where);
  if (auto table = out.extract("embedding.weight")) {
    table.key() = "embeddings.weight";
    out.insert(std::move(table));
  }
  return read_mamba(out, options, where);
}
WeightSet write_mamba_ssm(const WeightSet& set, const std::string& where) {
  WeightSet out = set;
  if (auto table = out.extract("embeddings.weight")) {
    table.key() = "embedding.weight";
    out.insert(std::move(table));
  }
  return with_prefix(out, "backbone.", where);
}

}  // namespace lram::weights
