#pragma once
#include <gtest/gtest.h>
#include <torch/nn/module.h>
#include <torch/types.h>

#include <cmath>
#include <string>
#include <variant>
#include <vector>

namespace lram::test {

struct Normal {
  double deviation;
};
struct Uniform {
  double bound;  ///< within +-bound
};
struct Constant {
  double value;
};
struct Values {
  std::vector<double> values;
};

/// How the parameters start whose name ends in `ending`, or is it, if it begins with ^.
struct InitialValues {
  std::string ending;
  std::variant<Normal, Uniform, Constant, Values> rule;

  bool is_for(const std::string& name) const {
    return ending.front() == '^' ? name == ending.substr(1) : name.ends_with(ending);
  }
};

/// Checks mean, deviation and the share of small values within five deviations of what a sample of
/// that size shows (a wrong shape with the right deviation is seen from 200 values on).
inline void expect_distribution(const torch::Tensor& values, double deviation, double bound,
                                const std::string& name) {
  const auto n = static_cast<double>(values.numel());
  const torch::Tensor x = values.detach().to(torch::kDouble).flatten();
  const bool normal = bound == 0.0;
  EXPECT_LE(std::abs(x.mean().item<double>()), 5 * deviation / std::sqrt(n)) << name;
  // Standard error of the second moment: its relative variance is 2 (normal) or 4 / 5 (uniform).
  const double moment = x.square().mean().item<double>() / (deviation * deviation);
  EXPECT_LE(std::abs(moment - 1), 5 * std::sqrt((normal ? 2.0 : 0.8) / n)) << name;
  const double share = (x.abs() < deviation).to(torch::kDouble).mean().item<double>();
  const double wanted = normal ? std::erf(std::sqrt(0.5)) : 1 / std::sqrt(3.0);
  EXPECT_LE(std::abs(share - wanted), 5 * std::sqrt(wanted * (1 - wanted) / n)) << name;
  if (normal) return;
  EXPECT_LE(x.abs().max().item<double>(), bound * (1 + 1e-6)) << name;
}

/// Every parameter follows the first rule that is for it; one without a rule fails.
inline void expect_initial_values(const torch::nn::Module& module,
                                  const std::vector<InitialValues>& rules) {
  for (const auto& item : module.named_parameters()) {
    const std::string& name = item.key();
    const torch::Tensor& x = item.value();
    const InitialValues* found = nullptr;
    for (const InitialValues& rule : rules)
      if (found == nullptr && rule.is_for(name)) found = &rule;
    if (found == nullptr) {
      ADD_FAILURE() << "no rule for " << name;
    } else if (const auto* normal = std::get_if<Normal>(&found->rule)) {
      expect_distribution(x, normal->deviation, 0.0, name);
    } else if (const auto* uniform = std::get_if<Uniform>(&found->rule)) {
      expect_distribution(x, uniform->bound / std::sqrt(3.0), uniform->bound, name);
    } else if (const auto* constant = std::get_if<Constant>(&found->rule)) {
      EXPECT_TRUE((x == constant->value).all().item<bool>()) << name;
    } else {
      const auto& values = std::get<Values>(found->rule).values;
      EXPECT_TRUE(torch::allclose(x.to(torch::kDouble), torch::tensor(values, torch::kDouble)))
          << name;
    }
  }
}

}  // namespace lram::test
