// The 7B-style model: the xlstm package's xlstm_large with single or fused matrices, and the copy
// in transformers (kernels.md 6). The family's own names are those of xlstm_large, single.
#include "lram/core/error.h"
#include "lram/weights/formats.h"

namespace lram::weights {
namespace {
constexpr const char* kEmbedding = "embedding.weight";
constexpr const char* kHfEmbedding = "backbone.embeddings.weight";
constexpr const char* kBlocks = "backbone.blocks.";
constexpr const char* kOutNorm = "backbone.out_norm";

/// Matrices that the fused mode keeps in one, in the order of its rows.
struct Fusion {
  const char* fused;
  std::vector<const char*> single;
};
const std::vector<Fusion>& fusions() {
  static const std::vector<Fusion> list = {
      {"mlstm_layer.qkv_opreact",
       {"mlstm_layer.q", "mlstm_layer.k", "mlstm_layer.v", "mlstm_layer.ogate_preact"}},
      {"mlstm_layer.ifgate_preact", {"mlstm_layer.igate_preact", "mlstm_layer.fgate_preact"}},
      {"ffn.proj_up_gate_z", {"ffn.proj_up_gate", "ffn.proj_up"}}};
  return list;
}

/// Attribute names of transformers' built-in layer, which stored copies have.
std::string plain_name(std::string name) {
  if (name == kHfEmbedding) return kEmbedding;
  for (const auto& [alias, plain] : {std::pair{".mlstm_layer.query.", ".mlstm_layer.q."},
                                     std::pair{".mlstm_layer.key.", ".mlstm_layer.k."},
                                     std::pair{".mlstm_layer.value.", ".mlstm_layer.v."}})
    if (const auto at = name.find(alias); at != std::string::npos)
      name.replace(at, std::char_traits<char>::length(alias), plain);
  return name;
}

/// Rows of each part of a fused matrix of `rows` rows.
std::vector<std::int64_t> part_rows(const WeightSet& set, const std::string& block,
                                    const std::string& fused, std::int64_t rows, std::size_t parts,
                                    const std::string& where) {
  if (parts == 2 && rows % 2 == 0) return {rows / 2, rows / 2};
  if (parts == 4) {
    const std::int64_t value =
        size_of(set, block + "mlstm_layer.multihead_norm.weight", 0, 1, where);
    if (value <= rows / 2 && (rows - 2 * value) % 2 == 0) {
      const std::int64_t key = (rows - 2 * value) / 2;
      return {key, key, value, value};
    }
  }
  throw_error(ErrorKind::kInput, "{}: tensor '{}' has {} rows, which do not make {} parts", where,
              block + fused, rows, parts);
}

/// Splits the fused matrices, where there are any.
WeightSet unfuse(const WeightSet& set, const std::string& where) {
  WeightSet out;
  for (const auto& [name, tensor] : set) {
    const Fusion* found = nullptr;
    std::string block, rest;
    for (const Fusion& fusion : fusions()) {
      const std::string middle = fmt::format(".{}.", fusion.fused);
      if (const auto at = name.find(middle); at != std::string::npos) {
        found = &fusion;
        block = name.substr(0, at + 1);
        rest = name.substr(at + middle.size());
      }
    }
    if (found == nullptr || tensor.shape.empty()) {
      add(out, name, tensor, where);
      continue;
    }
    std::int64_t begin = 0;
    const auto rows =
        part_rows(set, block, found->fused, tensor.shape[0], found->single.size(), where);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      add(out, fmt::format("{}{}.{}", block, found->single[i], rest),
          tensor.rows(begin, begin + rows[i]), where);
      begin += rows[i];
    }
  }
  return out;
}
}  // namespace

