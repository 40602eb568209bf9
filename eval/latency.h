#pragma once
#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "eval/svg_plot.h"

namespace lram::eval {

/// Time per environment step of one model at one context length.
struct LatencyRow {
  std::string model;   ///< "xlstm" or "transformer"
  std::string preset;  ///< its size in words, e.g. "2 blocks x 64, 4 heads"
  std::int64_t parameters = 0;
  std::int64_t context = 0;  ///< environment steps that the model has seen, 3 tokens each
  std::int64_t steps = 0;    ///< timed ones
  double median_us = 0.0, p99_us = 0.0, max_us = 0.0;
  std::int64_t state_bytes = 0;  ///< what one environment's memory takes
  int threads = 1;               ///< of LibTorch
};

/// What `lram bench step` prints and `lram report` reads. Files hold hardware and build in each row
/// as well, so that a row stands alone.
struct LatencyTable {
  std::string hardware, build;
  std::vector<LatencyRow> rows;
};

void to_json(nlohmann::json& json, const LatencyTable& table);
void from_json(const nlohmann::json& json, LatencyTable& table);

/// Throws Error(kInput) that names the file and what is wrong with it.
LatencyTable read_latency(const std::filesystem::path& path);

std::string to_table(const LatencyTable& table);

/// Median against context, both axes logarithmic, the band up to p99 or the top of the plot.
Plot latency_plot(const LatencyTable& table);

}  // namespace lram::eval
