#pragma once
#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "tests/support/golden_tensors.h"

namespace lram::test {

/// One case of golden/models: its tensors, and comparisons in relative L2 under the tolerances of
/// the index. What they find goes to the GoldenTable.
class GoldenReference {
 public:
  explicit GoldenReference(const GoldenCase& golden) : golden_(golden), tensors_(golden) {}

  const nlohmann::json& config() const { return golden_.config(); }
  const nlohmann::json& row() const { return golden_.row; }
  std::string name() const { return golden_.row.at("name"); }
  bool has(const std::string& tensor) const { return tensors_.has(tensor); }
  const GoldenTensors& tensors() const { return tensors_; }
  torch::ScalarType dtype() const {
    return golden_.row.at("dtype") == "f64" ? torch::kDouble : torch::kFloat;
  }
  /// In the case's type, or undefined where the file has none.
  torch::Tensor input(const std::string& tensor) const {
    return has(tensor) ? tensors_[tensor].to(dtype()) : torch::Tensor();
  }

  /// `other_form`: the stored numbers come from a form that adds eps elsewhere.
  void expect(const torch::Tensor& got, const std::string& tensor, const std::string& what,
              bool other_form = false) const {
    ASSERT_TRUE(has(tensor)) << name() << ": no tensor " << tensor;
    expect_value(got, tensors_[tensor], tensor, what, other_form);
  }
  /// `stored` stands for `tensor` (a part of it, or in another layout).
  void expect_value(const torch::Tensor& got, const torch::Tensor& stored,
                    const std::string& tensor, const std::string& what,
                    bool other_form = false) const {
    ASSERT_TRUE(got.defined()) << name() << ", " << what << ": " << tensor;
    const torch::Tensor want = stored.to(torch::kDouble);
    ASSERT_EQ(got.sizes(), want.sizes()) << name() << ", " << what << ": " << tensor;
    const double difference = (got.detach().to(torch::kDouble) - want).norm().item<double>();
    const double size =
        std::max(want.norm().item<double>(), 1e-6 * std::sqrt(static_cast<double>(want.numel())));
    const double error = difference / size, bound = tolerance(tensor, other_form);
    EXPECT_LE(error, bound) << name() << ", " << what << ": " << tensor;
    GoldenTable::instance().record(golden_.file().filename().string(), tensor, error, bound);
    compared_.insert(tensor);
  }

  /// Fails for a result of the file (out, state, grad) that nothing was compared with, unless
  /// `reason` says why not; that is printed.
  void expect_all_compared(const std::function<std::string(const std::string&)>& reason) const {
    for (const auto& row : golden_.row.at("tensors")) {
      const std::string tensor = row.at("name");
      if (tensor.starts_with("in.") || tensor.starts_with("param.") || compared_.contains(tensor))
        continue;
      const std::string why = reason(tensor);
      EXPECT_FALSE(why.empty()) << name() << ": nothing was compared with " << tensor;
      std::printf("not compared: %s, %s: %s\n", name().c_str(), tensor.c_str(), why.c_str());
    }
  }

 private:
  double tolerance(const std::string& tensor, bool other_form) const {
    const nlohmann::json& defaults = golden_.row.at("tolerance");
    const bool gradient = tensor.starts_with("grad");
    const std::string key = gradient ? "grad_rel_l2" : "forward_rel_l2";
    double bound = defaults.at(key);
    for (const auto& row : golden_.row.at("tensors"))
      if (row.at("name") == tensor)  // the float64 bound of padded states stands in float32's too
        bound = std::max(bound, row.value("tolerance_rel_l2", bound));
    if (other_form) bound = std::max(bound, defaults.value("other_form_" + key, bound));
    return bound;
  }

  GoldenCase golden_;
  GoldenTensors tensors_;
  mutable std::set<std::string> compared_;
};

}  // namespace lram::test
