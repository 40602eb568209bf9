// Training on a GPU through LibTorch against the CPU.
#include <gtest/gtest.h>
#include <torch/cuda.h>
#include <torch/utils.h>

#include "lram/model/action_loss.h"
#include "lram/model/kernel_call.h"
#include "lram/training/trainer.h"
#include "tests/lram/training/toy_data.h"
#include "tests/support/temp_folder.h"

namespace lram::training {
namespace {
// float32 sums of a few thousand terms in another order, through two blocks.
constexpr double kLossTol = 1e-4;
constexpr double kGradientTol = 2e-3;  // relative L2 of each parameter's gradient

#define LRAM_SKIP_WITHOUT_GPU() \
  if (!torch::cuda::is_available()) GTEST_SKIP() << "no NVIDIA GPU that LibTorch can use"

class CudaTest : public testing::Test {
 protected:
  std::shared_ptr<model::Policy> policy(const model::PolicyConfig& config) const {
    torch::manual_seed(3);
    auto made = std::make_shared<model::Policy>(config);
    made->set_tasks(data_.table());
    return made;
  }
  static model::PolicyConfig gpt2() {
    model::PolicyConfig config = test::tiny_policy();
    config.backbone = "gpt2";
    config.slstm_at.clear();
    config.max_episode_steps = 40;
    return config;
  }
  struct Gradients {
    double loss = 0.0;
    std::map<std::string, torch::Tensor> of;  // by parameter, float64 on the CPU
  };
  Gradients gradients(const model::PolicyConfig& config, const torch::Device& device) const {
    const BatchBuilder builder(data_, config, config.context_length);
    const TrainingDomain& domain = data_.domains()[0];
    WindowStream windows(data_.sources(domain, Half::kTrain), config.context_length, 16, false, 1,
                         0);
    const MicroBatch batch = builder.build(domain, windows.next()).to(device);
    const auto made = policy(config);
    made->to(device);
    const auto logits =
        made->forward(batch.inputs).logits.flatten(0, 2).index_select(0, batch.slot);
    const auto legal = builder.legal_classes().to(device).index_select(0, batch.legal_row);
    const auto loss = model::action_entry_losses(logits, batch.target, legal).mean();
    loss.backward();
    Gradients out{loss.item<double>(), {}};
    for (const auto& item : made->named_parameters()) {
      if (item.value().grad().defined())
        out.of[item.key()] = item.value().grad().to(torch::kCPU, torch::kDouble);
    }
    return out;
  }
  lram::test::TempFolder folder_;
  TrainingData data_{test::write_toy_data(folder_.path())};
};

// The CPU's half comes first, so that a config which no longer holds fails without a GPU too.
TEST_F(CudaTest, LossAndGradientsEqualTheCpus) {
  std::vector<std::pair<model::PolicyConfig, Gradients>> cases;
  for (const model::PolicyConfig& config : {test::tiny_policy(), gpt2()}) {
    cases.emplace_back(config, gradients(config, torch::kCPU));
    EXPECT_GT(cases.back().second.of.size(), 10u) << config.backbone;
  }
  LRAM_SKIP_WITHOUT_GPU();
  for (const auto& [config, want] : cases) {
    SCOPED_TRACE(config.backbone);
    const Gradients got = gradients(config, torch::kCUDA);
    EXPECT_NEAR(got.loss, want.loss, kLossTol);
    EXPECT_EQ(got.of.size(), want.of.size());
    for (const auto& [name, gradient] : got.of) {
      EXPECT_LE((gradient - want.of.at(name)).norm().item<double>(),
                kGradientTol * want.of.at(name).norm().item<double>() + 1e-7)
          << name;
    }
  }
}

TEST_F(CudaTest, FirstStepsEqualTheCpus) {
  for (const bool carry : {false, true}) {
    SCOPED_TRACE(carry ? "carried state" : "fresh windows");
    TrainConfig config = test::tiny_training();
    config.carry_state = carry;
    Trainer cpu(config, policy(test::tiny_policy()), data_);
    LRAM_SKIP_WITHOUT_GPU();
    config.device = "cuda";
    Trainer gpu(config, policy(test::tiny_policy()), data_);
    for (int n = 0; n < 5; ++n) {
      const auto want = summarize("train", cpu.step().tallies);
      const auto got = summarize("train", gpu.step().tallies);
      for (const auto& [name, value] : want) {
        if (!name.starts_with("train/loss")) continue;
        EXPECT_NEAR(got.at(name), value, kLossTol * value) << name << " step " << n;
      }
    }
    const auto want = summarize("valid", cpu.validate());
    EXPECT_NEAR(summarize("valid", gpu.validate()).at("valid/loss"), want.at("valid/loss"),
                kLossTol * want.at("valid/loss"));
  }
}

TEST_F(CudaTest, FirstStepsAreAlikeWithAndWithoutOurKernels) {
  LRAM_SKIP_WITHOUT_GPU();
  TrainConfig config = test::tiny_training();
  config.device = "cuda";
  config.carry_state = true;
  std::vector<double> losses[2];
  for (const bool kernels : {false, true}) {
    const auto before =
        model::set_kernel_use(kernels ? model::KernelUse::kAlways : model::KernelUse::kNever);
    Trainer trainer(config, policy(test::tiny_policy()), data_);
    for (int n = 0; n < 20; ++n)
      losses[kernels].push_back(summarize("train", trainer.step().tallies).at("train/loss"));
    model::set_kernel_use(before);
  }
  // Rounding differences grow with the steps.
  for (std::size_t n = 0; n < losses[0].size(); ++n)
    EXPECT_NEAR(losses[1][n], losses[0][n], 10 * kLossTol * losses[0][n]) << "step " << n;
}
}  // namespace
}  // namespace lram::training
