#pragma once
#include <cstdint>
#include <vector>

#include "datasets/reader.h"

namespace lram::datasets {

/// Which episodes of a data set train and which validate; both ascending, neither empty.
struct Split {
  std::vector<std::int64_t> train, validation;
};

/// Draws `validation_fraction` of the episodes, rounded, at least one and leaving at least one; the
/// same for the same seed and number of episodes. LRAM holds 2.5 % of every task (lram.md 3.4).
/// Throws Error(kInput) on a data set of one episode.
Split split_episodes(const Dataset& data, std::uint64_t seed, double validation_fraction = 0.025);

/// Some episodes of one data set. The data set outlives whatever is built from it.
struct Source {
  const Dataset* data = nullptr;
  std::vector<std::int64_t> episodes;
};

/// Steps [start, end) of one episode, 1 <= end - start <= context_length. Where it is shorter than
/// the context, the batch is padded on the left and masked.
struct Window {
  std::int64_t source = 0;   ///< index into the sampler's sources
  std::int64_t episode = 0;  ///< index into that data set
  std::int64_t start = 0, end = 0;
  /// The recurrent state after the row's previous window goes on here; false: an empty state.
  bool carries_state = false;

  std::int64_t length() const { return end - start; }
  bool operator==(const Window&) const = default;
};

/// Windows as in LRAM (lram.md 1.4): an episode in proportion to its length, then the end uniform
/// on 1..L and start = max(0, end - context_length), so that short prefixes come as often as when
/// the agent runs. Unlike LRAM's, the last step of an episode is among them.
/// Draw n is a pure function of (sources, context_length, seed, stream, n). Thread-safe.
class WindowSampler {
 public:
  /// Throws Error(kUsage) without sources, episodes or a context of at least 1.
  WindowSampler(std::vector<Source> sources, std::int64_t context_length, std::uint64_t seed,
                std::uint64_t stream = 0);

  Window draw(std::uint64_t index) const;
  const std::vector<Source>& sources() const { return sources_; }
  std::int64_t num_steps() const { return ends_.back(); }

 private:
  struct Entry {
    std::int64_t source, episode;
  };
  std::vector<Source> sources_;
  std::vector<Entry> entries_;      // every episode of every source
  std::vector<std::int64_t> ends_;  // running sum of their lengths
  std::int64_t context_length_;
  std::uint64_t seed_, stream_;
};

/// One row of a batch for truncated backpropagation through time: it walks through whole episodes,
/// window after window, each carrying the state of the one before. Per pass all episodes come once,
/// in an order of the row's own; the first window of an episode has a random length, so that the
/// cuts differ between passes; the first episode of all is entered at a random window, so that rows
/// do not end their episodes together.
/// Window n is a pure function of (sources, context_length, seed, row, n): a resumed run makes the
/// walk with the index of its next window. One thread at a time.
class CarriedWalk {
 public:
  CarriedWalk(std::vector<Source> sources, std::int64_t context_length, std::uint64_t seed,
              std::uint64_t row, std::uint64_t next_index = 0);

  Window next();
  /// The window that next() gives, as an index.
  std::uint64_t next_index() const { return next_index_; }

 private:
  struct Visit {
    std::int64_t source, episode, length;
    std::int64_t first_length;   // of its first window
    std::uint64_t first_window;  // counted from the start of the pass
  };
  void plan_pass(std::uint64_t pass);
  std::int64_t windows_of(const Visit& visit) const;

  std::vector<Source> sources_;
  std::int64_t context_length_;
  std::uint64_t seed_, row_;
  std::uint64_t position_ = 0;  // of the window in its pass
  std::uint64_t pass_ = 0;
  std::vector<Visit> visits_;  // of the pass
  std::uint64_t windows_in_pass_ = 0;
  std::uint64_t next_index_ = 0;
};

}  // namespace lram::datasets
