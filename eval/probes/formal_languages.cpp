#include <array>
#include <string>
#include <utility>

#include "eval/probes/generators.h"

namespace lram::eval::probes {
namespace {
/// A sequence whose only question stands behind its last token.
Sequence ask_at_end(std::vector<std::int32_t> tokens, std::int32_t answer) {
  Sequence out{.tokens = std::move(tokens)};
  out.labels.assign(out.tokens.size(), kNotScored);
  out.labels.back() = answer;
  return out;
}

std::int32_t draw_below(CounterRng& rng, std::int64_t n) {
  return static_cast<std::int32_t>(rng.below(static_cast<std::uint64_t>(n)));
}

std::vector<std::int32_t> random_bits(std::int64_t count, CounterRng& rng) {
  std::vector<std::int32_t> bits;
  for (std::int64_t i = 0; i < count; ++i) bits.push_back(1 + draw_below(rng, 2));
  return bits;
}

std::int64_t positive_mod(std::int64_t x, std::int64_t modulus) {
  return (x % modulus + modulus) % modulus;
}

// Symbols of modular arithmetic; the numbers 0, 1, ... follow kDigit, or the brackets.
enum Symbol : std::int32_t { kPlus = 1, kMinus, kTimes, kEquals, kDigit, kOpen = kDigit, kClose };
constexpr std::int32_t kBracketDigit = kClose + 1;

std::int64_t apply(std::int32_t op, std::int64_t left, std::int64_t right) {
  return op == kPlus ? left + right : op == kMinus ? left - right : left * right;
}

struct Expression {
  std::vector<std::int32_t> tokens;
  std::int64_t value;
};

void append(std::vector<std::int32_t>& to, const std::vector<std::int32_t>& more) {
  to.insert(to.end(), more.begin(), more.end());
}

/// An expression of exactly `length` tokens.
Expression bracket_expression(std::int64_t length, std::int64_t modulus, CounterRng& rng) {
  if (length <= 4) {
    const std::int32_t digit = draw_below(rng, modulus), token = kBracketDigit + digit;
    switch (length) {
      case 1:
        return {{token}, digit};
      case 2:
        return {{kMinus, token}, positive_mod(-digit, modulus)};
      case 3:
        return {{kOpen, token, kClose}, digit};
      default:
        return {{kOpen, kMinus, token, kClose}, positive_mod(-digit, modulus)};
    }
  }
  const std::int64_t left_length = 1 + draw_below(rng, length - 4);
  const Expression left = bracket_expression(left_length, modulus, rng);
  const std::int32_t op = kPlus + draw_below(rng, 3);
  const Expression right = bracket_expression(length - 3 - left_length, modulus, rng);
  Expression out{{kOpen}, positive_mod(apply(op, left.value, right.value), modulus)};
  append(out.tokens, left.tokens);
  out.tokens.push_back(op);
  append(out.tokens, right.tokens);
  out.tokens.push_back(kClose);
  return out;
}

// The permutations of three things: kPermutations[p][i] is where p sends i. The first is identity.
constexpr std::array<std::array<int, 3>, 6> kPermutations = {
    {{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}}};

/// `next` after `before`.
int compose(int next, int before) {
  for (int p = 0; p < 6; ++p) {
    bool same = true;
    for (std::size_t i = 0; i < 3; ++i)
      same = same && kPermutations[static_cast<std::size_t>(p)][i] ==
                         kPermutations[static_cast<std::size_t>(next)][static_cast<std::size_t>(
                             kPermutations[static_cast<std::size_t>(before)][i])];
    if (same) return p;
  }
  return 0;  // not reached: S3 is closed
}
}  // namespace

Task parity() {
  return {.summary = "whether the number of 2s is odd",
          .vocab_size = 3,
          .chance = 0.5,
          .min_length = 2,
          .generate = [](std::int64_t length, CounterRng& rng) {
            std::vector<std::int32_t> bits = random_bits(length - 1, rng);
            std::int32_t odd = 0;
            for (const std::int32_t bit : bits) odd ^= bit - 1;
            return ask_at_end(std::move(bits), 1 + odd);
          }};
}

Task even_pairs() {
  return {.summary = "whether the first and the last symbol differ",
          .vocab_size = 3,
          .chance = 0.5,
          .min_length = 3,
          .generate = [](std::int64_t length, CounterRng& rng) {
            std::vector<std::int32_t> bits = random_bits(length - 1, rng);
            const std::int32_t differ = bits.front() != bits.back() ? 1 : 0;
            return ask_at_end(std::move(bits), 1 + differ);
          }};
}

Task cycle_navigation(std::int64_t modulus) {
  // Tokens: 1 stay, 2 forward, 3 back; 4 + place is the answer.
  return {.summary = "the place on a ring after steps forward, back and none",
          .vocab_size = 4 + modulus,
          .chance = 1.0 / static_cast<double>(modulus),
          .min_length = 2,
          .generate = [modulus](std::int64_t length, CounterRng& rng) {
            std::vector<std::int32_t> moves;
            std::int64_t place = 0;
            for (std::int64_t i = 0; i + 1 < length; ++i) {
              moves.push_back(1 + draw_below(rng, 3));
              place += moves.back() == 2 ? 1 : moves.back() == 3 ? -1 : 0;
            }
            const auto answer = static_cast<std::int32_t>(4 + positive_mod(place, modulus));
            return ask_at_end(std::move(moves), answer);
          }};
}

Task modular_arithmetic(std::int64_t modulus) {
  return {.summary = "the value of an expression of + - x, x binding first, modulo a number",
          .vocab_size = 5 + modulus,
          .chance = 1.0 / static_cast<double>(modulus),
          .min_length = 5,
          .length_step = 2,
          .generate = [modulus](std::int64_t length, CounterRng& rng) {
            std::vector<std::int32_t> tokens;
            std::int64_t sum = 0, product = 0, sign = 1;  // value so far: sum + sign * product
            for (std::int64_t i = 0; 2 * i + 3 <= length; ++i) {
              const std::int32_t op = i == 0 ? 0 : kPlus + draw_below(rng, 3);
              const std::int32_t digit = draw_below(rng, modulus);
              if (i > 0) tokens.push_back(op);
              tokens.push_back(kDigit + digit);
              if (op == kTimes) {
                product = product * digit % modulus;
                continue;
              }
              sum += sign * product;
              sign = op == kMinus ? -1 : 1;
              product = digit;
            }
            tokens.push_back(kEquals);
            const auto answer =
                static_cast<std::int32_t>(kDigit + positive_mod(sum + sign * product, modulus));
            return ask_at_end(std::move(tokens), answer);
          }};
}

Task modular_arithmetic_brackets(std::int64_t modulus) {
  return {.summary = "the value of an expression with brackets, modulo a number",
          .vocab_size = 7 + modulus,
          .chance = 1.0 / static_cast<double>(modulus),
          .min_length = 3,
          .generate = [modulus](std::int64_t length, CounterRng& rng) {
            Expression expression = bracket_expression(length - 2, modulus, rng);
            expression.tokens.push_back(kEquals);
            const auto answer = static_cast<std::int32_t>(kBracketDigit + expression.value);
            return ask_at_end(std::move(expression.tokens), answer);
          }};
}

Task permutations_of_three() {
  return {.summary = "the product of all permutations of three things so far, after each",
          .vocab_size = 7,
          .chance = 1.0 / 6.0,
          .generate = [](std::int64_t length, CounterRng& rng) {
            Sequence out;
            int product = 0;
            for (std::int64_t i = 0; i < length; ++i) {
              const std::int32_t next = draw_below(rng, 6);
              product = compose(next, product);
              out.tokens.push_back(1 + next);
              out.labels.push_back(1 + product);
            }
            return out;
          }};
}

}  // namespace lram::eval::probes
