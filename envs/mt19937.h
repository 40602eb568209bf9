#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace lram::envs {

/// numpy's RandomState: the generator of Matsumoto and Nishimura (1998) and numpy's legacy ways to
/// turn its words into numbers, so that a seed draws what it draws in Python, to the bit.
class Mt19937 {
 public:
  /// Plain data: may be copied as bytes.
  struct State {
    std::array<std::uint32_t, 624> key;
    std::uint32_t position;   ///< of the next word in `key`; 624 = twist first
    std::uint32_t has_gauss;  ///< 1: `gauss` is the next normal
    double gauss;
  };

  /// RandomState(seed) for seeds of 32 bits; a wider one is RandomState([low word, high word]).
  explicit Mt19937(std::uint64_t seed);
  /// RandomState(key). `key` holds at least one word.
  explicit Mt19937(std::span<const std::uint32_t> key);
  explicit Mt19937(const State& state) : state_(state) {}
  const State& state() const { return state_; }

  std::uint32_t next_u32();
  /// Uniform in [0, 1) with 53 bits.
  double random_sample();
  double uniform(double low, double high);
  /// Standard normal by the polar method; every second call returns the cached half of a pair.
  double randn();
  double normal(double mean, double deviation) { return mean + deviation * randn(); }
  /// Uniform in [low, high). high > low.
  std::int64_t randint(std::int64_t low, std::int64_t high);
  /// 0 .. n-1 in random order.
  std::vector<std::int64_t> permutation(std::int64_t n);
  /// An index with the given probabilities, choice(len(p), p=p).
  std::int64_t choice(std::span<const double> probabilities);

 private:
  void seed_word(std::uint32_t seed);
  void seed_array(std::span<const std::uint32_t> key);
  void twist();
  std::uint64_t at_most(std::uint64_t max);  ///< uniform in [0, max], masked rejection

  State state_{};
};

}  // namespace lram::envs
