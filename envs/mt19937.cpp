#include "envs/mt19937.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>
#include <utility>

namespace lram::envs {
namespace {
constexpr std::uint32_t kWords = 624, kShift = 397;
}

Mt19937::Mt19937(std::uint64_t seed) {
  const std::array<std::uint32_t, 2> words = {static_cast<std::uint32_t>(seed),
                                              static_cast<std::uint32_t>(seed >> 32)};
  if (words[1] == 0)
    seed_word(words[0]);
  else
    seed_array(words);
}

Mt19937::Mt19937(std::span<const std::uint32_t> key) { seed_array(key); }

void Mt19937::seed_word(std::uint32_t seed) {
  state_ = {};
  state_.key[0] = seed;
  for (std::uint32_t i = 1; i < kWords; ++i) {
    const std::uint32_t last = state_.key[i - 1];
    state_.key[i] = 1812433253u * (last ^ (last >> 30)) + i;
  }
  state_.position = kWords;
}

void Mt19937::seed_array(std::span<const std::uint32_t> key) {
  seed_word(19650218u);
  auto& words = state_.key;
  std::uint32_t i = 1;
  const auto mixed = [&](std::uint32_t factor) {
    const std::uint32_t last = words[i - 1];
    return words[i] ^ ((last ^ (last >> 30)) * factor);
  };
  const auto advance = [&] {
    if (++i == kWords) {
      words[0] = words[kWords - 1];
      i = 1;
    }
  };
  std::size_t j = 0;
  for (std::size_t round = std::max<std::size_t>(kWords, key.size()); round > 0; --round) {
    words[i] = mixed(1664525u) + key[j] + static_cast<std::uint32_t>(j);
    advance();
    if (++j == key.size()) j = 0;
  }
  for (std::uint32_t round = kWords - 1; round > 0; --round) {
    words[i] = mixed(1566083941u) - i;
    advance();
  }
  words[0] = 0x80000000u;
}

void Mt19937::twist() {
  auto& words = state_.key;
  for (std::uint32_t i = 0; i < kWords; ++i) {
    const std::uint32_t y = (words[i] & 0x80000000u) | (words[(i + 1) % kWords] & 0x7fffffffu);
    words[i] = words[(i + kShift) % kWords] ^ (y >> 1) ^ ((y & 1u) != 0 ? 0x9908b0dfu : 0u);
  }
  state_.position = 0;
}

std::uint32_t Mt19937::next_u32() {
  if (state_.position == kWords) twist();
  std::uint32_t y = state_.key[state_.position++];
  y ^= y >> 11;
  y ^= (y << 7) & 0x9d2c5680u;
  y ^= (y << 15) & 0xefc60000u;
  return y ^ (y >> 18);
}

double Mt19937::random_sample() {
  const double high = next_u32() >> 5;
  const double low = next_u32() >> 6;
  return (high * 67108864.0 + low) / 9007199254740992.0;
}

double Mt19937::uniform(double low, double high) {
  return low + (high - low) * random_sample();  // rounded twice: built with -ffp-contract=off
}

double Mt19937::randn() {
  if (state_.has_gauss != 0) {
    state_.has_gauss = 0;
    return std::exchange(state_.gauss, 0.0);
  }
  double x, y, square;
  do {
    x = 2.0 * random_sample() - 1.0;
    y = 2.0 * random_sample() - 1.0;
    square = x * x + y * y;
  } while (square >= 1.0 || square == 0.0);
  const double scale = std::sqrt(-2.0 * std::log(square) / square);
  state_.gauss = scale * x;
  state_.has_gauss = 1;
  return scale * y;
}

std::uint64_t Mt19937::at_most(std::uint64_t max) {
  if (max == 0) return 0;
  const std::uint64_t mask = ~std::uint64_t{0} >> std::countl_zero(max);
  const auto draw = [&]() -> std::uint64_t {
    if (max <= 0xffffffffu) return next_u32() & mask;
    const std::uint64_t high = next_u32();
    return (high << 32 | next_u32()) & mask;
  };
  std::uint64_t value = draw();
  while (value > max) value = draw();
  return value;
}

std::int64_t Mt19937::randint(std::int64_t low, std::int64_t high) {
  const auto from = static_cast<std::uint64_t>(low), to = static_cast<std::uint64_t>(high);
  return static_cast<std::int64_t>(from + at_most(to - from - 1));
}

std::vector<std::int64_t> Mt19937::permutation(std::int64_t n) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  for (std::size_t i = order.size(); i-- > 1;) std::swap(order[i], order[at_most(i)]);
  return order;
}

std::int64_t Mt19937::choice(std::span<const double> probabilities) {
  std::vector<double> sums(probabilities.size());
  std::partial_sum(probabilities.begin(), probabilities.end(), sums.begin());
  const double draw = random_sample();
  const auto at =
      std::find_if(sums.begin(), sums.end(), [&](double sum) { return sum / sums.back() > draw; });
  return at - sums.begin();
}
}  // namespace lram::envs
