#pragma once
#include <torch/types.h>

#include <cmath>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "lram/core/safetensors.h"
#include "lram/model/tensor_io.h"
#include "tests/support/golden_case.h"
#include "tests/support/golden_table.h"

namespace lram::test {

/// The largest error as GoldenTable counts it: 1 at the limit, times rtol (or atol, if rtol is 0).
/// A reference stored as float32 may be off by its own rounding. The shapes must be equal.
inline double largest_error(const torch::Tensor& got, const torch::Tensor& want,
                            Tolerance tolerance) {
  if (want.numel() == 0) return 0.0;
  const double rounding = want.scalar_type() == torch::kFloat32 ? 0x1p-24 : 0.0;
  const auto wanted = want.to(torch::kFloat64);
  const auto error = (got.detach().cpu().to(torch::kFloat64) - wanted).abs();
  const auto limit = tolerance.atol + (tolerance.rtol + rounding) * wanted.abs();
  const double unit = tolerance.rtol > 0.0 ? tolerance.rtol : tolerance.atol;
  return (error / limit).masked_fill(error == 0, 0.0).max().item<double>() * unit;  // NaN stays
}

/// Compares elementwise. Gives largest_error().
inline double expect_close(const torch::Tensor& got, const torch::Tensor& want, Tolerance tolerance,
                           const std::string& what) {
  constexpr double kFailed = std::numeric_limits<double>::infinity();
  EXPECT_TRUE(got.defined()) << what;
  if (!got.defined()) return kFailed;
  EXPECT_EQ(got.sizes(), want.sizes()) << what;
  if (got.sizes() != want.sizes()) return kFailed;
  const double error = largest_error(got, want, tolerance);
  EXPECT_LE(error, tolerance.rtol > 0.0 ? tolerance.rtol : tolerance.atol)  // false for NaN
      << what << ": largest value " << want.to(torch::kFloat64).abs().max().item<double>()
      << ", rtol " << tolerance.rtol << ", atol " << tolerance.atol;
  return error;
}

/// The tensors of a golden case's file.
class GoldenTensors {
 public:
  explicit GoldenTensors(const GoldenCase& golden)
      : file_(golden.file()), file_name_(golden.file().filename().string()) {}

  /// Compares with the tensor `name` elementwise and notes the error for the GoldenTable. `noise`
  /// widens the comparison, but not the unit of what is noted.
  void expect(const torch::Tensor& got, const std::string& name, Tolerance tolerance,
              const std::string& what, double noise = 0.0) const {
    ASSERT_TRUE(has(name)) << what << ": no tensor " << name << " in " << file_name_;
    const torch::Tensor want = (*this)[name];
    const Tolerance wide = {tolerance.rtol, tolerance.atol + noise};
    double error = expect_close(got, want, wide, what + ": " + name);
    if (noise > 0.0 && std::isfinite(error)) error = largest_error(got, want, tolerance);
    GoldenTable::instance().record(file_name_, name, error,
                                   tolerance.rtol > 0.0 ? tolerance.rtol : tolerance.atol);
  }

  bool has(const std::string& name) const { return file_.find(name) != nullptr; }
  torch::Tensor operator[](const std::string& name) const {
    read_.insert(name);
    return model::to_tensor(file_.at(name));
  }
  /// What a test has looked at neither by name nor by prefix so far.
  std::vector<std::string> unread() const {
    std::vector<std::string> out;
    for (const TensorEntry& entry : file_.tensors())
      if (!read_.contains(entry.name)) out.push_back(entry.name);
    return out;
  }
  /// Those whose name begins with `prefix`, without it.
  model::NamedTensors with_prefix(const std::string& prefix) const {
    model::NamedTensors out;
    for (const TensorEntry& entry : file_.tensors())
      if (entry.name.starts_with(prefix))
        out.emplace_back(entry.name.substr(prefix.size()), (*this)[entry.name]);
    return out;
  }
  /// Copies the tensors "param.NAME" into a module's parameters, which must be the same ones; a
  /// parameter that the reference never uses (it has no gradient there) may be absent.
  void load_parameters(torch::nn::Module& module) const {
    const torch::NoGradGuard no_grad;
    auto parameters = module.named_parameters();
    const auto given = with_prefix("param.");
    std::size_t loaded = 0;
    for (const auto& [name, value] : given) {
      torch::Tensor* parameter = parameters.find(name);
      if (parameter == nullptr && !has("grad." + name)) continue;
      ASSERT_NE(parameter, nullptr) << "no parameter " << name;
      ASSERT_EQ(parameter->sizes(), value.sizes()) << name;
      parameter->copy_(value);
      ++loaded;
    }
    EXPECT_EQ(loaded, parameters.size()) << "parameters that the reference does not have";
  }

 private:
  SafetensorsFile file_;
  std::string file_name_;
  mutable std::set<std::string> read_;
};

/// Compares the gradients of a module's parameters with "grad.NAME" (or another prefix); parameters
/// without one must have no gradient, or zeros.
inline void expect_gradients(const torch::nn::Module& module, const GoldenTensors& golden,
                             Tolerance tolerance, const std::string& what,
                             const std::string& prefix = "grad.") {
  for (const auto& item : module.named_parameters()) {
    const torch::Tensor& gradient = item.value().grad();
    const std::string label = what + ": gradient of " + item.key();
    if (golden.has(prefix + item.key())) {
      golden.expect(gradient, prefix + item.key(), tolerance, label);
    } else {
      EXPECT_TRUE(!gradient.defined() || gradient.count_nonzero().item<std::int64_t>() == 0)
          << label;
    }
  }
}

}  // namespace lram::test
