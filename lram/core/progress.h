#pragma once
#include <chrono>
#include <cstdint>
#include <string>

namespace lram {

/// Progress of long work on stderr: a bar with rate and time left, redrawn at most ten times a
/// second; where stderr is no terminal, a plain line every 30 s. One at a time per process; log
/// lines go above it. update() may be called from any one thread at a time.
///   Progress progress("collect", episodes, "episodes");
///   progress.update(done, "return 812.3");
class Progress {
 public:
  Progress(std::string label, std::int64_t total, std::string unit);
  ~Progress();  ///< calls finish()
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// `done` of `total` units are finished; `note` is a short text behind the bar.
  void update(std::int64_t done, const std::string& note = {});
  /// Draws the last state and ends the line.
  void finish();

 private:
  using Clock = std::chrono::steady_clock;
  std::string line(Clock::time_point now) const;

  std::string label_, unit_, note_;
  std::int64_t total_, done_ = 0, first_done_ = -1;
  Clock::time_point start_, last_draw_;
  bool terminal_, finished_ = false;
};

/// "1:02:03" or "4:05".
std::string format_duration(double seconds);

}  // namespace lram
