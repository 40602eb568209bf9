#include "lram/core/rng.h"

#include <gtest/gtest.h>

namespace lram::rng_test {
namespace {
// The published test vectors of Random123 (kat_vectors, philox4x32 10).
TEST(CounterRng, GivesThePublishedVectors) {
  using Words = std::array<std::uint32_t, 4>;
  EXPECT_EQ(CounterRng::block(0, 0, 0), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  constexpr std::uint64_t kOnes = ~std::uint64_t{0};
  EXPECT_EQ(CounterRng::block(kOnes, kOnes, kOnes),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(CounterRng::block(0x299f31d0a4093822, 0x0370734413198a2e, 0x85a308d3243f6a88),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(CounterRng, GoesOnFromAnyCounter) {
  CounterRng whole(7, 3);
  for (int i = 0; i < 8; ++i) whole.next_u32();
  CounterRng later(7, 3, 2);  // four words a counter
  for (int i = 0; i < 16; ++i) EXPECT_EQ(whole.next_u32(), later.next_u32());
}

TEST(CounterRng, HasTheMomentsOfItsDistributions) {
  CounterRng rng(1);
  constexpr int kDraws = 200000;
  double uniform = 0, normal = 0, square = 0;
  std::array<int, 3> counts{};
  for (int i = 0; i < kDraws; ++i) {
    uniform += rng.uniform();
    const double x = rng.normal();
    normal += x;
    square += x * x;
    ++counts[rng.below(3)];
  }
  EXPECT_NEAR(uniform / kDraws, 0.5, 0.004);  // 6 sigma
  EXPECT_NEAR(normal / kDraws, 0.0, 0.014);
  EXPECT_NEAR(square / kDraws, 1.0, 0.019);
  for (int count : counts) EXPECT_NEAR(count, kDraws / 3, 1300);
}
}  // namespace
}  // namespace lram::rng_test
