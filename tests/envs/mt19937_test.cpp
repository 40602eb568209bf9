#include "envs/mt19937.h"

#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "lram/core/json.h"
#include "tests/support/golden.h"

// numpy's RandomState, tests/golden/baselines: every draw to the bit.
namespace lram::envs::mt19937_test {
namespace {
using nlohmann::json;

constexpr const char* kFile = "baselines/mt19937.json";

json golden() {
  std::ifstream in(lram::test::golden_root() / kFile);
  return parse_json(in);
}

// The arguments of "randint(-5,2**40)": -5 and 2^40. Absent for "random_sample".
std::vector<std::int64_t> arguments(const std::string& call) {
  std::vector<std::int64_t> out;
  const auto open = call.find('(');
  if (open == std::string::npos) return out;
  std::istringstream words(call.substr(open + 1));
  for (std::string word; std::getline(words, word, ',');) {
    char* end = nullptr;
    const std::int64_t value = std::strtoll(word.c_str(), &end, 10);
    if (end == word.c_str()) continue;  // replace=False
    const bool power = std::string_view(end).starts_with("**");
    out.push_back(power ? value << (std::atoi(end + 2) - 1) : value);
  }
  return out;
}

class Draws {
 public:
  Draws(std::uint64_t seed, std::string call, const json& wanted)
      : rng_(seed), seed_(seed), call_(std::move(call)), wanted_(wanted) {}

  template <typename Draw>
  void floats(Draw draw) {
    for (const std::string text : wanted_.at("hex"))
      ASSERT_EQ(draw(rng_), std::strtod(text.c_str(), nullptr)) << where();
  }
  template <typename Draw>
  void integers(Draw draw) {
    for (const std::int64_t value : wanted_.at("int")) ASSERT_EQ(draw(rng_), value) << where();
  }
  std::string where() const { return "seed " + std::to_string(seed_) + ", " + call_; }

 private:
  Mt19937 rng_;
  std::uint64_t seed_;
  std::string call_;
  json wanted_;
};

// False for a call that this test does not know.
bool check_call(std::uint64_t seed, const std::string& call, const json& wanted, const json& p) {
  Draws draws(seed, call, wanted);
  const std::string function = call.substr(0, call.find('('));
  const std::vector<std::int64_t> args = arguments(call);
  if (function == "raw_uint32") {
    draws.integers([](Mt19937& rng) { return rng.next_u32(); });
  } else if (function == "random_sample") {
    draws.floats([](Mt19937& rng) { return rng.random_sample(); });
  } else if (function == "uniform") {
    const auto low = static_cast<double>(args.at(0)), high = static_cast<double>(args.at(1));
    draws.floats([&](Mt19937& rng) { return rng.uniform(low, high); });
  } else if (function == "randint") {
    draws.integers([&](Mt19937& rng) { return rng.randint(args.at(0), args.at(1)); });
  } else if (function == "standard_normal") {
    draws.floats([](Mt19937& rng) { return rng.randn(); });
  } else if (function == "normal") {
    double mean = 0.0, deviation = 0.0;
    if (std::sscanf(call.c_str(), "normal(%lf,%lf)", &mean, &deviation) != 2) return false;
    draws.floats([&](Mt19937& rng) { return rng.normal(mean, deviation); });
  } else if (function == "permutation" || call.find("replace=False") != std::string::npos) {
    std::vector<std::int64_t> order;
    std::size_t next = 0;
    draws.integers([&](Mt19937& rng) {
      if (order.empty()) order = rng.permutation(args.at(0));
      return order.at(next++);
    });
  } else if (function == "choice" && call.find(",p)") != std::string::npos) {
    const std::vector<double> probabilities = p;
    draws.integers([&](Mt19937& rng) { return rng.choice(probabilities); });
  } else if (function == "choice") {
    draws.integers([&](Mt19937& rng) { return rng.randint(0, args.at(0)); });
  } else if (function == "gauss_then_uniform_then_gauss") {
    int draw = 0;
    draws.floats([&](Mt19937& rng) { return draw++ == 1 ? rng.random_sample() : rng.randn(); });
  } else {
    return false;
  }
  return true;
}

TEST(Mt19937Golden, DrawsWhatNumpyDraws) {
  LRAM_SKIP_WITHOUT_GOLDEN("baselines");
  const json file = golden();
  ASSERT_FALSE(file.at("seeds").empty());
  for (const auto& [seed, calls] : file.at("seeds").items()) {
    ASSERT_FALSE(calls.empty()) << "seed " << seed;
    for (const auto& [call, wanted] : calls.items())
      EXPECT_TRUE(check_call(std::stoull(seed), call, wanted, file.at("choice_p"))) << call;
  }
}

TEST(Mt19937Golden, SeedsFromAnArray) {
  LRAM_SKIP_WITHOUT_GOLDEN("baselines");
  const json wanted = golden().at("init_by_array");
  const std::vector<std::uint32_t> key = wanted.at("seed_array");
  Mt19937 rng{std::span<const std::uint32_t>(key)};
  for (const std::uint32_t word : wanted.at("raw_uint32")) EXPECT_EQ(rng.next_u32(), word);
}

TEST(Mt19937, WideSeedIsAnArrayOfItsWords) {
  const std::uint32_t words[] = {5, 7};
  Mt19937 wide((std::uint64_t{7} << 32) + 5), array{std::span<const std::uint32_t>(words)};
  EXPECT_EQ(wide.next_u32(), array.next_u32());
}

TEST(Mt19937, CopiedStateContinues) {
  Mt19937 rng(3);
  for (int i = 0; i < 1001; ++i) rng.randn();
  Mt19937 copy(rng.state());
  for (int i = 0; i < 1001; ++i) EXPECT_EQ(rng.randn(), copy.randn());
}
}  // namespace
}  // namespace lram::envs::mt19937_test
