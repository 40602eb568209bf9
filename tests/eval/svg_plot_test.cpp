#include "eval/svg_plot.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "lram/core/error.h"
#include "lram/core/rng.h"
#include "tests/support/xml.h"

namespace lram::eval::svg_plot_test {
namespace {
using Ticks = std::vector<double>;

TEST(NiceTicks, AreOneTwoOrFiveTimesAPowerOfTen) {
  EXPECT_EQ(nice_ticks(0.0, 10.0, 6), (Ticks{0, 2, 4, 6, 8, 10}));
  EXPECT_EQ(nice_ticks(0.0, 1000.0, 6), (Ticks{0, 200, 400, 600, 800, 1000}));
  EXPECT_EQ(nice_ticks(3.0, 97.0, 6), (Ticks{0, 20, 40, 60, 80, 100}));
  EXPECT_EQ(nice_ticks(-1.0, 1.0, 6), (Ticks{-1, -0.5, 0, 0.5, 1}));
  EXPECT_EQ(nice_ticks(7.0, 7.0, 6), (Ticks{6, 8, 10, 12, 14}));
}

TEST(NiceTicks, CoverTheRangeWithFewTicks) {
  CounterRng rng(1);
  for (int i = 0; i < 2000; ++i) {
    const double low = rng.normal() * std::pow(10.0, 12.0 * rng.uniform() - 6.0);
    const double high = low + std::pow(10.0, 12.0 * rng.uniform() - 6.0);
    const int max_count = 3 + static_cast<int>(rng.below(9));
    const Ticks ticks = nice_ticks(low, high, max_count);
    const double slack = (ticks[1] - ticks[0]) * 1e-6;
    EXPECT_LE(ticks.size(), static_cast<std::size_t>(max_count)) << low << ' ' << high;
    EXPECT_LE(ticks.front(), low + slack) << low << ' ' << high;
    EXPECT_GE(ticks.back(), high - slack) << low << ' ' << high;
  }
}

TEST(NiceTicks, RefuseARangeThatIsNone) {
  EXPECT_THROW(nice_ticks(1.0, 0.0, 6), Error);
  EXPECT_THROW(nice_ticks(0.0, std::numeric_limits<double>::infinity(), 6), Error);
}

TEST(LogTicks, ShowDecadesAndTheirPartsInAShortRange) {
  EXPECT_EQ(log_ticks(1.0, 10000.0), (Ticks{1, 10, 100, 1000, 10000}));
  EXPECT_EQ(log_ticks(15.0, 120.0), (Ticks{10, 20, 50, 100, 200}));
  EXPECT_EQ(log_ticks(10.0, 10.0), (Ticks{10}));
  EXPECT_THROW(log_ticks(0.0, 1.0), Error);
}

TEST(FormatTick, ReadsWell) {
  EXPECT_EQ(format_tick(0.0), "0");
  EXPECT_EQ(format_tick(0.05), "0.05");
  EXPECT_EQ(format_tick(1000.0), "1,000");
  EXPECT_EQ(format_tick(-1234.5), "-1,234.5");
  EXPECT_EQ(format_tick(2500000.0), "2,500,000");
  EXPECT_EQ(format_tick(2e-7), "2e-07");
}

TEST(Svg, DrawsEveryPartAndIsWellFormed) {
  const Plot plot{.title = "Loss <a & b>",
                  .x = {.label = "step"},
                  .y = {.label = "nats"},
                  .series = {{.name = "training",
                              .x = {0, 1, 2},
                              .y = {3, 2, 1},
                              .low = {2.5, 1.5, 0.5},
                              .high = {3.5, 2.5, 1.5}},
                             {.name = "validation", .x = {0, 2}, .y = {3, 2}, .dashed = true}}};
  const std::string svg = render_svg(plot);
  test::expect_well_formed(svg);
  for (const char* part : {"Loss &lt;a &amp; b&gt;", ">step<", ">nats<", ">training<",
                           ">validation<", "fill-opacity", "stroke-dasharray"})
    EXPECT_NE(svg.find(part), std::string::npos) << part;
}

TEST(Svg, BreaksTheLineAtWhatCannotBeDrawn) {
  const double nan = std::nan("");
  const Plot plot{.title = "t",
                  .x = {},
                  .y = {.label = "", .log = true},
                  .series = {{.name = "s", .x = {0, 1, 2, 3, 4}, .y = {1, nan, 10, 0, 100}}}};
  const std::string svg = render_svg(plot);
  EXPECT_EQ(svg.find("nan"), std::string::npos);
  const auto begin = svg.find("class=\"line\"");
  const std::string line = svg.substr(begin, svg.find("/>", begin) - begin);
  EXPECT_EQ(std::count(line.begin(), line.end(), 'M'), 3) << line;
}

TEST(Svg, CutsOffWhatLiesAboveTheAxis) {
  Plot plot{.title = "t",
            .y = {.high = 10.0},
            .series = {{.name = "s", .x = {0, 1}, .y = {0, 5}, .low = {0, 5}, .high = {1, 999}}}};
  const std::string svg = render_svg(plot);
  EXPECT_NE(svg.find(">10<"), std::string::npos);
  EXPECT_EQ(svg.find(">1,000<"), std::string::npos);
}

TEST(Svg, SaysWhenThereIsNothing) {
  const std::string svg = render_svg({.title = "empty", .x = {}, .y = {}, .series = {}});
  test::expect_well_formed(svg);
  EXPECT_NE(svg.find("nothing to show"), std::string::npos);
}
}  // namespace
}  // namespace lram::eval::svg_plot_test
