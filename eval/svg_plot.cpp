#include "eval/svg_plot.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>

#include "lram/core/error.h"

namespace lram::eval {
namespace {
// Okabe and Ito's colours (2008), which the colour-blind tell apart, brighter on dark ground.
constexpr const char* kStyle = R"(<style>
.lram-plot{--ink:#24292f;--soft:#57606a;--grid:#d8dee4;
--c0:#0072b2;--c1:#d55e00;--c2:#009e73;--c3:#cc79a7;--c4:#b58900;--c5:#56b4e9;
font-family:system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;font-size:12px}
@media (prefers-color-scheme:dark){.lram-plot{--ink:#e6edf3;--soft:#9aa5b1;--grid:#30363d;
--c0:#4aa8e0;--c1:#ff8a3d;--c2:#3ccf9f;--c3:#e79cc5;--c4:#e3b341;--c5:#8ccff5}}
.lram-plot text{fill:var(--soft)}.lram-plot .title{fill:var(--ink);font-size:14px;font-weight:600}
.lram-plot .name{fill:var(--ink)}.lram-plot .grid{stroke:var(--grid);stroke-width:1}
.lram-plot .axis{stroke:var(--soft);stroke-width:1}
.lram-plot .line{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
</style>
)";
constexpr int kPalette = 6;
constexpr double kCharacter = 6.6;  // px, mean width of a 12 px sans-serif letter

// Data to pixels along one axis.
class Scale {
 public:
  Scale(const Axis& axis, double low, double high, double from_px, double to_px)
      : log_(axis.log), from_px_(from_px), to_px_(to_px) {
    if (axis.high) high = std::max(low, std::min(high, *axis.high));
    if (low == high && log_) high = low * 10.0;
    if (low == high) high = low + (low == 0.0 ? 1.0 : std::abs(low) * 0.1);
    ticks_ = log_ ? log_ticks(low, high) : nice_ticks(low, high, 6);
    low_ = transform(ticks_.front());
    high_ = transform(ticks_.back());
  }

  bool shows(double value) const { return std::isfinite(value) && (!log_ || value > 0.0); }
  double operator()(double value) const {
    const double part = (transform(value) - low_) / (high_ - low_);
    return from_px_ + std::clamp(part, 0.0, 1.0) * (to_px_ - from_px_);
  }
  const std::vector<double>& ticks() const { return ticks_; }

 private:
  double transform(double value) const { return log_ ? std::log10(value) : value; }

  bool log_;
  double from_px_, to_px_, low_ = 0.0, high_ = 1.0;
  std::vector<double> ticks_;
};

struct Range {
  double low = std::numeric_limits<double>::infinity();
  double high = -std::numeric_limits<double>::infinity();
  bool empty() const { return low > high; }
  void add(double value, bool log) {
    if (!std::isfinite(value) || (log && value <= 0.0)) return;
    low = std::min(low, value);
    high = std::max(high, value);
  }
};

template <typename... Args>
void append(std::string& out, fmt::format_string<Args...> format, Args&&... args) {
  out += fmt::format(format, std::forward<Args>(args)...);
}

void append_band(std::string& out, const Series& series, const Scale& x, const Scale& y,
                 int color) {
  std::string there, back;
  for (std::size_t i = 0; i < series.low.size(); ++i) {
    if (!x.shows(series.x[i]) || !y.shows(series.low[i]) || !y.shows(series.high[i])) continue;
    append(there, "{}{:.1f},{:.1f}", there.empty() ? "M" : "L", x(series.x[i]), y(series.high[i]));
    back = fmt::format("L{:.1f},{:.1f}", x(series.x[i]), y(series.low[i])) + back;
  }
  if (!there.empty())
    append(out, "<path d=\"{}{}Z\" fill=\"var(--c{})\" fill-opacity=\"0.18\"/>\n", there, back,
           color);
}

void append_line(std::string& out, const Series& series, const Scale& x, const Scale& y,
                 int color) {
  std::string path, dots;
  bool pen_down = false;
  for (std::size_t i = 0; i < series.x.size(); ++i) {
    if (!x.shows(series.x[i]) || !y.shows(series.y[i])) {
      pen_down = false;
      continue;
    }
    const double px = x(series.x[i]), py = y(series.y[i]);
    append(path, "{}{:.1f},{:.1f}", pen_down ? "L" : "M", px, py);
    pen_down = true;
    if (series.markers)
      append(dots, "<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3.2\" fill=\"var(--c{})\"/>\n", px, py,
             color);
  }
  append(out, "<path class=\"line\" d=\"{}\" stroke=\"var(--c{})\"{}/>\n{}", path, color,
         series.dashed ? " stroke-dasharray=\"6 4\"" : "", dots);
}
}  // namespace

std::vector<double> nice_ticks(double low, double high, int max_count) {
  LRAM_CHECK(std::isfinite(low) && std::isfinite(high) && low <= high, "range [", low, ", ", high,
             "], wanted finite and in order");
  LRAM_CHECK(max_count >= 3, "max_count is ", max_count, ", wanted at least 3");
  if (low == high) high = low + std::max(1.0, std::abs(low));
  for (double power = std::pow(10.0, std::floor(std::log10((high - low) / max_count)));;
       power *= 10.0) {
    for (const double factor : {1.0, 2.0, 5.0}) {
      const double step = power * factor;
      // A range that ends on a tick up to rounding ends there.
      const double first = std::floor(low / step + 1e-9), last = std::ceil(high / step - 1e-9);
      if (last - first + 1.0 > max_count) continue;
      std::vector<double> ticks;
      for (double i = first; i <= last; i += 1.0) ticks.push_back(i * step);
      return ticks;
    }
  }
}

std::vector<double> log_ticks(double low, double high) {
  LRAM_CHECK(low > 0.0 && std::isfinite(high) && low <= high, "range [", low, ", ", high,
             "], wanted positive and in order");
  const bool decades_only = high / low >= 1000.0;
  std::vector<double> all;  // every tick of the decades around the range
  for (double e = std::floor(std::log10(low)) - 1.0; e <= std::ceil(std::log10(high)) + 1.0; ++e)
    for (const double factor : {1.0, 2.0, 5.0})
      if (factor == 1.0 || !decades_only) all.push_back(factor * std::pow(10.0, e));
  const auto first = std::upper_bound(all.begin(), all.end(), low * (1.0 + 1e-9)) - 1;
  const auto last = std::lower_bound(all.begin(), all.end(), high * (1.0 - 1e-9));
  return {first, last + 1};
}

std::string format_tick(double value) {
  const double size = std::abs(value);
  if (size >= 1e7 || (size > 0.0 && size < 1e-4)) return fmt::format("{:.3g}", value);
  std::string text = fmt::format("{:.6g}", value);
  if (size >= 1e5) text = fmt::format("{:.0f}", value);
  if (size >= 1000.0)
    for (auto at = static_cast<std::ptrdiff_t>(std::min(text.find('.'), text.size())) - 3;
         at > (value < 0.0 ? 1 : 0); at -= 3)
      text.insert(static_cast<std::size_t>(at), 1, ',');
  return text;
}

std::string escape_xml(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '&') {
      out += "&amp;";
    } else if (c == '<') {
      out += "&lt;";
    } else if (c == '>') {
      out += "&gt;";
    } else if (c == '"') {
      out += "&quot;";
    } else if (static_cast<unsigned char>(c) >= 0x20 || c == '\n' || c == '\t') {
      out += c;  // other control characters are not XML
    }
  }
  return out;
}

std::string render_svg(const Plot& plot) {
  Range x_range, y_range;
  for (const Series& series : plot.series) {
    LRAM_CHECK(series.x.size() == series.y.size(), "series '", series.name, "' has ",
               series.x.size(), " x and ", series.y.size(), " y");
    LRAM_CHECK(series.low.size() == series.high.size() &&
                   (series.low.empty() || series.low.size() == series.x.size()),
               "series '", series.name, "' has a band of ", series.low.size(), " and ",
               series.high.size(), " for ", series.x.size(), " points");
    for (const double value : series.x) x_range.add(value, plot.x.log);
    for (const auto* values : {&series.y, &series.low, &series.high})
      for (const double value : *values) y_range.add(value, plot.y.log);
  }

  std::string out;
  append(out,
         "<svg class=\"lram-plot\" xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" "
         "width=\"{0}\" height=\"{1}\" role=\"img\" aria-label=\"{2}\">\n",
         plot.width, plot.height, escape_xml(plot.title));
  out += kStyle;
  append(out, "<text class=\"title\" x=\"10\" y=\"20\">{}</text>\n", escape_xml(plot.title));
  if (x_range.empty() || y_range.empty()) {
    append(out, "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">nothing to show</text>\n</svg>\n",
           plot.width / 2, plot.height / 2);
    return out;
  }

  // The legend: as many lines under the title as its names need.
  double legend_x = 10.0, legend_y = 40.0;
  std::string legend;
  for (std::size_t i = 0; i < plot.series.size(); ++i) {
    const Series& series = plot.series[i];
    const int color = (series.color < 0 ? static_cast<int>(i) : series.color) % kPalette;
    const double width = 28.0 + kCharacter * static_cast<double>(series.name.size()) + 14.0;
    if (legend_x > 10.0 && legend_x + width > plot.width) {
      legend_x = 10.0;
      legend_y += 18.0;
    }
    append(legend,
           "<line x1=\"{:.1f}\" x2=\"{:.1f}\" y1=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"var(--c{})\" "
           "stroke-width=\"3\"{}/><text class=\"name\" x=\"{:.1f}\" y=\"{:.1f}\">{}</text>\n",
           legend_x, legend_x + 20.0, legend_y - 4.0, legend_y - 4.0, color,
           series.dashed ? " stroke-dasharray=\"6 4\"" : "", legend_x + 26.0, legend_y,
           escape_xml(series.name));
    legend_x += width;
  }
  out += legend;

  const double top = legend_y + 18.0, bottom = plot.height - 44.0, right = plot.width - 18.0;
  const Scale y(plot.y, y_range.low, y_range.high, bottom, top);
  std::size_t widest = 0;
  for (const double tick : y.ticks()) widest = std::max(widest, format_tick(tick).size());
  const double left = 34.0 + kCharacter * static_cast<double>(widest);
  const Scale x(plot.x, x_range.low, x_range.high, left, right);

  for (const double tick : y.ticks())
    append(out,
           "<line class=\"grid\" x1=\"{0:.1f}\" x2=\"{1:.1f}\" y1=\"{2:.1f}\" y2=\"{2:.1f}\"/>"
           "<text x=\"{3:.1f}\" y=\"{4:.1f}\" text-anchor=\"end\">{5}</text>\n",
           left, right, y(tick), left - 6.0, y(tick) + 4.0, format_tick(tick));
  for (const double tick : x.ticks())
    append(out,
           "<line class=\"axis\" x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"{1:.1f}\" y2=\"{2:.1f}\"/>"
           "<text x=\"{0:.1f}\" y=\"{3:.1f}\" text-anchor=\"middle\">{4}</text>\n",
           x(tick), bottom, bottom + 4.0, bottom + 17.0, format_tick(tick));
  append(out,
         "<line class=\"axis\" x1=\"{0:.1f}\" x2=\"{1:.1f}\" y1=\"{2:.1f}\" y2=\"{2:.1f}\"/>\n",
         left, right, bottom);
  append(out, "<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{}</text>\n",
         (left + right) / 2.0, bottom + 36.0, escape_xml(plot.x.label));
  append(out,
         "<text transform=\"translate(14 {:.1f}) rotate(-90)\" text-anchor=\"middle\">{}</text>\n",
         (top + bottom) / 2.0, escape_xml(plot.y.label));

  for (std::size_t i = 0; i < plot.series.size(); ++i) {
    const Series& series = plot.series[i];
    const int color = (series.color < 0 ? static_cast<int>(i) : series.color) % kPalette;
    if (!series.low.empty()) append_band(out, series, x, y, color);
    append_line(out, series, x, y, color);
  }
  out += "</svg>\n";
  return out;
}
}  // namespace lram::eval
