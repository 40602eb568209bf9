#include "lram/training/optimizer.h"

#include <gtest/gtest.h>
#include <torch/types.h>

#include <limits>
#include <nlohmann/json.hpp>

#include "lram/core/error.h"
#include "lram/training/schedule.h"
#include "tests/support/golden_tensors.h"
#include "tests/support/temp_folder.h"

namespace lram::training::optimizer_test {
namespace {
namespace fs = std::filesystem;
using nlohmann::json;

/// A module of given parameters, whatever their names.
class Parameters : public torch::nn::Module {
 public:
  void add(const std::string& name, const torch::Tensor& value) {
    // Names with dots become modules, as LibTorch wants them.
    const auto dot = name.rfind('.');
    torch::nn::Module* owner = this;
    if (dot != std::string::npos) {
      const std::string folder = name.substr(0, dot);
      auto& child = children_[folder];
      if (!child) child = std::make_shared<Parameters>();
      owner = child.get();
    }
    static_cast<Parameters*>(owner)->register_parameter(name.substr(dot + 1), value.clone());
  }
  void finish() {
    for (const auto& [name, child] : children_) register_module(name, child);
  }

 private:
  std::map<std::string, std::shared_ptr<Parameters>> children_;
};

Schedule schedule_of(const json& config) {
  return {.peak = config.at("lr"),
          .floor = config.at("eta_min"),
          .warmup = config.at("warmup"),
          .cosine = config.at("T_max")};
}

void check_case(const test::GoldenCase& golden, torch::ScalarType type) {
  const test::GoldenTensors file(golden);
  const json& config = golden.config();
  const test::Tolerance exact = golden.tolerance("float64");
  const test::Tolerance tolerance = type == torch::kDouble ? exact : golden.tolerance("float32");
  const Schedule schedule = schedule_of(config);

  Parameters module;
  for (const char* group : {"decay", "no_decay"}) {
    for (const std::string name : config.at(group)) {
      const auto value = file["param." + name].to(type);
      EXPECT_EQ(is_decayed(name, value), std::string(group) == "decay") << name;
      module.add(name, value);
    }
  }
  module.finish();
  const auto parameters = module.named_parameters();
  Optimizer optimizer(module, {.beta1 = config.at("betas").at(0),
                               .beta2 = config.at("betas").at(1),
                               .eps = config.at("eps"),
                               .weight_decay = config.at("weight_decay"),
                               .max_grad_norm = config.at("clip")});
  const std::int64_t steps = config.at("steps");
  auto rates = torch::empty({steps}, torch::kDouble), norms = torch::empty_like(rates);
  int compared = 0;
  for (std::int64_t n = 0; n < steps; ++n) {
    optimizer.zero_grad();
    for (const auto& item : parameters)
      item.value().mutable_grad() = file["grads." + item.key()][n].to(type).clone();
    rates[n] = schedule.rate(n);
    norms[n] = optimizer.step(schedule.rate(n));
    for (const auto& item : parameters) {
      const std::string name = fmt::format("after_{}.{}", n + 1, item.key());
      if (!file.has(name)) continue;
      test::expect_close(item.value(), file[name], tolerance, name);
      ++compared;
    }
  }
  EXPECT_GT(compared, 0);
  test::expect_close(rates, file["lr"], exact, "lr");
  test::expect_close(norms, file["grad_norm"], tolerance, "grad_norm");
  for (const auto& item : parameters) {
    for (const std::string moment : {"exp_avg", "exp_avg_sq"}) {
      const std::string name = moment + "." + item.key();
      test::expect_close(
          moment == "exp_avg" ? optimizer.exp_avg(item.key()) : optimizer.exp_avg_sq(item.key()),
          file[name], tolerance, name);
    }
  }

  // LRAM's own schedule, which is Schedule's default.
  const Schedule lram;
  const auto micro_steps = file["lram_steps"];
  auto got = torch::empty(micro_steps.sizes(), torch::kDouble);
  for (std::int64_t i = 0; i < micro_steps.numel(); ++i)
    got[i] = lram.rate(micro_steps[i].item<std::int64_t>());
  test::expect_close(got, file["lram_lr"], exact, "lram_lr");
}

TEST(Optimizer, GoldenStepsAdamw) {
  LRAM_SKIP_WITHOUT_GOLDEN("baselines");
  for (const auto& golden : test::golden_cases(
           "baselines", "adamw",
           [](const test::GoldenCase& one) { return one.class_has("torch.optim.AdamW"); })) {
    for (const auto type : {torch::kDouble, torch::kFloat}) {
      SCOPED_TRACE(golden.name() + " " + torch::toString(type));
      check_case(golden, type);
    }
  }
}

TEST(Schedule, LineThenCosineThenFloor) {
  const Schedule schedule{.peak = 1.0, .floor = 0.2, .warmup = 4, .cosine = 10};
  EXPECT_DOUBLE_EQ(schedule.rate(0), 0.25);
  EXPECT_DOUBLE_EQ(schedule.rate(3), 1.0);
  EXPECT_DOUBLE_EQ(schedule.rate(4), 1.0);
  EXPECT_DOUBLE_EQ(schedule.rate(9), 0.6);  // halfway
  EXPECT_DOUBLE_EQ(schedule.rate(14), 0.2);
  EXPECT_DOUBLE_EQ(schedule.rate(1000), 0.2);
}

TEST(Optimizer, FirstStepMovesByTheRateAndDecay) {
  // Adam's first step is rate * sign(gradient) up to eps; decay takes rate * decay of a weight.
  Parameters module;
  module.add("a.weight", torch::full({1, 1}, 2.0, torch::kDouble));
  module.add("a.bias", torch::full({1}, 2.0, torch::kDouble));
  module.finish();
  Optimizer optimizer(module, {.weight_decay = 0.5, .max_grad_norm = 0.0});
  const auto parameters = module.named_parameters();
  parameters["a.weight"].mutable_grad() = torch::full({1, 1}, 3.0, torch::kDouble);
  parameters["a.bias"].mutable_grad() = torch::full({1}, -4.0, torch::kDouble);
  EXPECT_DOUBLE_EQ(optimizer.step(0.1), 5.0);
  EXPECT_NEAR(parameters["a.weight"].item<double>(), 2.0 * (1 - 0.1 * 0.5) - 0.1, 1e-8);
  EXPECT_NEAR(parameters["a.bias"].item<double>(), 2.0 + 0.1, 1e-8);
}

TEST(Optimizer, NonFiniteGradientChangesNothing) {
  Parameters module;
  module.add("a.bias", torch::ones({2}));
  module.finish();
  Optimizer optimizer(module, {});
  const auto parameter = module.named_parameters()["a.bias"];
  parameter.mutable_grad() = torch::tensor({1.0f, std::numeric_limits<float>::quiet_NaN()});
  EXPECT_TRUE(std::isnan(optimizer.step(0.1)));
  EXPECT_TRUE(torch::equal(parameter, torch::ones({2})));
  EXPECT_EQ(optimizer.num_steps(), 0);
}

TEST(Optimizer, StepOnDeviceEqualsStep) {
  for (std::int64_t seed = 0; seed < 20; ++seed) {
    torch::manual_seed(seed);
    Parameters modules[2];
    const std::int64_t rows = 1 + seed % 5, columns = 1 + seed % 7;
    const torch::Tensor weight = torch::randn({rows, columns}), bias = torch::randn({rows});
    for (Parameters& module : modules) {
      module.add("a.weight", weight.clone());
      module.add("a.bias", bias.clone());
      module.add("unused.weight", torch::ones({2, 2}));
      module.finish();
    }
    const OptimizerConfig config = {.weight_decay = 0.1, .max_grad_norm = seed % 2 ? 0.5 : 0.0};
    Optimizer plain(modules[0], config), device(modules[1], config);
    device.count_on_device();
    for (int n = 0; n < 6; ++n) {
      const bool bad = n == 3;  // a step that nothing comes of
      const double rate = 0.01 * (n + 1);
      for (const char* name : {"a.weight", "a.bias"}) {
        torch::Tensor gradient = torch::randn_like(modules[0].named_parameters()[name]);
        if (bad) gradient.view({-1})[0] = std::numeric_limits<float>::infinity();
        for (Parameters& module : modules)
          module.named_parameters()[name].mutable_grad() = gradient.clone();
      }
      const double norm = plain.step(rate);
      const torch::Tensor on_device = device.step_on_device(torch::tensor(rate, torch::kFloat32));
      if (bad) {
        EXPECT_FALSE(std::isfinite(on_device.item<double>()));
      } else {
        EXPECT_NEAR(on_device.item<double>(), norm, 1e-6 * norm);
      }
      EXPECT_EQ(device.num_steps(), plain.num_steps());
      for (const auto& item : modules[0].named_parameters()) {
        const torch::Tensor got = modules[1].named_parameters()[item.key()];
        EXPECT_TRUE(torch::allclose(got, item.value(), 1e-5, 1e-6)) << item.key() << ", step " << n;
        EXPECT_TRUE(torch::allclose(device.exp_avg_sq(item.key()), plain.exp_avg_sq(item.key()),
                                    1e-5, 1e-9));
      }
    }
    const Optimizer::Snapshot kept = device.snapshot();
    const torch::Tensor before = modules[1].named_parameters()["a.bias"].detach().clone();
    device.step_on_device(torch::tensor(0.1f));
    EXPECT_FALSE(torch::equal(modules[1].named_parameters()["a.bias"], before));
    device.restore(kept);
    EXPECT_TRUE(torch::equal(modules[1].named_parameters()["a.bias"], before));
    EXPECT_EQ(device.num_steps(), plain.num_steps());
  }
}

TEST(Optimizer, StateGoesThroughAFile) {
  const test::TempFolder folder;
  const fs::path path = folder.path() / "optimizer.safetensors";
  Parameters module;
  module.add("a.weight", torch::ones({2, 3}));
  module.finish();
  const auto parameter = module.named_parameters()["a.weight"];
  Optimizer first(module, {});
  for (int n = 0; n < 3; ++n) {
    parameter.mutable_grad() = torch::full({2, 3}, 0.1f * static_cast<float>(n + 1));
    first.step(0.01);
  }
  first.save(path);
  Optimizer second(module, {});
  second.load(path);
  EXPECT_EQ(second.num_steps(), 3);
  EXPECT_TRUE(torch::equal(second.exp_avg("a.weight"), first.exp_avg("a.weight")));
  EXPECT_TRUE(torch::equal(second.exp_avg_sq("a.weight"), first.exp_avg_sq("a.weight")));

  Parameters other;
  other.add("a.weight", torch::ones({2, 4}));
  other.finish();
  Optimizer third(other, {});
  try {
    third.load(path);
    FAIL() << "a state of another shape was taken";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kInput);
    EXPECT_EQ(error.what(),
              path.string() + ": tensor 'exp_avg.a.weight' has shape [2, 3], wanted [2, 4]");
  }
}
}  // namespace
}  // namespace lram::training::optimizer_test
