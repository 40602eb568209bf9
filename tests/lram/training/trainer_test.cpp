#include "lram/training/trainer.h"

#include <gtest/gtest.h>
#include <torch/cuda.h>
#include <torch/utils.h>

#include <nlohmann/json.hpp>

#include "lram/core/error.h"
#include "lram/core/file.h"
#include "lram/model/action_loss.h"
#include "lram/model/tensor_io.h"
#include "tests/lram/training/toy_data.h"
#include "tests/support/temp_folder.h"

namespace lram::training::trainer_test {
namespace {
namespace fs = std::filesystem;

class TrainerTest : public testing::Test {
 protected:
  void SetUp() override { torch::set_num_threads(1); }

  std::shared_ptr<model::Policy> policy(std::int64_t num_bins = 256) const {
    torch::manual_seed(3);
    model::PolicyConfig config = test::tiny_policy();
    config.num_bins = num_bins;
    auto made = std::make_shared<model::Policy>(config);
    made->set_tasks(data_.table());
    return made;
  }
  fs::path save(const Trainer& trainer, const std::string& name) const {
    const fs::path path = folder_.path() / name;
    make_folder(path);
    trainer.save(path);
    return path;
  }
  void expect_same_files(const fs::path& a, const fs::path& b) const {
    std::size_t files = 0;
    for (const auto& item : fs::recursive_directory_iterator(a)) {
      if (item.is_directory()) continue;
      const fs::path name = item.path().lexically_relative(a);
      EXPECT_TRUE(read_file(item.path()) == read_file(b / name)) << name << " differs";
      ++files;
    }
    EXPECT_GE(files, 4u);
  }

