#include <algorithm>
#include <cmath>
#include <numeric>

#include "eval/probes/generators.h"
#include "lram/core/error.h"

namespace lram::eval::probes {
namespace {
constexpr double kPower = 0.01;  // a of Zoology: the weight of slot j is j^(a - 1)

/// `count` different numbers of [low, high), each order as likely.
std::vector<std::int32_t> distinct(std::int64_t count, std::int64_t low, std::int64_t high,
                                   CounterRng& rng) {
  std::vector<std::int32_t> out;
  while (std::ssize(out) < count) {
    const auto next = static_cast<std::int32_t>(
        low + static_cast<std::int64_t>(rng.below(static_cast<std::uint64_t>(high - low))));
    if (std::find(out.begin(), out.end(), next) == out.end()) out.push_back(next);
  }
  return out;
}

/// `count` of the slots 0 ... slots-1, drawn one after the other without replacement, slot s with
/// weight (s + 1)^(a - 1): the smallest of exponential clocks of these rates, in that order.
std::vector<std::int64_t> query_slots(std::int64_t count, std::int64_t slots, CounterRng& rng) {
  std::vector<double> rings;
  for (std::int64_t slot = 0; slot < slots; ++slot)
    rings.push_back(-std::log1p(-rng.uniform()) /
                    std::pow(static_cast<double>(slot + 1), kPower - 1.0));
  std::vector<std::int64_t> order(static_cast<std::size_t>(slots));
  std::iota(order.begin(), order.end(), 0);
  std::partial_sort(
      order.begin(), order.begin() + count, order.end(), [&](std::int64_t a, std::int64_t b) {
        return rings[static_cast<std::size_t>(a)] < rings[static_cast<std::size_t>(b)];
      });
  order.resize(static_cast<std::size_t>(count));
  return order;
}
}  // namespace

Task recall(const TaskOptions& options) {
  const std::int64_t vocab = options.vocab_size, pairs = options.num_pairs;
  LRAM_CHECK(pairs >= 1, "probe recall: num_pairs is ", pairs, ", wanted at least 1");
  LRAM_CHECK(vocab % 2 == 0 && vocab > 4 * pairs, "probe recall: vocab_size is ", vocab,
             ", wanted an even number above 4 x num_pairs = ", 4 * pairs);
  return {.summary = "the value that a key was given, many keys, asked once each",
          .vocab_size = vocab,
          .chance = 2.0 / static_cast<double>(vocab),
          .min_length = 4 * pairs,
          .length_step = 2,
          .generate = [vocab, pairs, random_filler = options.random_filler](std::int64_t length,
                                                                            CounterRng& rng) {
            const auto keys = distinct(pairs, 1, vocab / 2, rng);
            const auto values = distinct(pairs, vocab / 2, vocab, rng);
            Sequence out;
            for (std::size_t i = 0; i < keys.size(); ++i) {
              out.tokens.push_back(keys[i]);
              out.tokens.push_back(values[i]);
            }
            while (std::ssize(out.tokens) < length)
              out.tokens.push_back(random_filler ? static_cast<std::int32_t>(
                                                       rng.below(static_cast<std::uint64_t>(vocab)))
                                                 : kPad);
            out.labels.assign(out.tokens.size(), kNotScored);
            const auto slots = query_slots(pairs, (length - 2 * pairs) / 2, rng);
            for (std::size_t i = 0; i < keys.size(); ++i) {
              const auto place = static_cast<std::size_t>(2 * pairs + 2 * slots[i]);
              out.tokens[place] = keys[i];
              out.labels[place] = values[i];
            }
            return out;
          }};
}

}  // namespace lram::eval::probes