void check_xlstm_large(const WeightSet& set, const std::string& where) {
  const std::int64_t blocks = count_blocks(set, kBlocks, where);
  const std::int64_t dim = size_of(set, "backbone.out_norm.weight", 0, 1, where);
  std::vector<WantedTensor> wanted = {{"backbone.out_norm.weight", {dim}},
                                      {"backbone.out_norm.bias", {dim}, false}};
  for (const char* name : {kEmbedding, "lm_head.weight"})
    if (set.contains(name)) wanted.push_back({name, {size_of(set, name, 0, 2, where), dim}});
  for (std::int64_t i = 0; i < blocks; ++i) {
    const std::string block = fmt::format("{}{}.", kBlocks, i);
    const auto affine = [&](const char* name, std::int64_t out_rows, std::int64_t in,
                            bool bias_required = false) {
      wanted.push_back({fmt::format("{}{}.weight", block, name), {out_rows, in}});
      wanted.push_back({fmt::format("{}{}.bias", block, name), {out_rows}, bias_required});
    };
    const auto norm = [&](const char* name, std::int64_t width) {
      wanted.push_back({fmt::format("{}{}.weight", block, name), {width}});
      wanted.push_back({fmt::format("{}{}.bias", block, name), {width}, false});
    };
    const auto size = [&](const char* name, std::size_t axis, std::size_t rank) {
      return size_of(set, block + name, axis, rank, where);
    };
    const std::int64_t heads = size("mlstm_layer.igate_preact.weight", 0, 2);
    const std::int64_t key = size("mlstm_layer.q.weight", 0, 2);
    const std::int64_t value = size("mlstm_layer.multihead_norm.weight", 0, 1);
    const std::int64_t ffn = size("ffn.proj_down.weight", 1, 2);
    if (heads == 0 || key % heads != 0 || value % heads != 0)
      throw_error(ErrorKind::kInput, "{}: {} heads of {} do not divide keys of {} and values of {}",
                  where, heads, block + "mlstm_layer.igate_preact.weight", key, value);
    norm("norm_mlstm", dim);
    affine("mlstm_layer.q", key, dim);
    affine("mlstm_layer.k", key, dim);
    affine("mlstm_layer.v", value, dim);
    affine("mlstm_layer.ogate_preact", value, dim);
    affine("mlstm_layer.igate_preact", heads, dim, true);
    affine("mlstm_layer.fgate_preact", heads, dim, true);
    norm("mlstm_layer.multihead_norm", value);
    affine("mlstm_layer.out_proj", dim, value);
    norm("norm_ffn", dim);
    affine("ffn.proj_up_gate", ffn, dim);
    affine("ffn.proj_up", ffn, dim);
    affine("ffn.proj_down", dim, ffn);
  }
  check_tensors(set, wanted, "a 7B-style xLSTM", where);
}

WeightSet read_xlstm_large(const WeightSet& set, const FormatOptions&, const std::string& where) {
  WeightSet named;
  for (const auto& [name, tensor] : set) add(named, plain_name(name), tensor, where);
  WeightSet out = unfuse(named, where);
  // transformers builds its output norm without the bias that use_bias gives all the others.
  const auto norm = out.find(std::string(kOutNorm) + ".weight");
  if (set.contains(kHfEmbedding) && norm != out.end() &&
      out.contains(std::string(kBlocks) + "0.norm_mlstm.bias"))
    out.emplace(std::string(kOutNorm) + ".bias",
                WeightTensor::zeros(norm->second.dtype, norm->second.shape));
  check_xlstm_large(out, where);
  return out;
}

WeightSet write_xlstm_large_fused(const WeightSet& set, const std::string& where) {
  WeightSet out = set;
  for (std::int64_t i = 0; i < count_blocks(set, kBlocks, where); ++i)
    for (const Fusion& fusion : fusions())
      for (const char* kind : {"weight", "bias"}) {
        std::vector<WeightTensor> parts;
        for (const char* single : fusion.single) {
          const std::string name = fmt::format("{}{}.{}.{}", kBlocks, i, single, kind);
          const auto at = set.find(name);
          if (at == set.end()) continue;
          if (!parts.empty() && at->second.dtype != parts[0].dtype)
            throw_error(ErrorKind::kInput,
                        "{}: tensor '{}' is of type {}, those it is fused with of {}", where, name,
                        dtype_name(at->second.dtype), dtype_name(parts[0].dtype));
          parts.push_back(at->second);
          out.erase(name);
        }
        if (parts.empty()) continue;
        const std::string name = fmt::format("{}{}.{}.{}", kBlocks, i, fusion.fused, kind);
        if (parts.size() != fusion.single.size())
          throw_error(ErrorKind::kInput, "{}: {} of the {} tensors of '{}' are there", where,
                      parts.size(), fusion.single.size(), name);
        add(out, name, WeightTensor::stack_rows(parts), where);
      }
  return out;
}

WeightSet write_xlstm_large_hf(const WeightSet& set, const std::string& where) {
  WeightSet out;
  const std::string bias = std::string(kOutNorm) + ".bias";
  for (const auto& [name, tensor] : set) {
    if (name == bias) {
      if (!tensor.all_zero())
        throw_error(ErrorKind::kInput,
                    "{}: tensor '{}' is not zero, and transformers has no place for it (--drop {} "
                    "leaves it out)",
                    where, name, name);
      continue;
    }
    add(out, name == kEmbedding ? kHfEmbedding : name, tensor, where);
  }
  return out;
}

}  // namespace lram::weights
