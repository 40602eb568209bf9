// The xlstm package, version 1 (kernels.md 6): block stacks, alone or inside its language model.
// Norm weights are residual (scale 1 + w) and the modules `fgate` and `igate` feed each other's
// slot; our modules keep both habits, so names and values pass unchanged. What differs is the
// sLSTM's layout, which follows the backend that trained it.
#include <cmath>

#include "lram/core/error.h"
#include "lram/core/text.h"
#include "lram/weights/formats.h"

namespace lram::weights {
namespace {
constexpr const char* kStackPrefix = "xlstm_block_stack.";
constexpr const char* kRecurrent = ".slstm_cell._recurrent_kernel_";
constexpr const char* kBias = ".slstm_cell._bias_";

bool is_language_model_part(const std::string& name) {
  return name == "token_embedding.weight" || name == "lm_head.weight";
}

/// Heads and units per head of the sLSTM that `name` belongs to.
std::pair<std::int64_t, std::int64_t> head_sizes(const WeightSet& set, const std::string& name,
                                                 const char* suffix, const std::string& where) {
  const std::string gate =
      name.substr(0, name.size() - std::char_traits<char>::length(suffix)) + ".fgate.weight";
  return {size_of(set, gate, 0, 3, where), size_of(set, gate, 1, 3, where)};
}

/// R between vanilla [H, gate, out, in] and cuda [H, in, gate, out], each with two axes in one.
WeightTensor turned_recurrent(const WeightTensor& r, std::int64_t heads, std::int64_t units,
                              bool to_cuda) {
  if (to_cuda)
    return r.reshaped({heads, 4, units, units})
        .permuted({0, 3, 1, 2})
        .reshaped({heads, units, 4 * units});
  return r.reshaped({heads, units, 4, units})
      .permuted({0, 2, 3, 1})
      .reshaped({heads, 4 * units, units});
}

/// b between vanilla [gate, head, unit] and cuda [head, gate, unit].
WeightTensor turned_bias(const WeightTensor& b, std::int64_t heads, std::int64_t units,
                         bool to_cuda) {
  const auto whole = b.shape;
  return (to_cuda ? b.reshaped({4, heads, units}) : b.reshaped({heads, 4, units}))
      .permuted({1, 0, 2})
      .reshaped(whole);
}

bool bias_is_cuda(const FormatOptions& options, bool format_is_cuda) {
  if (options.slstm_bias.empty()) return format_is_cuda;
  if (options.slstm_bias != "vanilla" && options.slstm_bias != "cuda")
    throw_error(ErrorKind::kUsage, "layout of the sLSTM's bias is '{}', wanted vanilla or cuda",
                options.slstm_bias);
  return options.slstm_bias == "cuda";
}

void check_shape(const std::string& name, const WeightTensor& tensor,
                 const std::vector<std::int64_t>& wanted, const std::string& hint,
                 const std::string& where) {
  if (tensor.shape != wanted)
    throw_error(ErrorKind::kInput, "{}: tensor '{}' has shape [{}], wanted [{}]{}", where, name,
                joined(tensor.shape), joined(wanted), hint);
}

WeightSet read_stack(const WeightSet& set, const FormatOptions& options, bool cuda,
                     const std::string& where) {
  WeightSet stack;  // bare names
  const bool whole_model = set.lower_bound(kStackPrefix) != set.end() &&
                           set.lower_bound(kStackPrefix)->first.starts_with(kStackPrefix);
  for (const auto& [name, tensor] : set) {
    if (whole_model && name.starts_with(kStackPrefix))
      add(stack, name.substr(std::char_traits<char>::length(kStackPrefix)), tensor, where);
    else if (!whole_model || is_language_model_part(name))
      add(stack, name, tensor, where);
    else
      throw_error(ErrorKind::kInput, "{}: tensor '{}' lies outside '{}...'", where, name,
                  kStackPrefix);
  }
  WeightSet out;
  for (const auto& [name, tensor] : stack) {
    WeightTensor turned = tensor;
    if (name.ends_with(kRecurrent)) {
      const auto [heads, units] = head_sizes(stack, name, kRecurrent, where);
      const bool other_backend = tensor.shape == (cuda ? std::vector{heads, 4 * units, units}
                                                       : std::vector{heads, units, 4 * units});
      check_shape(
          name, tensor,
          cuda ? std::vector{heads, units, 4 * units} : std::vector{heads, 4 * units, units},
          other_backend ? fmt::format(" (this is the format xlstm_v1{})", cuda ? "" : "_cuda") : "",
          where);
      if (cuda) turned = turned_recurrent(tensor, heads, units, /*to_cuda=*/false);
    } else if (name.ends_with(kBias)) {
      const auto [heads, units] = head_sizes(stack, name, kBias, where);
      check_shape(name, tensor, {4 * heads * units}, "", where);
      if (bias_is_cuda(options, cuda))
        turned = turned_bias(tensor, heads, units, /*to_cuda=*/false);
    }
    out.emplace(name, std::move(turned));
  }
  check_xlstm_v1(out, where);
  return out;
}

WeightSet write_stack(const WeightSet& set, bool cuda, const std::string& where) {
  WeightSet out;
  const bool whole_model = set.contains("token_embedding.weight");
  for (const auto& [name, tensor] : set) {
    WeightTensor turned = tensor;
    if (cuda && name.ends_with(kRecurrent)) {
      const auto [heads, units] = head_sizes(set, name, kRecurrent, where);
      turned = turned_recurrent(tensor, heads, units, /*to_cuda=*/true);
    } else if (cuda && name.ends_with(kBias)) {
      const auto [heads, units] = head_sizes(set, name, kBias, where);
      turned = turned_bias(tensor, heads, units, /*to_cuda=*/true);
    }
    const bool inside = whole_model && !is_language_model_part(name);
    add(out, (inside ? kStackPrefix : "") + name, std::move(turned), where);
  }
  return out;
}

/// The tensors of block `block`, with the sizes that its own tensors show.
void want_block(std::vector<WantedTensor>& wanted, const WeightSet& set, const std::string& block,
                std::int64_t dim, const std::string& where) {
  const auto want = [&](const std::string& name, std::vector<std::int64_t> shape,
                        bool required = true) {
    wanted.push_back({block + name, std::move(shape), required});
  };
  const auto size = [&](const std::string& name, std::size_t axis, std::size_t rank) {
    return size_of(set, block + name, axis, rank, where);
  };
  const auto want_conv = [&](std::int64_t width) {
    want("xlstm.conv1d.conv.weight", {width, 1, size("xlstm.conv1d.conv.weight", 2, 3)});
    want("xlstm.conv1d.conv.bias", {width});
  };
  want("xlstm_norm.weight", {dim});
  if (set.contains(block + "xlstm.proj_up.weight")) {
    const std::int64_t inner = size("xlstm.learnable_skip", 0, 1);
    const std::int64_t heads = size("xlstm.mlstm_cell.igate.weight", 0, 2);
    const std::int64_t part = size("xlstm.q_proj.weight", 2, 3);
    if (heads == 0 || part == 0 || inner % heads != 0 || inner % part != 0)
      throw_error(ErrorKind::kInput,
                  "{}: {} heads and blocks of {} do not divide the width {} of {}", where, heads,
                  part, inner, block + "xlstm.learnable_skip");
    want("xlstm.proj_up.weight", {2 * inner, dim});
    want("xlstm.proj_up.bias", {2 * inner}, false);
    for (const char* name : {"q", "k", "v"}) {
      want(fmt::format("xlstm.{}_proj.weight", name), {inner / part, part, part});
      want(fmt::format("xlstm.{}_proj.bias", name), {inner}, false);
    }
    want_conv(inner);
    for (const char* gate : {"igate", "fgate"}) {
      want(fmt::format("xlstm.mlstm_cell.{}.weight", gate), {heads, 3 * inner});
      want(fmt::format("xlstm.mlstm_cell.{}.bias", gate), {heads});
    }
    want("xlstm.mlstm_cell.outnorm.weight", {inner});
    want("xlstm.learnable_skip", {inner});
    want("xlstm.proj_down.weight", {dim, inner});
    want("xlstm.proj_down.bias", {dim}, false);
  } else {
    const std::int64_t heads = size("xlstm.fgate.weight", 0, 3);
    if (heads == 0 || dim % heads != 0)
      throw_error(ErrorKind::kInput, "{}: {} heads of {} do not divide the width {}", where, heads,
                  block + "xlstm.fgate.weight", dim);
    const std::int64_t units = dim / heads;
    if (set.contains(block + "xlstm.conv1d.conv.weight")) want_conv(dim);
    for (const char* gate : {"fgate", "igate", "zgate", "ogate"})
      want(fmt::format("xlstm.{}.weight", gate), {heads, units, units});
    want("xlstm.slstm_cell._recurrent_kernel_", {heads, 4 * units, units});
    want("xlstm.slstm_cell._bias_", {4 * dim});
    want("xlstm.group_norm.weight", {dim});
  }
  if (set.contains(block + "ffn.proj_down.weight")) {
    const std::int64_t width = size("ffn.proj_down.weight", 1, 2);
    want("ffn_norm.weight", {dim});
    want("ffn.proj_up.weight", {2 * width, dim});
    want("ffn.proj_up.bias", {2 * width}, false);
    want("ffn.proj_down.weight", {dim, width});
    want("ffn.proj_down.bias", {dim}, false);
  }
}
}  // namespace

void check_xlstm_v1(const WeightSet& set, const std::string& where) {
  const std::int64_t blocks = count_blocks(set, "blocks.", where);
  const std::int64_t dim = size_of(set, "blocks.0.xlstm_norm.weight", 0, 1, where);
  std::vector<WantedTensor> wanted = {{"post_blocks_norm.weight", {dim}, false}};
  for (const char* name : {"token_embedding.weight", "lm_head.weight"})
    if (set.contains(name)) wanted.push_back({name, {size_of(set, name, 0, 2, where), dim}});
  for (std::int64_t i = 0; i < blocks; ++i)
    want_block(wanted, set, fmt::format("blocks.{}.", i), dim, where);
  check_tensors(set, wanted, "an xLSTM v1 model", where);
}

WeightSet read_xlstm_v1(const WeightSet& set, const FormatOptions& options,
                        const std::string& where) {
  return read_stack(set, options, /*cuda=*/false, where);
}
WeightSet write_xlstm_v1(const WeightSet& set, const std::string& where) {
  return write_stack(set, /*cuda=*/false, where);
}
WeightSet read_xlstm_v1_cuda(const WeightSet& set, const FormatOptions& options,
                             const std::string& where) {
  return read_stack(set, options, /*cuda=*/true, where);
}
WeightSet write_xlstm_v1_cuda(const WeightSet& set, const std::string& where) {
  return write_stack(set, /*cuda=*/true, where);
}

// States of a stack. Public: block_{i}.mlstm_c [B, H, K, V], mlstm_n [B, H, K, 1], mlstm_m
// [B, H, 1, 1], slstm [4, B, D], conv [B, kernel, width]. Ours: blocks.{i}.c, .n [B, H, K], .m
// [B, H], .cell [B, 4, D], .window [B, kernel - 1, width]. The package scales k, we scale q: its c
// and n carry K^-1/2. Its oldest convolution input is never used again.
namespace {
/// F32 or F64, of `rank` sizes, the last `ones` of them 1.
void check_state(const std::string& name, const WeightTensor& tensor, std::size_t rank,
                 std::size_t ones, const std::string& where) {
  const auto& shape = tensor.shape;
  bool fits = (tensor.dtype == Dtype::kF32 || tensor.dtype == Dtype::kF64) && shape.size() == rank;
  for (std::size_t i = 0; fits && i < rank; ++i)
    fits = i < rank - ones ? shape[i] <= kMaxSize : shape[i] == 1;
  if (!fits)
    throw_error(ErrorKind::kInput,
                "{}: tensor '{}' is {} of shape [{}], wanted F32 or F64 with {} sizes{}", where,
                name, dtype_name(tensor.dtype), joined(shape), rank,
                ones == 0 ? "" : fmt::format(", the last {} of them 1", ones));
}

double root(std::int64_t units) { return std::sqrt(static_cast<double>(units)); }

/// "block_3.mlstm_c" -> {"3", "mlstm_c"}; "" where the name has another form.
std::pair<std::string, std::string> split_name(const std::string& name, std::string_view prefix) {
  const auto dot = name.find('.', prefix.size());
  if (!name.starts_with(prefix) || dot == std::string::npos) return {};
  return {name.substr(prefix.size(), dot - prefix.size()), name.substr(dot + 1)};
}
}  // namespace

WeightSet read_xlstm_v1_state(const WeightSet& set, const FormatOptions&,
                              const std::string& where) {
  WeightSet out;
  for (const auto& [name, tensor] : set) {
    const auto [block, part] = split_name(name, "block_");
    const std::string prefix = "blocks." + block + ".";
    const auto& s = tensor.shape;
    if (part == "mlstm_c") {
      check_state(name, tensor, 4, 0, where);
      add(out, prefix + "c", tensor.scaled(root(s[2])), where);
    } else if (part == "mlstm_n") {
      check_state(name, tensor, 4, 1, where);
      add(out, prefix + "n", tensor.reshaped({s[0], s[1], s[2]}).scaled(root(s[2])), where);
    } else if (part == "mlstm_m") {
      check_state(name, tensor, 4, 2, where);
      add(out, prefix + "m", tensor.reshaped({s[0], s[1]}), where);
    } else if (part == "slstm") {
      check_state(name, tensor, 3, 0, where);
      add(out, prefix + "cell", tensor.permuted({1, 0, 2}), where);
    } else if (part == "conv") {
      check_state(name, tensor, 3, 0, where);
      if (s[1] < 1)
        throw_error(ErrorKind::kInput, "{}: tensor '{}' has no rows, wanted the kernel's", where,
                    name);
      add(out, prefix + "window", tensor.without_first_rows(), where);
    } else {
      throw_error(ErrorKind::kInput,
                  "{}: tensor '{}', wanted block_N. with mlstm_c, mlstm_n, mlstm_m, slstm or conv",
                  where, name);
    }
  }
  return out;
}

WeightSet read_lram_state(const WeightSet& set, const FormatOptions&, const std::string& where) {
  write_xlstm_v1_state(set, where);  // checks names and shapes
  return set;
}

WeightSet write_xlstm_v1_state(const WeightSet& set, const std::string& where) {
  WeightSet out;
  for (const auto& [name, tensor] : set) {
    const auto [block, part] = split_name(name, "blocks.");
    const std::string prefix = "block_" + block + ".";
    const auto& s = tensor.shape;
    if (part == "c") {
      check_state(name, tensor, 4, 0, where);
      add(out, prefix + "mlstm_c", tensor.scaled(1.0 / root(s[2])), where);
    } else if (part == "n") {
      check_state(name, tensor, 3, 0, where);
      add(out, prefix + "mlstm_n", tensor.scaled(1.0 / root(s[2])).reshaped({s[0], s[1], s[2], 1}),
          where);
    } else if (part == "m") {
      check_state(name, tensor, 2, 0, where);
      add(out, prefix + "mlstm_m", tensor.reshaped({s[0], s[1], 1, 1}), where);
    } else if (part == "cell") {
      check_state(name, tensor, 3, 0, where);
      add(out, prefix + "slstm", tensor.permuted({1, 0, 2}), where);
    } else if (part == "window") {
      check_state(name, tensor, 3, 0, where);
      add(out, prefix + "conv", tensor.with_zero_rows_first(), where);
    } else {
      throw_error(ErrorKind::kInput,
                  "{}: tensor '{}', wanted blocks.N. with c, n, m, cell or window", where, name);
    }
  }
  return out;
}

}  // namespace lram::weights
