#pragma once
#include <string>
#include <vector>

#include "eval/probes/settings.h"
#include "lram/model/config.h"

namespace lram::eval::probes {

/// What can be probed: mlstm, xlstm and slstm are the paper's xLSTM[1:0], [1:1] and [0:1]; the
/// others are the remaining model::backbone_names().
std::vector<std::string> cell_names();

/// "xLSTM[1:0]" for mlstm, and so on; other names as they are.
std::string cell_title(const std::string& cell);

/// The backbone of a run, with room for its longest sequences where positions or a window limit it.
/// Throws Error(kUsage) for an unknown cell, with the nearest known one, or sizes that do not fit.
model::PolicyConfig cell_config(const RunSettings& settings);

}  // namespace lram::eval::probes
