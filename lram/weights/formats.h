#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "lram/weights/weight_set.h"

namespace lram::weights {

/// Architectures whose weights are known. Within a family every format converts to every other; the
/// names that our modules have are the family's own.
enum class Family { kXlstmV1, kXlstmLarge, kGpt2, kMamba, kVil, kXlstmV1State };

/// What a file cannot tell.
struct FormatOptions {
  /// Layout of `slstm_cell._bias_`, 4D numbers in both backends of xlstm v1: "vanilla", "cuda", or
  /// "" = as the format says.
  std::string slstm_bias;
};

/// How the tensors of a family are called and laid out in the files of one public package.
struct WeightFormat {
  std::string_view name;
  Family family;
  std::string_view summary;
  /// Public tensors -> the family's, checked: names, shapes, types. Throws Error(kInput) that
  /// begins with `where`.
  WeightSet (*read)(const WeightSet& set, const FormatOptions& options, const std::string& where);
  /// The way back. Throws Error(kInput) for a tensor that the format has no place for.
  WeightSet (*write)(const WeightSet& set, const std::string& where);
  /// Whether names and shapes look like it; the first format of the table that says so is it.
  bool (*shows)(const WeightSet& set);
};

/// All formats, in the order in which detect_format() tries them.
const std::vector<WeightFormat>& weight_formats();

/// Throws Error(kUsage) that lists the known names.
const WeightFormat& weight_format(std::string_view name);

/// The format that the tensors' names and shapes show, null where they show none.
const WeightFormat* detect_format(const WeightSet& set);

/// Tensors that belong to a whole public model, but to no backbone: embeddings and output layers.
bool is_outside_backbone(const std::string& name);

/// The names that a backbone module of ours has: the family's without the "backbone." of the
/// 7B-style model, and back.
std::string backbone_name(const std::string& name);
WeightSet family_names(const WeightSet& backbone);

// The families' parts, one file each; formats.cpp puts them into the table. check_*: the set holds
// the tensors of one model whose sizes are those that it shows.
void check_xlstm_v1(const WeightSet& set, const std::string& where);
void check_xlstm_large(const WeightSet& set, const std::string& where);
void check_gpt2(const WeightSet& set, const std::string& where);
void check_mamba(const WeightSet& set, const std::string& where);
void check_vil(const WeightSet& set, const std::string& where);

WeightSet read_xlstm_v1(const WeightSet&, const FormatOptions&, const std::string& where);
WeightSet write_xlstm_v1(const WeightSet&, const std::string& where);
WeightSet read_xlstm_v1_cuda(const WeightSet&, const FormatOptions&, const std::string& where);
WeightSet write_xlstm_v1_cuda(const WeightSet&, const std::string& where);
WeightSet read_xlstm_v1_state(const WeightSet&, const FormatOptions&, const std::string& where);
WeightSet write_xlstm_v1_state(const WeightSet&, const std::string& where);
WeightSet read_lram_state(const WeightSet&, const FormatOptions&, const std::string& where);

WeightSet read_xlstm_large(const WeightSet&, const FormatOptions&, const std::string& where);
WeightSet write_xlstm_large_fused(const WeightSet&, const std::string& where);
WeightSet write_xlstm_large_hf(const WeightSet&, const std::string& where);

WeightSet read_gpt2(const WeightSet&, const FormatOptions&, const std::string& where);
WeightSet write_gpt2(const WeightSet&, const std::string& where);
WeightSet read_gpt2_lm(const WeightSet&, const FormatOptions&, const std::string& where);
WeightSet write_gpt2_lm(const WeightSet&, const std::string& where);

WeightSet read_mamba(const WeightSet&, const FormatOptions&, const std::string& where);
WeightSet write_mamba(const WeightSet&, const std::string& where);
WeightSet read_mamba_lm(const WeightSet&, const FormatOptions&, const std::string& where);
WeightSet write_mamba_lm(const WeightSet&, const std::string& where);
WeightSet read_mamba_ssm(const WeightSet&, const FormatOptions&, const std::string& where);
WeightSet write_mamba_ssm(const WeightSet&, const std::string& where);

WeightSet read_vil(const WeightSet&, const FormatOptions&, const std::string& where);
WeightSet read_vil_v1_hub(const WeightSet&, const FormatOptions&, const std::string& where);
WeightSet write_vil_v1_hub(const WeightSet&, const std::string& where);
WeightSet read_vil_v2_hub(const WeightSet&, const FormatOptions&, const std::string& where);
WeightSet write_vil_v2_hub(const WeightSet&, const std::string& where);

}  // namespace lram::weights
