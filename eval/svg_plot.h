#pragma once
#include <optional>
#include <string>
#include <vector>

namespace lram::eval {

/// One line of a plot. Points that are not finite, or not positive on a logarithmic axis, break it.
struct Series {
  std::string name;                         ///< for the legend
  std::vector<double> x = {}, y = {};       ///< of one length
  std::vector<double> low = {}, high = {};  ///< error band around y; empty = none
  bool dashed = false;
  bool markers = false;  ///< a dot at every point
  int color = -1;        ///< entry of the palette, -1 = the place in Plot::series
};

struct Axis {
  std::string label = {};
  bool log = false;
  std::optional<double> high = {};  ///< what lies above is cut off
};

struct Plot {
  std::string title;
  Axis x = {}, y = {};
  std::vector<Series> series = {};
  int width = 640, height = 340;  ///< pixels at scale 1
};

/// Round values 1, 2 or 5 times a power of ten, at most `max_count` of them, that begin at or below
/// `low` and end at or above `high`: what a linear axis shows. low <= high, both finite; at least 3
/// ticks must be allowed, for a range around 0.
std::vector<double> nice_ticks(double low, double high, int max_count);

/// The same for a logarithmic axis: powers of ten, with their multiples by 2 and 5 where the range
/// has fewer than three decades. 0 < low <= high.
std::vector<double> log_ticks(double low, double high);

/// "1,000", "0.05", "2e-7".
std::string format_tick(double value);

/// Text made safe for XML and HTML.
std::string escape_xml(const std::string& text);

/// One <svg> element with its own style, readable on light and on dark ground: a file of its own,
/// or part of an HTML page. A plot without a point that can be drawn says so.
std::string render_svg(const Plot& plot);

}  // namespace lram::eval
