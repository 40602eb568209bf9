#include "lram/core/log.h"

#include <unistd.h>

#include <cmath>
#include <mutex>

#include "lram/core/progress.h"

namespace lram {
namespace {
std::mutex& terminal_mutex() {
  static std::mutex mutex;
  return mutex;
}
std::string& shown_bar() {  // the bar on the terminal's last line, "" when none
  static std::string bar;
  return bar;
}
constexpr const char* kEraseLine = "\r\033[K";
}  // namespace

namespace internal {
void log_line(const std::string& line) {
  const std::lock_guard lock(terminal_mutex());
  const std::string& bar = shown_bar();
  const std::string text = bar.empty() ? line + "\n" : kEraseLine + line + "\n" + bar;
  std::fwrite(text.data(), 1, text.size(), stderr);
  std::fflush(stderr);
}
}  // namespace internal

std::string format_duration(double seconds) {
  const auto total = static_cast<std::int64_t>(std::llround(std::max(0.0, seconds)));
  const std::int64_t h = total / 3600, m = total / 60 % 60, s = total % 60;
  return h > 0 ? fmt::format("{}:{:02}:{:02}", h, m, s) : fmt::format("{}:{:02}", m, s);
}

Progress::Progress(std::string label, std::int64_t total, std::string unit)
    : label_(std::move(label)),
      unit_(std::move(unit)),
      total_(total),
      start_(Clock::now()),
      last_draw_(start_ - std::chrono::hours(1)),
      terminal_(isatty(STDERR_FILENO) != 0) {
  if (!terminal_) last_draw_ = start_;
}

Progress::~Progress() { finish(); }

std::string Progress::line(Clock::time_point now) const {
  const double elapsed = std::chrono::duration<double>(now - start_).count();
  const double rate =
      elapsed > 0 ? static_cast<double>(done_ - std::max<std::int64_t>(first_done_, 0)) / elapsed
                  : 0;
  std::string text = fmt::format("{} ", label_);
  if (terminal_) {
    constexpr int kWidth = 24;
    const int filled = total_ > 0 ? static_cast<int>(kWidth * std::min(done_, total_) / total_) : 0;
    text += fmt::format("[{:#<{}}{:.<{}}] ", "", filled, "", kWidth - filled);
  }
  text += fmt::format("{}/{} {}, {:.3g}/s, {} passed", done_, total_, unit_, rate,
                      format_duration(elapsed));
  if (rate > 0 && done_ < total_) {
    text += fmt::format(", {} left", format_duration(static_cast<double>(total_ - done_) / rate));
  }
  if (!note_.empty()) text += ", " + note_;
  return text;
}

void Progress::update(std::int64_t done, const std::string& note) {
  if (first_done_ < 0) first_done_ = done > 1 ? done - 1 : 0;  // a resumed run starts in the middle
  done_ = done;
  note_ = note;
  const auto now = Clock::now();
  const auto period = terminal_ ? std::chrono::milliseconds(100) : std::chrono::seconds(30);
  if (now - last_draw_ < period) return;
  last_draw_ = now;
  const std::string text = line(now);
  if (!terminal_) return internal::log_line(text);
  const std::lock_guard lock(terminal_mutex());
  shown_bar() = text;
  std::fprintf(stderr, "%s%s", kEraseLine, text.c_str());
  std::fflush(stderr);
}

void Progress::finish() {
  if (finished_) return;
  finished_ = true;
  const std::string text = line(Clock::now());
  {
    const std::lock_guard lock(terminal_mutex());
    shown_bar().clear();
    if (terminal_) std::fprintf(stderr, "%s", kEraseLine);
  }
  internal::log_line(text);
}
}  // namespace lram
