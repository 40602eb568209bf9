#include "lram/model/config.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "lram/core/error.h"
#include "lram/core/json.h"
#include "lram/core/text.h"
#include "lram/model/backbones.h"
#include "lram/model/image_encoder.h"

namespace lram::model {
namespace {
using nlohmann::json;

/// Fields that every config.json has. The others came later: a file without one is older than it,
/// and its model is what the field's default says.
const std::set<std::string> kFirstFields = {
    "backbone",     "embed_dim",         "num_blocks", "num_heads",  "context_length",
    "slstm_at",     "conv_kernel",       "cell_eps",   "chunk_size", "qkv_blocksize",
    "ffn_factor",   "max_episode_steps", "state_dim",  "image_size", "action_slots",
    "discrete_ids", "num_bins"};

/// Fields that some backbones or image encoders have and others have not.
struct PartialField {
  const char* name;
  std::string PolicyConfig::*choice;
  std::set<std::string> owners;  ///< values of `choice`
};

const std::vector<PartialField>& partial_fields() {
  constexpr auto kBackbone = &PolicyConfig::backbone;
  constexpr auto kEncoder = &PolicyConfig::image_encoder;
  static const std::vector<PartialField> list = {
      {"num_heads", kBackbone, {"xlstm", "xlstm_large", "slstm", "lstm", "gru", "elman", "gpt2"}},
      {"slstm_at", kBackbone, {"xlstm"}},
      {"conv_kernel", kBackbone, {"xlstm", "slstm", "lstm", "gru", "mamba"}},
      {"qkv_blocksize", kBackbone, {"xlstm"}},
      {"ffn_factor", kBackbone, {"xlstm", "slstm", "lstm", "gru", "elman"}},
      {"input_gate", kBackbone, {"xlstm", "xlstm_large"}},
      {"normalize", kBackbone, {"xlstm", "xlstm_large"}},
      {"cell_eps", kBackbone, {"xlstm", "xlstm_large"}},
      {"chunk_size", kBackbone, {"xlstm", "xlstm_large"}},
      {"qk_dim_factor", kBackbone, {"xlstm_large"}},
      {"swiglu_factor", kBackbone, {"xlstm_large"}},
      {"gate_soft_cap", kBackbone, {"xlstm_large"}},
      {"positions", kBackbone, {"gpt2"}},
      {"image_dim", kEncoder, {"vil", "vit"}},
      {"image_blocks", kEncoder, {"vil", "vit"}},
      {"image_patch", kEncoder, {"vil", "vit"}},
      {"image_heads", kEncoder, {"vit"}},
      {"vil_version", kEncoder, {"vil"}},
  };
  return list;
}

void check_unused(const PolicyConfig& config) {
  const json given = config, initial = PolicyConfig();
  for (const PartialField& field : partial_fields()) {
    const std::string& choice = config.*field.choice;
    if (field.owners.contains(choice) || given.at(field.name) == initial.at(field.name)) continue;
    throw_error(ErrorKind::kUsage, "model.{} is {}, wanted {} with {}: it is of {} alone",
                field.name, json_text(given.at(field.name)), json_text(initial.at(field.name)),
                choice, joined(field.owners));
  }
}

/// Every field with its name and meaning: what the command line, recipes and config.json share.
template <typename Config, typename Visit>
void visit_fields(Config& c, const Visit& visit) {
  visit("backbone", c.backbone,
        "xlstm, slstm, lstm, gru, elman, xlstm_large (the block of xLSTM-7B), mamba, or gpt2 (the "
        "Decision Transformer)");
  visit("embed_dim", c.embed_dim, "width D of tokens and blocks");
  visit("num_blocks", c.num_blocks, "blocks of the backbone");
  visit("num_heads", c.num_heads, "heads of each block");
  visit("context_length", c.context_length, "time steps of a training window");
  visit("slstm_at", c.slstm_at, "xlstm: zero-based blocks with an sLSTM, as 1,3; none = [1:0]");
  visit("conv_kernel", c.conv_kernel,
        "taps of the causal convolution; 0 = none (slstm, lstm, gru)");
  visit("qkv_blocksize", c.qkv_blocksize, "xlstm: block size of the q, k, v projections");
  visit("ffn_factor", c.ffn_factor,
        "feed-forward width over D behind any cell but the mLSTM, 0 = none");
  visit("input_gate", c.input_gate, "mLSTM: exp, or sigmoid");
  visit("normalize", c.normalize, "mLSTM: divide by the normaliser; false needs sigmoid gates");
  visit("cell_eps", c.cell_eps, "mLSTM: added to the normaliser");
  visit("chunk_size", c.chunk_size, "mLSTM: tokens per chunk of the chunkwise form");
  visit("qk_dim_factor", c.qk_dim_factor, "xlstm_large: width of queries and keys over D");
  visit("swiglu_factor", c.swiglu_factor, "xlstm_large: feed-forward width over D");
  visit("gate_soft_cap", c.gate_soft_cap, "xlstm_large: bound of the gates, 0 = none");
  visit("positions", c.positions, "gpt2: learned (a table) or rope (rotated queries and keys)");
  visit("max_episode_steps", c.max_episode_steps,
        "gpt2: longest episode; the table of positions holds 3 tokens x 3 of it");
  visit("state_dim", c.state_dim, "width of the state vector");
  visit("image_size", c.image_size, "height and width of the images, 0 = no image encoder");
  visit("image_encoder", c.image_encoder, "impala (LRAM's), vil (Vision-LSTM), or vit");
  visit("image_dim", c.image_dim, "vil, vit: width of the patches' tokens");
  visit("image_blocks", c.image_blocks, "vil, vit: blocks (of a vil: single scans, not pairs)");
  visit("image_patch", c.image_patch, "vil, vit: height and width of a patch");
  visit("image_heads", c.image_heads, "vit: heads of each block");
  visit("vil_version", c.vil_version, "vil: 1 or 2, as the public package counts");
  visit("action_slots", c.action_slots, "action entries that the head predicts");
  visit("discrete_ids", c.discrete_ids, "classes for discrete actions");
  visit("num_bins", c.num_bins, "classes for continuous actions");
}

}  // namespace

void describe(po::options_description& options, PolicyConfig& config) {
  visit_fields(config, [&](const char* name, auto& value, const char* help) {
    using Value = std::remove_reference_t<decltype(value)>;
    options.add_options()((std::string("model.") + name).c_str(),
                          po::value<Value>(&value)->default_value(value, fmt::format("{}", value)),
                          help);
  });
}

void to_json(json& out, const PolicyConfig& config) {
  out = json::object();
  visit_fields(config,
               [&](const char* name, const auto& value, const char*) { out[name] = value; });
}

void from_json(const json& in, PolicyConfig& config) {
  if (!in.is_object())
    throw_error(ErrorKind::kInput, "model: is {}, wanted an object", in.type_name());
  PolicyConfig out;
  std::vector<std::string> known;
  visit_fields(out, [&](const char* name, auto& value, const char*) {
    using Value = std::remove_reference_t<decltype(value)>;
    known.push_back(name);
    const auto at = in.find(name);
    if (at == in.end()) {
      if (kFirstFields.contains(name)) throw_error(ErrorKind::kInput, "model: no field '{}'", name);
      return;
    }
    const bool fits = std::is_same_v<Value, std::string> ? at->is_string()
                      : std::is_same_v<Value, bool>      ? at->is_boolean()
                      : std::is_same_v<Value, double>    ? at->is_number()
                                                         : at->is_number_integer();
    if (!fits)
      throw_error(ErrorKind::kInput, "model: field '{}' is {}, wanted {}", name, at->dump(),
                  std::is_same_v<Value, std::string> ? "a text"
                  : std::is_same_v<Value, bool>      ? "true or false"
                  : std::is_same_v<Value, double>    ? "a number"
                                                     : "a whole number");
    value = at->template get<Value>();
  });
  for (const auto& [name, value] : in.items())
    if (std::find(known.begin(), known.end(), name) == known.end())
      throw_error(ErrorKind::kInput, "model: unknown field '{}' (a checkpoint of a newer version?)",
                  name);
  try {
    validate(out);
  } catch (const Error& error) {
    throw Error(ErrorKind::kInput, error.what());
  }
  config = out;
}

void check_range(const char* field, std::int64_t value, std::int64_t low, std::int64_t high) {
  if (value < low || value > high)
    throw_error(ErrorKind::kUsage, "model.{} is {}, wanted {} to {}", field, value, low, high);
}

void check_range(const char* field, double value, double low, double high) {
  if (!(value >= low && value <= high))
    throw_error(ErrorKind::kUsage, "model.{} is {}, wanted {} to {}", field, value, low, high);
}

void check_divides(std::int64_t whole, const std::string& what, const char* field,
                   std::int64_t part) {
  if (whole % part != 0)
    throw_error(ErrorKind::kUsage, "model.{} is {}, which does not divide {} ({})", field, part,
                what, whole);
}

void validate(const PolicyConfig& c) {
  check_range("embed_dim", c.embed_dim, 1, 1 << 16);
  check_range("num_blocks", c.num_blocks, 1, 1 << 10);
  check_range("num_heads", c.num_heads, 1, 1 << 10);
  check_range("context_length", c.context_length, 1, 1 << 24);
  check_range("state_dim", c.state_dim, 1, 1 << 20);
  check_range("image_size", c.image_size, 0, 1 << 12);
  check_range("action_slots", c.action_slots, 1, 1 << 12);
  check_range("discrete_ids", c.discrete_ids, 0, 1 << 16);
  check_range("num_bins", c.num_bins, 1, 1 << 16);
  validate_backbone(c);
  validate_image_encoder(c);
  check_unused(c);
}

void clear_unused(PolicyConfig& config) {
  const json initial = PolicyConfig();
  std::set<std::string> unused;
  for (const PartialField& field : partial_fields())
    if (!field.owners.contains(config.*field.choice)) unused.insert(field.name);
  visit_fields(config, [&](const char* name, auto& value, const char*) {
    if (unused.contains(name)) initial.at(name).get_to(value);
  });
}

}  // namespace lram::model
