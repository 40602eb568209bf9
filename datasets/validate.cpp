#include "datasets/validate.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "lram/core/crc32c.h"

namespace lram::datasets {
namespace {
constexpr std::int64_t kSpeltOut = 5;
// Sums of the same numbers in another order or precision differ by rounding alone.
constexpr double kReturnTolerance = 1e-9;

// The findings of one kind in one array: the first ones in full, then a number.
class Kind {
 public:
  Kind(std::vector<Finding>& out, std::string array) : out_(out), array_(std::move(array)) {}
  ~Kind() {
    if (count_ > kSpeltOut)
      out_.push_back({array_, fmt::format("{} more like these", count_ - kSpeltOut), last_wanted_});
  }
  Kind(const Kind&) = delete;
  Kind& operator=(const Kind&) = delete;

  void add(const std::string& index, const std::string& found, const std::string& wanted) {
    if (++count_ <= kSpeltOut) out_.push_back({array_ + index, found, wanted});
    last_wanted_ = wanted;
  }

 private:
  std::vector<Finding>& out_;
  std::string array_, last_wanted_;
  std::int64_t count_ = 0;
};

// Where an episode lies among all.
struct Place {
  std::int64_t episode = 0, first_step = 0;

  std::string step(std::int64_t t) const {
    return fmt::format("[{}] (episode {}, step {})", first_step + t, episode, t);
  }
  std::string step(std::int64_t t, std::size_t column) const {
    return fmt::format("[{},{}] (episode {}, step {})", first_step + t, column, episode, t);
  }
  std::string row(std::int64_t t, std::size_t column) const {
    return fmt::format("[{},{}] (episode {}, row {})", first_step + episode + t, column, episode,
                       t);
  }
};

// Calls visit(episode, place).
template <typename Visit>
void for_each_episode(const EpisodeFile& file, Visit visit) {
  Place place;
  for (const EpisodeView& episode : file.episodes()) {
    visit(episode, place);
    ++place.episode;
    place.first_step += episode.length();
  }
}

void check_crcs(const Dataset& data, std::vector<Finding>& out) {
  for (const Dataset::Array& array : data.arrays())
    if (const std::uint32_t crc = crc32c(array.bytes); crc != array.crc32c)
      out.push_back({array.spec.path, fmt::format("CRC32C {:08x}", crc),
                     fmt::format("{:08x} as written", array.crc32c)});
}

// The least and the greatest value of each column.
class Ranges {
 public:
  explicit Ranges(std::size_t width)
      : low_(width, std::numeric_limits<float>::infinity()),
        high_(width, -std::numeric_limits<float>::infinity()) {}

  void add(std::size_t column, float value) {
    low_[column] = std::min(low_[column], value);
    high_[column] = std::max(high_[column], value);
  }
  void report_constants(Kind& kind) const {
    for (std::size_t column = 0; column < low_.size(); ++column)
      if (low_[column] == high_[column])
        kind.add(fmt::format("[:,{}]", column), fmt::format("{} in every row", low_[column]),
                 "a column that varies");
  }