  lram::test::TempFolder folder_;
  TrainingData data_{test::write_toy_data(folder_.path())};
};

/// Losses of every task, in order, as they would be logged.
std::vector<double> losses(const StepReport& report) {
  std::vector<double> out;
  for (const auto& [task, tally] : report.tallies) out.push_back(tally.loss / tally.count);
  out.push_back(report.grad_norm);
  return out;
}

TEST_F(TrainerTest, LearnsTheToyTasks) {
  Trainer trainer(test::tiny_training(), policy(/*num_bins=*/8), data_);
  const Metrics before = summarize("valid", trainer.validate());
  for (int n = 0; n < 200; ++n) trainer.step();
  const Metrics after = summarize("valid", trainer.validate());
  // Eight bins begin at log 8 = 2.1 nats, three actions at 1.1.
  EXPECT_NEAR(before.at("valid/loss/toy"), 2.1, 0.3);
  EXPECT_NEAR(before.at("valid/loss/grid"), 1.1, 0.3);
  EXPECT_LT(after.at("valid/loss/toy"), 1.4);
  EXPECT_LT(after.at("valid/loss/grid"), 0.5);
  EXPECT_GT(after.at("valid/accuracy/grid"), 0.8);
  EXPECT_DOUBLE_EQ(after.at("valid/loss"),
                   (after.at("valid/loss/toy") + after.at("valid/loss/grid")) / 2);
}

TEST_F(TrainerTest, ValidationIsTheSameEveryTime) {
  for (const bool carry : {false, true}) {
    TrainConfig config = test::tiny_training();
    config.carry_state = carry;
    Trainer trainer(config, policy(), data_);
    const TaskTallies first = trainer.validate();
    EXPECT_EQ(trainer.validate(), first);
    EXPECT_EQ(first.size(), 3u);
  }
}

TEST_F(TrainerTest, ResumedRunEqualsTheUninterruptedOneBitForBit) {
  for (const bool carry : {false, true}) {
    SCOPED_TRACE(carry ? "carried state" : "fresh windows");
    TrainConfig config = test::tiny_training();
    config.carry_state = carry;
    const int half = carry ? 40 : 100;
    const std::string suffix = carry ? "_carried" : "_fresh";

    Trainer straight(config, policy(), data_);
    std::vector<std::vector<double>> want, got;
    for (int n = 0; n < 2 * half; ++n) want.push_back(losses(straight.step()));

    fs::path middle;
    {
      Trainer first(config, policy(), data_);
      for (int n = 0; n < half; ++n) got.push_back(losses(first.step()));
      middle = save(first, "middle" + suffix);
      first.step();  // done after the checkpoint and lost
    }
    // No manifest here: that is CheckpointFolder's.
    auto loaded = policy();
    model::load_tensors(SafetensorsFile(middle / "model.safetensors"),
                        model::named_tensors(*loaded));
    Trainer second(config, loaded, data_);
    second.restore(middle);
    EXPECT_EQ(second.num_steps(), half);
    for (int n = 0; n < half; ++n) got.push_back(losses(second.step()));

    EXPECT_EQ(got, want);
    expect_same_files(save(straight, "straight" + suffix), save(second, "resumed" + suffix));
  }
}

TEST_F(TrainerTest, WindowsThatCarryTheirStateEqualTheWholeEpisode) {
  // With rate 0 the sums of the losses over an episode's windows equal those of the episode at
  // once.
  const std::string file = folder_.path() / "push.h5";
  const TrainingData data([&] {
    DataConfig config;
    config.files = file;
    return config;
  }());
  TrainConfig config = test::tiny_training();
  config.carry_state = true;
  config.batch_size = 1;
  config.peak_lr = config.min_lr = 0.0;
  auto shared = policy();
  Trainer trainer(config, shared, data);
  WindowStream windows(data.sources(data.domains()[0], Half::kTrain), 8, 1, true, config.seed, 0);
  double sum = 0.0;
  int episodes = 0;
  bool whole = false;  // the first episode is entered somewhere in it
  for (int n = 0; n < 60; ++n) {
    const datasets::Window window = windows.next().front();
    const StepReport report = trainer.step();
    if (window.start == 0) {
      sum = 0.0;
      whole = true;
    }
    sum += report.tallies.at("toy/push").loss;
    const std::int64_t length = data.tasks()[0].data.episode(window.episode).length();
    if (!whole || window.end < length) continue;
    const BatchBuilder builder(data, shared->config(), length);
    const MicroBatch batch = builder.build(
        data.domains()[0],
        std::vector<datasets::Window>{{.source = 0, .episode = window.episode, .end = length}});
    const torch::NoGradGuard no_grad;
    const auto logits = shared->forward(batch.inputs).logits.flatten(0, 2);
    const auto legal = builder.legal_classes().index_select(0, batch.legal_row);
    const double at_once =
        model::action_entry_losses(logits.index_select(0, batch.slot), batch.target, legal)
            .sum()
            .item<double>();
    EXPECT_NEAR(sum, at_once, 1e-4 * at_once);  // float32 sums in another order
    ++episodes;
  }
  EXPECT_GE(episodes, 5);
}

TEST_F(TrainerTest, NonFiniteLossStopsAndNamesStepAndDomain) {
  auto made = policy();
  Trainer trainer(test::tiny_training(), made, data_);
  trainer.step();
  const auto weights = made->named_parameters()["action_net.0.weight"].clone();
  {
    const torch::NoGradGuard no_grad;
    made->named_parameters()["action_net.0.bias"].fill_(std::nanf(""));
  }
  try {
    trainer.step();
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kCheckFailed);
    EXPECT_NE(std::string(error.what()).find("step 2: the loss of domain 'toy' is nan"),
              std::string::npos)
        << error.what();
  }
  EXPECT_TRUE(torch::equal(made->named_parameters()["action_net.0.weight"], weights));
}

TEST_F(TrainerTest, RefusesToResumeOnOtherData) {
  Trainer trainer(test::tiny_training(), policy(), data_);
  trainer.step();
  const fs::path checkpoint = save(trainer, "checkpoint");
  const lram::test::TempFolder other;
  DataConfig changed = test::write_toy_data(other.path());
  fs::remove(other.path() / "turn.h5");
  test::write_task(other.path(), test::discrete_task("grid/turn", 2), 201);
  const TrainingData data(changed);
  Trainer second(test::tiny_training(), policy(), data);
  try {
    second.restore(checkpoint);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    EXPECT_NE(std::string(error.what()).find("data.files: entry 2 is"), std::string::npos);
    EXPECT_NE(std::string(error.what()).find("turn.h5"), std::string::npos);
  }
}

TEST_F(TrainerTest, RefusesWhatCannotWork) {
  const auto error_of = [&](auto change, ErrorKind kind) -> std::string {
    TrainConfig config = test::tiny_training();
    change(config);
    try {
      Trainer trainer(config, policy(), data_);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), kind);
      return error.what();
    }
    return "no error";
  };
  EXPECT_EQ(error_of([](auto& c) { c.device = "tpu"; }, ErrorKind::kUsage),
            "train.device is 'tpu', wanted cpu, cuda or cuda:N");
  EXPECT_EQ(error_of([](auto& c) { c.warmup_steps = 500; }, ErrorKind::kUsage),
            "train.warmup_steps is 500, wanted at most train.steps, 200");
  EXPECT_EQ(error_of([](auto& c) { c.batch_size = 0; }, ErrorKind::kUsage),
            "train.batch_size is 0, wanted at least 1");
  if (!torch::cuda::is_available()) {
    EXPECT_NE(error_of([](auto& c) { c.device = "cuda"; }, ErrorKind::kResource)
                  .find("train.device is 'cuda', but LibTorch finds 0 GPUs here"),
              std::string::npos);
  }
}
}  // namespace
}  // namespace lram::training::trainer_test
