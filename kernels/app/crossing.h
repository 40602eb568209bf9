#pragma once
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "kernels/app/graph_timer.h"
#include "kernels/app/op_case.h"

/// Which form of the mLSTM is quickest up to which length, by head dims: `lram bench kernels
/// --crossing`.
namespace lram::kernels {

/// Times every form that takes a shape, on one path, at about 38,400 tokens x heads each. Gate,
/// dtype and the like come from `options`, its shape and form do not count. Returns
/// [{"key_dim", "value_dim", "tokens", "form", "forward_ms", "both_ms"}, ...].
nlohmann::json time_crossing(GraphTimer& timer, const CaseOptions& options);

/// The times as one table, then for each pair of head dims the quickest form by length.
std::string crossing_text(const nlohmann::json& times);

}  // namespace lram::kernels
