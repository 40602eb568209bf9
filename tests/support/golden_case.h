#pragma once
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "lram/core/json.h"
#include "tests/support/golden.h"

namespace lram::test {

/// |got - want| <= atol + rtol |want|, elementwise.
struct Tolerance {
  double rtol = 0.0, atol = 0.0;
};

/// One row of a golden folder's index.json.
struct GoldenCase {
  std::filesystem::path folder;
  nlohmann::json row;

  std::string name() const { return row.at("case"); }
  std::filesystem::path file() const { return folder / row.at("file").get<std::string>(); }
  const nlohmann::json& config() const { return row.at("config"); }
  Tolerance tolerance(const std::string& key) const {
    const auto& pair = row.at("tolerance").at(key);
    return {pair.at(0), pair.at(1)};
  }
  bool has_tensor(const std::string& tensor) const {
    return row.contains("tensors") && row["tensors"].contains(tensor);
  }
  /// Whether the row's "class" says so; the names of cases are not relied upon.
  bool class_has(const std::string& text) const {
    return row.value("class", "").find(text) != std::string::npos;
  }
};

/// The cases of `folder`/index.json that are of a kind. None is a failure: the set must hold it.
inline std::vector<GoldenCase> golden_cases(const std::string& folder, const std::string& kind,
                                            const std::function<bool(const GoldenCase&)>& is_kind) {
  const std::filesystem::path root = golden_root() / folder;
  std::ifstream in(root / "index.json");
  std::vector<GoldenCase> cases;
  const auto index = parse_json(in);
  for (const auto& row : index.at("cases"))
    if (GoldenCase one{root, row}; is_kind(one)) cases.push_back(std::move(one));
  EXPECT_FALSE(cases.empty()) << root << " holds no case of the kind " << kind;
  return cases;
}

}  // namespace lram::test
