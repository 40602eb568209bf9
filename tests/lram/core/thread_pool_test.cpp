#include "lram/core/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>

namespace lram::thread_pool_test {
namespace {
TEST(ThreadPool, RunsEveryIndexOnceWhateverTheThreads) {
  for (const std::size_t threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.size(), threads);
    for (int round = 0; round < 200; ++round) {
      std::vector<std::atomic<int>> runs(37);
      pool.for_each(runs.size(), [&](std::size_t index, std::size_t worker) {
        ASSERT_LT(worker, threads);
        ++runs[index];
      });
      for (const auto& count : runs)
        ASSERT_EQ(count, 1) << "threads " << threads << " round " << round;
    }
  }
}

TEST(ThreadPool, ThrowsOnWhatABodyThrew) {
  ThreadPool pool(3);
  EXPECT_THROW(pool.for_each(10,
                             [](std::size_t index, std::size_t) {
                               if (index == 4) throw std::runtime_error("four");
                             }),
               std::runtime_error);
  int sum = 0;
  pool.for_each(1, [&](std::size_t, std::size_t) { ++sum; });
  EXPECT_EQ(sum, 1);
}
}  // namespace
}  // namespace lram::thread_pool_test
