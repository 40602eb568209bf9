#pragma once
#include <string>

#include "eval/run_folder.h"

namespace lram::eval {

/// One HTML page that needs no other file: learning curves, scores, latency, configuration, build
/// and hardware. A part that the run lacks is named, with the command that makes it.
std::string render_report(const RunFolder& run);

}  // namespace lram::eval
