#pragma once
#include <array>
#include <cmath>
#include <cstdint>
#include <numbers>

namespace lram {

/// Counter-based random numbers, Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as
/// easy as 1, 2, 3"): the draw is a pure function of (seed, stream, counter), so a resumed or
/// re-ordered run draws the same numbers. Purposes and rows take streams of their own.
class CounterRng {
 public:
  explicit CounterRng(std::uint64_t seed, std::uint64_t stream = 0, std::uint64_t start = 0)
      : seed_(seed), stream_(stream), counter_(start) {}

  /// The four words at (seed, stream, counter).
  static std::array<std::uint32_t, 4> block(std::uint64_t seed, std::uint64_t stream,
                                            std::uint64_t counter);

  std::uint32_t next_u32() {
    if (used_ == 4) {
      words_ = block(seed_, stream_, counter_++);
      used_ = 0;
    }
    return words_[used_++];
  }
  std::uint64_t next_u64() {
    const std::uint64_t high = next_u32();
    return high << 32 | next_u32();
  }
  /// Uniform in [0, 1) with 53 bits.
  double uniform() { return static_cast<double>(next_u64() >> 11) * 0x1.0p-53; }
  /// Uniform in [0, n), without bias. n >= 1.
  std::uint64_t below(std::uint64_t n) {
    const std::uint64_t limit = ~std::uint64_t{0} - (~std::uint64_t{0} % n + 1) % n;
    std::uint64_t draw = next_u64();
    while (draw > limit) draw = next_u64();
    return draw % n;
  }
  /// Standard normal (Box and Muller).
  double normal() {
    if (has_spare_) {
      has_spare_ = false;
      return spare_;
    }
    const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform()));
    const double angle = 2.0 * std::numbers::pi * uniform();
    spare_ = radius * std::sin(angle);
    has_spare_ = true;
    return radius * std::cos(angle);
  }

 private:
  std::uint64_t seed_, stream_, counter_;
  std::array<std::uint32_t, 4> words_{};
  int used_ = 4;
  bool has_spare_ = false;
  double spare_ = 0.0;
};

}  // namespace lram
