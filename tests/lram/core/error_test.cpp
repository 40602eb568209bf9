#include "lram/core/error.h"

#include <gtest/gtest.h>

namespace lram::error_test {
namespace {
TEST(NearestName, FindsATypoAndRefusesAStranger) {
  const std::vector<std::string> known = {"train.batch_size", "train.peak_lr", "model.embed_dim"};
  EXPECT_EQ(nearest_name("train.batchsize", known), "train.batch_size");
  EXPECT_EQ(nearest_name("train.peak_rl", known), "train.peak_lr");
  EXPECT_EQ(nearest_name("zzz", known), "");
}

TEST(Error, CarriesItsExitCode) {
  try {
    throw_error(ErrorKind::kInput, "{}: {} columns, wanted {}", "a.h5", 6, 1);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kInput);
    EXPECT_EQ(static_cast<int>(error.kind()), 3);
    EXPECT_STREQ(error.what(), "a.h5: 6 columns, wanted 1");
  }
}

TEST(Check, NamesPlaceAndCondition) {
  const int n = 0;
  try {
    LRAM_CHECK(n > 0, "num_envs is ", n, ", wanted at least 1");
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find("num_envs is 0, wanted at least 1"), std::string::npos) << text;
    EXPECT_NE(text.find("error_test.cpp:"), std::string::npos) << text;
    EXPECT_NE(text.find("n > 0"), std::string::npos) << text;
  }
}
}  // namespace
}  // namespace lram::error_test
