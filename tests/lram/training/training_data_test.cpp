#include "lram/training/training_data.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>

#include "lram/core/error.h"
#include "tests/lram/training/toy_data.h"
#include "tests/support/temp_folder.h"

namespace lram::training::training_data_test {
namespace {
using test::continuous_task;

std::string error_of(const DataConfig& config, ErrorKind kind) {
  try {
    TrainingData data(config);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "no error";
  return "";
}

TEST(TrainingData, GroupsTasksIntoDomainsByFirstFile) {
  const lram::test::TempFolder folder;
  const TrainingData data(test::write_toy_data(folder.path()));
  ASSERT_EQ(data.tasks().size(), 3u);
  ASSERT_EQ(data.domains().size(), 2u);
  EXPECT_EQ(data.domains()[0].name, "toy");
  EXPECT_EQ(data.domains()[0].tasks, (std::vector<std::size_t>{0, 2}));
  EXPECT_EQ(data.domains()[1].name, "grid");
  EXPECT_EQ(data.domains()[1].tasks, (std::vector<std::size_t>{1}));
  EXPECT_EQ(data.sources(data.domains()[0], Half::kTrain)[1].data, &data.tasks()[2].data);
}

TEST(TrainingData, MeasuresTheTrainingHalf) {
  const lram::test::TempFolder folder;
  const TrainingData data(test::write_toy_data(folder.path()));
  for (const TrainingTask& task : data.tasks()) {
    EXPECT_GE(task.split.validation.size(), 1u);
    EXPECT_EQ(task.split.train.size() + task.split.validation.size(), 12u);
    double best = -std::numeric_limits<double>::infinity(), sum = 0.0;
    for (const std::int64_t episode : task.split.train) {
      best = std::max(best, task.data.episode(episode).episode_return);
      sum += task.data.episode(episode).episode_return;
    }
    EXPECT_DOUBLE_EQ(task.entry.target_return, best);
    EXPECT_NEAR(task.entry.data_mean, sum / static_cast<double>(task.split.train.size()), 1e-9);
    EXPECT_EQ(task.entry.reward_scale, task.entry.spec.domain() == "toy" ? 10.0 : 1.0);
    EXPECT_EQ(task.entry.last_seed, task.entry.first_seed + 11);
    EXPECT_EQ(std::ssize(task.entry.obs_mean), task.entry.spec.observation.vector_size);
  }
  EXPECT_EQ(data.table().at("toy/push").first_seed, 300u);
}

TEST(TrainingData, ObservationsCanStayAsTheyAre) {
  const lram::test::TempFolder folder;
  DataConfig config = test::write_toy_data(folder.path());
  config.obs_normalization = "none";
  EXPECT_TRUE(TrainingData(config).tasks()[0].entry.obs_mean.empty());
  config.obs_normalization = "no";
  EXPECT_EQ(error_of(config, ErrorKind::kUsage),
            "data.obs_normalization is 'no', wanted on or none");
}

TEST(TrainingData, RefusesWhatCannotBeTrainedOn) {
  const lram::test::TempFolder folder, other;
  DataConfig config;
  EXPECT_EQ(error_of(config, ErrorKind::kUsage),
            "data.files is empty, wanted data sets: a.h5,b.h5");

  const TaskSpec spec = continuous_task("toy/reach", 3, 2);
  const std::string good = test::write_task(folder.path(), spec, 1);
  config.files = good + "," + test::write_task(other.path(), spec, 1);
  EXPECT_NE(error_of(config, ErrorKind::kUsage).find("both hold task 'toy/reach'"),
            std::string::npos);

  config.files = good + "," + (folder.path() / "absent.h5").string();
  EXPECT_NE(error_of(config, ErrorKind::kInput).find("absent.h5"), std::string::npos);

  config.files = folder.path() / "bad.h5";
  datasets::DatasetWriter writer(config.files, spec, {"toy", "1"});
  datasets::Episode episode = test::toy_episode(spec, 1);
  episode.observations[4] = std::numeric_limits<float>::quiet_NaN();  // row 1, column 1
  writer.append(episode);
  writer.append(episode);
  writer.finish();
  EXPECT_NE(error_of(config, ErrorKind::kInput)
                .find("bad.h5: /observations of episode 0, row 1, column 1 is nan"),
            std::string::npos);
}

TEST(TrainingData, FingerprintTellsContentsApart) {
  const lram::test::TempFolder folder, other, third;
  const TaskSpec spec = continuous_task("toy/reach", 3, 2);
  DataConfig a, b, c;
  a.files = test::write_task(folder.path(), spec, 1);
  b.files = test::write_task(other.path(), spec, 1);
  c.files = test::write_task(third.path(), spec, 2);
  EXPECT_EQ(TrainingData(a).fingerprint(), TrainingData(b).fingerprint());
  EXPECT_NE(TrainingData(a).fingerprint(), TrainingData(c).fingerprint());
}
}  // namespace
}  // namespace lram::training::training_data_test
