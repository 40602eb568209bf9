#include "eval/probes/cell.h"

#include <fmt/core.h>

#include <algorithm>

#include "lram/core/error.h"
#include "lram/core/text.h"
#include "lram/model/backbones.h"
#include "lram/tokenization/sequence.h"

namespace lram::eval::probes {
namespace {
struct XlstmCell {
  const char *name, *title;
  std::int64_t period, first;  // blocks first, first + period, ... are sLSTMs; period 0 = none
};

constexpr XlstmCell kXlstmCells[] = {
    {"mlstm", "xLSTM[1:0]", 0, 0}, {"xlstm", "xLSTM[1:1]", 2, 1}, {"slstm", "xLSTM[0:1]", 1, 0}};

std::string slstm_blocks(const XlstmCell& cell, std::int64_t num_blocks) {
  std::string out;
  if (cell.period == 0) return out;
  for (std::int64_t block = cell.first; block < num_blocks; block += cell.period) {
    if (!out.empty()) out += ',';
    out += std::to_string(block);
  }
  return out;
}

std::int64_t longest(const RunSettings& s) {
  std::int64_t tokens = std::max(s.train_high, s.test_high);
  for (const std::int64_t length : s.curve) tokens = std::max(tokens, length);
  return tokens + 1;  // the reference of nearest_neighbour
}
}  // namespace

std::vector<std::string> cell_names() {
  std::vector<std::string> names;
  for (const XlstmCell& cell : kXlstmCells) names.emplace_back(cell.name);
  for (const std::string& name : model::backbone_names())
    if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
  return names;
}

std::string cell_title(const std::string& cell) {
  for (const XlstmCell& one : kXlstmCells)
    if (cell == one.name) return one.title;
  return cell;
}

model::PolicyConfig cell_config(const RunSettings& settings) {
  const std::vector<std::string> known = cell_names();
  if (std::find(known.begin(), known.end(), settings.cell) == known.end())
    throw_error(ErrorKind::kUsage, "unknown cell '{}', known: {}", settings.cell, joined(known));
  model::PolicyConfig config;
  config.backbone = settings.cell;
  for (const XlstmCell& cell : kXlstmCells) {
    if (settings.cell != cell.name) continue;
    config.backbone = "xlstm";
    config.slstm_at = slstm_blocks(cell, settings.num_blocks);
  }
  config.embed_dim = settings.embed_dim;
  config.num_blocks = settings.num_blocks;
  config.num_heads = settings.num_heads;
  // A policy counts time steps of three tokens.
  config.context_length = longest(settings) / tokenization::kTokensPerStep + 1;
  config.max_episode_steps = config.context_length;
  model::clear_unused(config);  // one setting of heads for all cells, and Mamba has none
  model::validate(config);
  return config;
}

}  // namespace lram::eval::probes
