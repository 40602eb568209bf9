#pragma once
#include <cstdlib>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <tuple>

namespace lram::test {

/// The largest errors that golden tests met. With LRAM_GOLDEN_TABLE=FILE in the environment the
/// process appends them to FILE when it ends, tab-separated:
///   file    tensor group    largest error    tolerance
/// A tensor's group is its name up to the first dot ("out", "grad_param"); an error is in the unit
/// of its tolerance. Rows of several processes do not mix: each writes its own at once.
class GoldenTable {
 public:
  static GoldenTable& instance() {
    static GoldenTable table;
    return table;
  }

  void record(const std::string& file, const std::string& tensor, double error, double tolerance) {
    const auto key = std::make_tuple(file, tensor.substr(0, tensor.find('.')), tolerance);
    const auto [row, is_new] = errors_.try_emplace(key, error);
    if (!is_new && !(error <= row->second)) row->second = error;  // NaN stays
  }

  GoldenTable(const GoldenTable&) = delete;
  GoldenTable& operator=(const GoldenTable&) = delete;
  ~GoldenTable() {
    const char* path = std::getenv("LRAM_GOLDEN_TABLE");
    if (path == nullptr) return;
    std::ostringstream rows;
    for (const auto& [key, error] : errors_)
      rows << std::get<0>(key) << '\t' << std::get<1>(key) << '\t' << error << '\t'
           << std::get<2>(key) << '\n';
    std::ofstream(path, std::ios::app) << rows.str();
  }

 private:
  GoldenTable() = default;
  std::map<std::tuple<std::string, std::string, double>, double> errors_;
};

}  // namespace lram::test
