#include "datasets/reader.h"

#include <gtest/gtest.h>
#include <hdf5.h>

#include <fstream>
#include <thread>

#include "lram/core/crc32c.h"
#include "tests/datasets/fixtures.h"
#include "tests/support/temp_folder.h"

namespace lram::datasets {
namespace {
using test::error_of;

TEST(Dataset, WriteThenReadReturnsTheEpisodes) {
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    SCOPED_TRACE(seed);
    const test::TempFolder folder;
    CounterRng rng(seed);
    const TaskSpec spec = test::random_task(rng);
    const auto episodes = test::random_episodes(spec, 1 + static_cast<int>(rng.below(7)), 30, rng);
    const auto path = folder.path() / "data.h5";
    test::write_dataset(path, spec, episodes);

    const Dataset data(path);
    EXPECT_EQ(data.spec(), spec);
    EXPECT_EQ(data.generator(), (Generator{"test", "1"}));
    ASSERT_EQ(data.num_episodes(), std::ssize(episodes));
    std::int64_t steps = 0;
    for (std::int64_t e = 0; e < data.num_episodes(); ++e) {
      test::expect_same_episode(data.episode(e), view(episodes[static_cast<std::size_t>(e)]));
      steps += data.length(e);
    }
    EXPECT_EQ(data.num_steps(), steps);
    EXPECT_FALSE(std::filesystem::exists(journal_path(path)));
  }
}
}  // namespace
}  // namespace lram::datasets
