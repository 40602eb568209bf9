#include "lram/weights/formats.h"

#include <algorithm>

#include "lram/core/error.h"
#include "lram/core/text.h"

namespace lram::weights {
namespace {
bool any(const WeightSet& set, std::string_view prefix) {
  const auto at = set.lower_bound(std::string(prefix));
  return at != set.end() && at->first.starts_with(prefix);
}

bool any_holds(const WeightSet& set, std::string_view part) {
  return std::any_of(set.begin(), set.end(),
                     [&](const auto& item) { return item.first.find(part) != std::string::npos; });
}

/// The recurrent kernel of some sLSTM has the cuda backend's shape.
bool has_cuda_kernel(const WeightSet& set) {
  return std::any_of(set.begin(), set.end(), [](const auto& item) {
    const auto& shape = item.second.shape;
    return item.first.ends_with("._recurrent_kernel_") && shape.size() == 3 && shape[1] < shape[2];
  });
}

WeightSet as_is(const WeightSet& set, const std::string&) { return set; }

bool is_large(const WeightSet& set) { return any(set, "backbone.blocks."); }
bool is_v1(const WeightSet& set) {
  return set.contains("blocks.0.xlstm_norm.weight") ||
         set.contains("xlstm_block_stack.blocks.0.xlstm_norm.weight");
}
bool is_vil(const WeightSet& set) { return set.contains("patch_embed.proj.weight"); }
}  // namespace

const std::vector<WeightFormat>& weight_formats() {
  static const std::vector<WeightFormat> table = {
      {"xlstm_large_fused", Family::kXlstmLarge, "xlstm package, xLSTM-7B style, weight_mode fused",
       read_xlstm_large, write_xlstm_large_fused,
       [](const WeightSet& set) { return is_large(set) && any_holds(set, ".qkv_opreact."); }},
      {"xlstm_large_hf", Family::kXlstmLarge, "transformers xLSTMForCausalLM (NX-AI/xLSTM-7b)",
       read_xlstm_large, write_xlstm_large_hf,
       [](const WeightSet& set) {
         return is_large(set) && set.contains("backbone.embeddings.weight");
       }},
      {"xlstm_large", Family::kXlstmLarge, "xlstm package, xLSTM-7B style, weight_mode single",
       read_xlstm_large, as_is, is_large},
      {"xlstm_v1_cuda", Family::kXlstmV1,
       "xlstm package, version 1, sLSTM trained by its cuda backend", read_xlstm_v1_cuda,
       write_xlstm_v1_cuda,
       [](const WeightSet& set) { return is_v1(set) && has_cuda_kernel(set); }},
      {"xlstm_v1", Family::kXlstmV1,
       "xlstm package, version 1, stack or language model, sLSTM of the vanilla backend",
       read_xlstm_v1, write_xlstm_v1, is_v1},
      {"gpt2_lm", Family::kGpt2, "transformers GPT2LMHeadModel", read_gpt2_lm, write_gpt2_lm,
       [](const WeightSet& set) { return any(set, "transformer.h."); }},
      {"gpt2", Family::kGpt2, "transformers GPT2Model", read_gpt2, write_gpt2,
       [](const WeightSet& set) { return any(set, "h.0."); }},
      {"mamba_ssm", Family::kMamba, "state-spaces/mamba", read_mamba_ssm, write_mamba_ssm,
       [](const WeightSet& set) {
         return any(set, "backbone.layers.") && set.contains("backbone.embedding.weight");
       }},
      {"mamba_lm", Family::kMamba, "transformers MambaForCausalLM", read_mamba_lm, write_mamba_lm,
       [](const WeightSet& set) { return any(set, "backbone.layers."); }},
      {"mamba", Family::kMamba, "transformers MambaModel", read_mamba, write_mamba,
       [](const WeightSet& set) { return any(set, "layers.0.mixer."); }},
      {"vil_v2_hub", Family::kVil, "vision-lstm, version 2, as the published files name it",
       read_vil_v2_hub, write_vil_v2_hub,
       [](const WeightSet& set) {
         return is_vil(set) && any(set, "xlstm.blocks.") && any_holds(set, ".xlstm_norm.bias");
       }},
      {"vil_v1_hub", Family::kVil, "vision-lstm, version 1, as the published files name it",
       read_vil_v1_hub, write_vil_v1_hub,
       [](const WeightSet& set) { return is_vil(set) && any(set, "xlstm.blocks."); }},
      {"vil", Family::kVil, "vision-lstm, either version, as its modules name it", read_vil, as_is,
       [](const WeightSet& set) { return is_vil(set) && any(set, "blocks.0."); }},
      {"xlstm_v1_state", Family::kXlstmV1State, "recurrent state of an xlstm v1 stack",
       read_xlstm_v1_state, write_xlstm_v1_state,
       [](const WeightSet& set) { return any(set, "block_0."); }},
      {"lram_state", Family::kXlstmV1State,
       "the same state as our modules keep it, c and n unscaled", read_lram_state, as_is,
       [](const WeightSet& set) {
         return set.contains("blocks.0.c") || set.contains("blocks.0.cell");
       }},
  };
  return table;
}

const WeightFormat& weight_format(std::string_view name) {
  std::vector<std::string> known;
  for (const WeightFormat& format : weight_formats()) {
    if (format.name == name) return format;
    known.emplace_back(format.name);
  }
  const std::string near = nearest_name(std::string(name), known);
  throw_error(ErrorKind::kUsage, "weight format '{}' is not known, wanted one of {}{}", name,
              joined(known), near.empty() ? "" : fmt::format("; did you mean '{}'?", near));
}

const WeightFormat* detect_format(const WeightSet& set) {
  for (const WeightFormat& format : weight_formats())
    if (format.shows(set)) return &format;
  return nullptr;
}

bool is_outside_backbone(const std::string& name) {
  for (const char* known : {"token_embedding.weight", "embedding.weight", "embeddings.weight",
                            "wte.weight", "lm_head.weight"})
    if (name == known) return true;
  return false;
}

std::string backbone_name(const std::string& name) {
  constexpr std::string_view kPrefix = "backbone.";
  return name.starts_with(kPrefix) ? name.substr(kPrefix.size()) : name;
}

WeightSet family_names(const WeightSet& backbone) {
  if (!any(backbone, "blocks.0.mlstm_layer.")) return backbone;
  WeightSet out;
  for (const auto& [name, tensor] : backbone) out.emplace("backbone." + name, tensor);
  return out;
}

}  // namespace lram::weights