 private:
  std::vector<float> low_, high_;
};

void check_observations(const EpisodeFile& file, std::vector<Finding>& out) {
  const auto width = static_cast<std::size_t>(file.spec().observation.vector_size);
  if (width == 0 || file.episodes().empty()) return;
  Ranges ranges(width);
  {
    Kind kind(out, "/observations");
    for_each_episode(file, [&](const EpisodeView& episode, const Place& place) {
      for (std::size_t i = 0; i < episode.observations.size(); ++i) {
        const float value = episode.observations[i];
        const std::size_t column = i % width;
        if (!std::isfinite(value))
          kind.add(place.row(static_cast<std::int64_t>(i / width), column),
                   fmt::format("{}", value), "a finite number");
        ranges.add(column, value);
      }
    });
  }
  Kind kind(out, "/observations");
  ranges.report_constants(kind);
}

void check_actions(const EpisodeFile& file, std::vector<Finding>& out) {
  const ActionSpec& spec = file.spec().action;
  const auto width = static_cast<std::size_t>(spec.discrete ? 0 : spec.size);
  Ranges ranges(width);
  std::int64_t steps = 0;
  Kind kind(out, "/actions");
  for_each_episode(file, [&](const EpisodeView& episode, const Place& place) {
    for (std::size_t t = 0; t < episode.discrete_actions.size(); ++t) {
      const std::int32_t action = episode.discrete_actions[t];
      if (action < 0 || action >= spec.num_actions)
        kind.add(place.step(static_cast<std::int64_t>(t)), std::to_string(action),
                 fmt::format("0 to {}", spec.num_actions - 1));
    }
    for (std::size_t i = 0; i < episode.actions.size(); ++i) {
      const float action = episode.actions[i];
      const std::size_t column = i % width;
      const auto step = static_cast<std::int64_t>(i / width);
      const auto low = static_cast<float>(spec.low[column]);
      const auto high = static_cast<float>(spec.high[column]);
      if (!std::isfinite(action))
        kind.add(place.step(step, column), fmt::format("{}", action), "a finite number");
      else if (action < low || action > high)
        kind.add(place.step(step, column), fmt::format("{}", action),
                 fmt::format("{} to {}", low, high));
      ranges.add(column, action);
    }
    steps += episode.length();
  });
  if (steps > 1) ranges.report_constants(kind);
}

void check_rewards(const EpisodeFile& file, std::vector<Finding>& out) {
  Kind values(out, "/rewards"), returns(out, "/episodes/return");
  for_each_episode(file, [&](const EpisodeView& episode, const Place& place) {
    double sum = 0.0, scale = 1.0;
    for (std::int64_t t = 0; t < episode.length(); ++t) {
      const float reward = episode.rewards[static_cast<std::size_t>(t)];
      if (!std::isfinite(reward))
        values.add(place.step(t), fmt::format("{}", reward), "a finite number");
      sum += reward;
      scale += std::abs(reward);
    }
    // Not-a-number on both sides is the reward's finding.
    if (std::isfinite(sum) && !(std::abs(episode.episode_return - sum) <= kReturnTolerance * scale))
      returns.add(fmt::format("[{}]", place.episode), fmt::format("{}", episode.episode_return),
                  fmt::format("{}, the sum of its rewards", sum));
  });
}

void check_flags(const EpisodeFile& file, std::vector<Finding>& out) {
  Kind terminated(out, "/terminated"), truncated(out, "/truncated"), ends(out, "/episodes");
  for_each_episode(file, [&](const EpisodeView& episode, const Place& place) {
    const auto check = [&](std::span<const std::uint8_t> flags, Kind& kind) {
      const std::int64_t last = episode.length() - 1;
      for (std::int64_t t = 0; t <= last; ++t) {
        const int flag = flags[static_cast<std::size_t>(t)];
        if (flag > 1) kind.add(place.step(t), std::to_string(flag), "0 or 1");
        if (flag == 1 && t < last) kind.add(place.step(t), "1", "0 before the last step");
      }
    };
    check(episode.terminated, terminated);
    check(episode.truncated, truncated);
    if (episode.terminated.back() == 0 && episode.truncated.back() == 0)
      ends.add(fmt::format("[{}]", place.episode), "neither terminated nor truncated at its end",
               "one of them");
  });
}

void check_lengths(const EpisodeFile& file, std::vector<Finding>& out) {
  const std::int64_t limit = file.spec().max_episode_steps;
  Kind kind(out, "/episodes/length");
  for_each_episode(file, [&](const EpisodeView& episode, const Place& place) {
    if (limit > 0 && episode.length() > limit)
      kind.add(fmt::format("[{}]", place.episode), std::to_string(episode.length()),
               fmt::format("at most {}, the task's limit", limit));
  });
}
}  // namespace

std::vector<Finding> validate(const EpisodeFile& file) {
  std::vector<Finding> out;
  if (file.data() != nullptr) check_crcs(*file.data(), out);
  if (const Journal* journal = file.journal(); journal != nullptr && journal->tail_bytes() > 0)
    out.push_back({fmt::format("byte {}", journal->complete_bytes()),
                   fmt::format("{} bytes of an unfinished episode", journal->tail_bytes()),
                   "the end (a collector that runs completes it, one that starts cuts it)"});
  check_observations(file, out);
  check_actions(file, out);
  check_rewards(file, out);
  check_flags(file, out);
  check_lengths(file, out);
  return out;
}
}  // namespace lram::datasets
