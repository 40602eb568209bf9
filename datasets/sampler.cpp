#include "datasets/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "lram/core/error.h"
#include "lram/core/rng.h"

namespace lram::datasets {
namespace {
// Streams of their own, so that split, windows and walks draw independent numbers from one seed.
constexpr std::uint64_t kSplitStream = 0x73706c6974;  // "split"
constexpr std::uint64_t kWalkStream = 0x77616c6b;     // "walk"

void shuffle(auto& values, CounterRng& rng) {
  for (std::size_t left = values.size(); left > 1; --left)
    std::swap(values[left - 1], values[rng.below(left)]);
}

void check_sources(const std::vector<Source>& sources, std::int64_t context_length) {
  LRAM_CHECK(context_length >= 1, "context_length is ", context_length, ", wanted at least 1");
  LRAM_CHECK(!sources.empty(), "no data set to sample from");
  for (const Source& source : sources)
    LRAM_CHECK(!source.episodes.empty(), source.data->path().string(), ": no episodes to sample");
}
}  // namespace

Split split_episodes(const Dataset& data, std::uint64_t seed, double validation_fraction) {
  LRAM_CHECK(validation_fraction >= 0.0 && validation_fraction < 1.0, "validation fraction is ",
             validation_fraction, ", wanted 0 to 1");
  const std::int64_t count = data.num_episodes();
  if (count < 2)
    throw_error(ErrorKind::kInput,
                "{}: {} episode, wanted at least 2: one to train on, one to validate",
                data.path().string(), count);
  const std::int64_t num_validation = std::clamp<std::int64_t>(
      std::llround(validation_fraction * static_cast<double>(count)), 1, count - 1);
  std::vector<std::int64_t> order(static_cast<std::size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  CounterRng rng(seed, kSplitStream);
  shuffle(order, rng);
  Split split;
  split.validation.assign(order.begin(), order.begin() + num_validation);
  split.train.assign(order.begin() + num_validation, order.end());
  std::ranges::sort(split.validation);
  std::ranges::sort(split.train);
  return split;
}

WindowSampler::WindowSampler(std::vector<Source> sources, std::int64_t context_length,
                             std::uint64_t seed, std::uint64_t stream)
    : sources_(std::move(sources)), context_length_(context_length), seed_(seed), stream_(stream) {
  check_sources(sources_, context_length_);
  std::int64_t end = 0;
  for (std::int64_t source = 0; source < std::ssize(sources_); ++source) {
    const Source& from = sources_[static_cast<std::size_t>(source)];
    for (const std::int64_t episode : from.episodes) {
      entries_.push_back({source, episode});
      ends_.push_back(end += from.data->length(episode));
    }
  }
}

Window WindowSampler::draw(std::uint64_t index) const {
  // An episode in proportion to its length and then one of its steps, uniformly, is one of all
  // steps, uniformly; the window ends behind it.
  CounterRng rng(seed_, stream_, index);
  const auto step = static_cast<std::int64_t>(rng.below(static_cast<std::uint64_t>(ends_.back())));
  const auto at = static_cast<std::size_t>(std::ranges::upper_bound(ends_, step) - ends_.begin());
  const std::int64_t end = step - (at == 0 ? 0 : ends_[at - 1]) + 1;
  return {entries_[at].source, entries_[at].episode,
          std::max<std::int64_t>(0, end - context_length_), end};
}

CarriedWalk::CarriedWalk(std::vector<Source> sources, std::int64_t context_length,
                         std::uint64_t seed, std::uint64_t row, std::uint64_t next_index)
    : sources_(std::move(sources)),
      context_length_(context_length),
      seed_(seed),
      row_(row),
      next_index_(next_index) {
  check_sources(sources_, context_length_);
  plan_pass(0);
  const auto in_first = static_cast<std::uint64_t>(windows_of(visits_.front()));
  position_ = CounterRng(seed_, kWalkStream, row_).below(in_first) + next_index;
  while (position_ >= windows_in_pass_) {
    position_ -= windows_in_pass_;
    plan_pass(pass_ + 1);
  }
}

std::int64_t CarriedWalk::windows_of(const Visit& visit) const {
  return 1 + (visit.length - visit.first_length + context_length_ - 1) / context_length_;
}

void CarriedWalk::plan_pass(std::uint64_t pass) {
  pass_ = pass;
  visits_.clear();
  for (std::int64_t source = 0; source < std::ssize(sources_); ++source) {
    const Source& from = sources_[static_cast<std::size_t>(source)];
    for (const std::int64_t episode : from.episodes)
      visits_.push_back({source, episode, from.data->length(episode), 0, 0});
  }
  // Counters of a row's pass begin at a number no other pass reaches.
  CounterRng rng(seed_, kWalkStream + 1 + row_, pass << 32);
  shuffle(visits_, rng);
  windows_in_pass_ = 0;
  for (Visit& visit : visits_) {
    const auto longest = static_cast<std::uint64_t>(std::min(context_length_, visit.length));
    visit.first_length = 1 + static_cast<std::int64_t>(rng.below(longest));
    visit.first_window = windows_in_pass_;
    windows_in_pass_ += static_cast<std::uint64_t>(windows_of(visit));
  }
}

Window CarriedWalk::next() {
  const auto after = std::ranges::upper_bound(visits_, position_, {}, &Visit::first_window);
  const Visit& visit = *(after - 1);
  const auto number = static_cast<std::int64_t>(position_ - visit.first_window);
  Window window{.source = visit.source, .episode = visit.episode};
  window.start = number == 0 ? 0 : visit.first_length + (number - 1) * context_length_;
  window.end = std::min(visit.length, visit.first_length + number * context_length_);
  window.carries_state = number > 0 && next_index_ > 0;
  ++next_index_;
  if (++position_ == windows_in_pass_) {
    position_ = 0;
    plan_pass(pass_ + 1);
  }
  return window;
}
}  // namespace lram::datasets
