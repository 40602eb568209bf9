// Vision-LSTM (kernels.md 7): the names of the package's modules, of version 1 (blocks in a row) or
// 2 (pairs of scans), and those of the published files, which its hubconf.py renames.
#include "lram/core/error.h"
#include "lram/weights/formats.h"

namespace lram::weights {
namespace {
constexpr const char* kPair0 = "rowwise_from_top_left.";
constexpr const char* kPair1 = "rowwise_from_bot_right.";

bool is_version_2(const WeightSet& set) {
  return set.contains("blocks.0.rowwise_from_top_left.norm.weight");
}

std::string replaced(std::string name, std::string_view from, std::string_view to) {
  if (const auto at = name.find(from); at != std::string::npos) name.replace(at, from.size(), to);
  return name;
}

/// "blocks.{2i}.rest" <-> "blocks.{i}.rowwise_from_top_left.rest", and 2i + 1 <-> bot_right.
std::string paired(const std::string& name) {
  constexpr std::string_view kBlocks = "blocks.";
  if (!name.starts_with(kBlocks)) return name;
  std::size_t end = kBlocks.size();
  std::int64_t scan = 0;
  while (end < name.size() && end < kBlocks.size() + 9 && name[end] >= '0' && name[end] <= '9')
    scan = scan * 10 + (name[end++] - '0');
  if (end == kBlocks.size() || end == name.size() || name[end] != '.') return name;
  return fmt::format("blocks.{}.{}{}", scan / 2, scan % 2 == 0 ? kPair0 : kPair1,
                     name.substr(end + 1));
}

std::string unpaired(const std::string& name) {
  for (const auto& [pair, odd] : {std::pair{kPair0, 0}, std::pair{kPair1, 1}})
    if (const auto at = name.find(pair); name.starts_with("blocks.") && at != std::string::npos) {
      const std::string number = name.substr(7, at - 8);
      if (number.empty() || number.size() > 9 ||
          number.find_first_not_of("0123456789") != std::string::npos)
        return name;
      return fmt::format("blocks.{}.{}", 2 * std::stoll(number) + odd,
                         name.substr(at + std::string_view(pair).size()));
    }
  return name;
}

/// The file's name of a tensor -> the module's.
std::string module_name(const std::string& stored, int version) {
  if (version == 1 && stored == "xlstm.post_blocks_norm.weight") return "legacy_norm.weight";
  if (version == 2 && stored.starts_with("xlstm.post_blocks_norm."))
    return replaced(stored, "xlstm.post_blocks_norm.", "norm.");
  if (stored.starts_with("head.0."))
    return replaced(stored, "head.0.", version == 1 ? "norm." : "legacy_norm.");
  if (stored.starts_with("head.1.")) return replaced(stored, "head.1.", "head.");
  if (!stored.starts_with("xlstm.blocks.")) return stored;
  std::string name = stored.substr(6);
  name = replaced(name, ".xlstm_norm.", ".norm.");
  name = replaced(name, ".xlstm.", ".layer.");
  if (version == 1) return name;
  return paired(replaced(name, ".conv1d.", ".conv."));
}

std::string stored_name(const std::string& module, int version) {
  if (version == 1 && module == "legacy_norm.weight") return "xlstm.post_blocks_norm.weight";
  if (version == 2 && module.starts_with("norm."))
    return replaced(module, "norm.", "xlstm.post_blocks_norm.");
  if (module.starts_with(version == 1 ? "norm." : "legacy_norm."))
    return replaced(module, version == 1 ? "norm." : "legacy_norm.", "head.0.");
  if (module.starts_with("head.")) return replaced(module, "head.", "head.1.");
  if (!module.starts_with("blocks.")) return module;
  std::string name = version == 1 ? module : unpaired(module);
  // The block's own norm is its second word; the layer's names begin with its third.
  const std::size_t word = name.find('.', 7);
  if (word == std::string::npos) return module;
  if (name.compare(word, 6, ".norm.") == 0) name.replace(word, 6, ".xlstm_norm.");
  if (name.compare(word, 7, ".layer.") == 0) {
    name.replace(word, 7, ".xlstm.");
    if (version == 2 && name.compare(word, 12, ".xlstm.conv.") == 0)
      name.replace(word, 12, ".xlstm.conv1d.");
  }
  return "xlstm." + name;
}

WeightSet read_hub(const WeightSet& set, int version, const std::string& where) {
  WeightSet out;
  for (const auto& [name, tensor] : set) add(out, module_name(name, version), tensor, where);
  check_vil(out, where);
  return out;
}

WeightSet write_hub(const WeightSet& set, int version, const std::string& where) {
  if (is_version_2(set) != (version == 2))
    throw_error(ErrorKind::kInput, "{}: a ViL of version {}, wanted version {}", where,
                is_version_2(set) ? 2 : 1, version);
  WeightSet out;
  for (const auto& [name, tensor] : set) add(out, stored_name(name, version), tensor, where);
  return out;
}

void want_block(std::vector<WantedTensor>& wanted, const WeightSet& set, const std::string& block,
                std::int64_t dim, const std::string& where) {
  const std::string layer = block + "layer.";
  const auto want = [&](const std::string& name, std::vector<std::int64_t> shape,
                        bool required = true) {
    wanted.push_back({name, std::move(shape), required});
  };
  const std::int64_t inner = size_of(set, layer + "learnable_skip", 0, 1, where);
  const std::int64_t heads = size_of(set, layer + "mlstm_cell.igate.weight", 0, 2, where);
  const std::int64_t part = size_of(set, layer + "q_proj.weight", 2, 3, where);
  if (heads == 0 || part == 0 || inner % heads != 0 || inner % part != 0)
    throw_error(ErrorKind::kInput, "{}: {} heads and blocks of {} do not divide the width {} of {}",
                where, heads, part, inner, layer + "learnable_skip");
  want(block + "norm.weight", {dim});
  want(block + "norm.bias", {dim}, false);
  want(layer + "proj_up.weight", {2 * inner, dim});
  want(layer + "proj_up.bias", {2 * inner}, false);
  for (const char* name : {"q", "k", "v"}) {
    want(fmt::format("{}{}_proj.weight", layer, name), {inner / part, part, part});
    want(fmt::format("{}{}_proj.bias", layer, name), {inner}, false);
  }
  bool has_convolution = false;
  for (const char* name : {"conv1d.conv", "conv.conv", "conv"}) {
    const std::string weight = fmt::format("{}{}.weight", layer, name);
    const auto at = set.find(weight);
    if (at == set.end()) continue;
    has_convolution = true;
    const auto& shape = at->second.shape;
    if (shape.size() < 3 || shape.size() > 4)
      throw_error(ErrorKind::kInput, "{}: tensor '{}' has {} sizes, wanted 3 or 4", where, weight,
                  shape.size());
    std::vector<std::int64_t> taps = shape;
    taps[0] = inner;
    taps[1] = 1;
    want(weight, taps);
    want(fmt::format("{}{}.bias", layer, name), {inner});
  }
  if (!has_convolution) throw_error(ErrorKind::kInput, "{}: no tensor '{}conv...'", where, layer);
  for (const char* gate : {"igate", "fgate"}) {
    want(fmt::format("{}mlstm_cell.{}.weight", layer, gate), {heads, 3 * inner});
    want(fmt::format("{}mlstm_cell.{}.bias", layer, gate), {heads});
  }
  want(layer + "mlstm_cell.outnorm.weight", {inner});
  want(layer + "mlstm_cell.outnorm.bias", {inner}, false);
  want(layer + "learnable_skip", {inner});
  want(layer + "proj_down.weight", {dim, inner});
  want(layer + "proj_down.bias", {dim}, false);
}
}  // namespace

void check_vil(const WeightSet& set, const std::string& where) {
  const bool pairs = is_version_2(set);
  const std::int64_t blocks = count_blocks(set, "blocks.", where);
  const std::string patch = "patch_embed.proj.weight";
  const std::int64_t dim = size_of(set, patch, 0, 4, where);
  std::vector<WantedTensor> wanted = {{patch, set.at(patch).shape},
                                      {"patch_embed.proj.bias", {dim}},
                                      {"pos_embed.embed",
                                       {1, size_of(set, "pos_embed.embed", 1, 4, where),
                                        size_of(set, "pos_embed.embed", 2, 4, where), dim}}};
  std::int64_t pooled = dim;
  if (set.contains("head.weight")) {
    pooled = size_of(set, "head.weight", 1, 2, where);
    const std::int64_t outputs = size_of(set, "head.weight", 0, 2, where);
    wanted.push_back({"head.weight", {outputs, pooled}});
    wanted.push_back({"head.bias", {outputs}});
  }
  // The norm of all tokens stores scale - 1, the other one behind the pooling is a plain norm.
  wanted.push_back({pairs ? "norm.weight" : "legacy_norm.weight", {dim}, pairs});
  wanted.push_back({pairs ? "norm.bias" : "legacy_norm.bias", {dim}, false});
  wanted.push_back({pairs ? "legacy_norm.weight" : "norm.weight", {pooled}, !pairs});
  wanted.push_back({pairs ? "legacy_norm.bias" : "norm.bias", {pooled}, !pairs});
  for (std::int64_t i = 0; i < blocks; ++i) {
    if (!pairs) {
      want_block(wanted, set, fmt::format("blocks.{}.", i), dim, where);
      continue;
    }
    for (const char* scan : {kPair0, kPair1})
      want_block(wanted, set, fmt::format("blocks.{}.{}", i, scan), dim, where);
  }
  check_tensors(set, wanted, "a Vision-LSTM", where);
}

WeightSet read_vil(const WeightSet& set, const FormatOptions&, const std::string& where) {
  check_vil(set, where);
  return set;
}
WeightSet read_vil_v1_hub(const WeightSet& set, const FormatOptions&, const std::string& where) {
  return read_hub(set, 1, where);
}
WeightSet write_vil_v1_hub(const WeightSet& set, const std::string& where) {
  return write_hub(set, 1, where);
}
WeightSet read_vil_v2_hub(const WeightSet& set, const FormatOptions&, const std::string& where) {
  return read_hub(set, 2, where);
}
WeightSet write_vil_v2_hub(const WeightSet& set, const std::string& where) {
  return write_hub(set, 2, where);
}

}  // namespace lram::weights
