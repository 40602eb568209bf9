#include "datasets/return_to_go.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "lram/core/error.h"
#include "lram/core/safetensors.h"
#include "tests/support/golden_case.h"

namespace lram::datasets::return_to_go_test {
namespace {
TEST(ReturnToGo, SumsFromTheEnd) {
  const std::vector<float> rewards = {1.0f, -2.0f, 0.5f};
  std::vector<float> out(3);
  return_to_go(rewards, out);
  EXPECT_EQ(out, (std::vector<float>{-0.5f, -1.5f, 0.5f}));
  return_to_go({}, {});
  EXPECT_THROW(return_to_go(rewards, std::span(out).first(2)), Error);
}

template <typename T>
std::vector<double> values_of(const TensorEntry& tensor) {
  std::vector<double> out(tensor.data.size() / sizeof(T));
  for (std::size_t i = 0; i < out.size(); ++i) {
    T value;
    std::memcpy(&value, tensor.data.data() + i * sizeof(T), sizeof(T));
    out[i] = static_cast<double>(value);
  }
  return out;
}

std::vector<double> values(const TensorEntry& tensor) {
  EXPECT_TRUE(tensor.dtype == Dtype::kF32 || tensor.dtype == Dtype::kF64) << tensor.name;
  return tensor.dtype == Dtype::kF64 ? values_of<double>(tensor) : values_of<float>(tensor);
}

void expect_close(const std::vector<float>& got, const std::vector<double>& want, double scale,
                  test::Tolerance tolerance, const std::string& what) {
  ASSERT_EQ(got.size(), want.size()) << what;
  for (std::size_t i = 0; i < got.size(); ++i)
    EXPECT_LE(std::abs(got[i] / scale - want[i]),
              tolerance.atol + tolerance.rtol * std::abs(want[i]))
        << what << " at " << i;
}

// Names in front of ".rtg", one per domain.
std::vector<std::string> domains(const test::GoldenCase& one) {
  std::vector<std::string> out;
  const nlohmann::json tensors = one.row.value("tensors", nlohmann::json::object());
  for (const auto& [name, tensor] : tensors.items())
    if (name.ends_with(".rtg")) out.push_back(name.substr(0, name.size() - 4));
  return out;
}

TEST(Golden, ReturnsToGoAreThoseOfTheReference) {
  LRAM_SKIP_WITHOUT_GOLDEN("baselines");
  for (const auto& one : test::golden_cases(
           "baselines", "return_to_go", [](const auto& row) { return !domains(row).empty(); })) {
    const SafetensorsFile file(one.file());
    const auto tolerance = one.tolerance("float32");
    for (const std::string& domain : domains(one)) {
      SCOPED_TRACE(one.name() + " " + domain);
      std::vector<float> rewards, got;
      for (const double reward : values(file.at(domain + ".reward")))
        rewards.push_back(static_cast<float>(reward));
      got.resize(rewards.size());
      return_to_go(rewards, got);
      const double scale = one.config().at("reward_scale").at(domain);
      expect_close(got, values(file.at(domain + ".rtg")), 1.0, tolerance, "rtg");
      expect_close(got, values(file.at(domain + ".rtg64")), 1.0, tolerance, "rtg64");
      expect_close(got, values(file.at(domain + ".token")), scale, tolerance, "token");
    }
  }
}
}  // namespace
}  // namespace lram::datasets::return_to_go_test
