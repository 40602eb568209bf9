#pragma once
#include <array>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "datasets/episode.h"
#include "datasets/schema.h"
#include "lram/core/spec.h"

namespace lram::datasets {

/// How finish() arranges a file's episodes: as they were appended, or by seed, those of one seed as
/// they were appended (writers with several threads, whose episodes end in any order).
enum class EpisodeOrder { kAppended, kSeeds };

/// Collects the episodes of one task into the data set `path`.
///   DatasetWriter writer("data/cartpole_swingup.h5", env->spec(), {"planner", "1"});
///   while (writer.num_episodes() < wanted && !interrupted()) writer.append(collect_one(...));
///   if (writer.num_episodes() > 0) writer.finish();
///
/// append() goes to the journal `path`.part and is on the disk when it returns, so a kill at any
/// moment loses at most the episode under way; finish() builds `path` from the journal. Opened on
/// an existing journal, or on a finished file, it goes on behind the last complete episode:
/// - a torn tail of the journal is cut, with a warning on stderr;
/// - a finished file stays as it is until the next finish(); the first append() makes a journal
///   from it, so appending to it costs one copy.
/// Not thread-safe; a second writer on the same journal, in any process, is refused.
class DatasetWriter {
 public:
  /// Throws Error(kInput) where what exists belongs to another task, TaskSpec or generator, or is
  /// corrupt before its tail; Error(kResource) where the folder cannot be written.
  DatasetWriter(const std::filesystem::path& path, const TaskSpec& spec,
                const Generator& generator);
  ~DatasetWriter();  ///< leaves the journal for the next writer
  DatasetWriter(const DatasetWriter&) = delete;
  DatasetWriter& operator=(const DatasetWriter&) = delete;

  /// Adds one episode and flushes it to the disk. Throws Error(kUsage) on shapes that are not the
  /// task's, Error(kResource) on a full disk; after either the journal is as before.
  void append(const EpisodeView& episode);
  void append(const Episode& episode) { append(view(episode)); }

  /// Complete episodes so far, those found at the start included.
  std::int64_t num_episodes() const;
  /// Their seeds, as they were appended.
  const std::vector<std::uint64_t>& seeds() const;

  /// Builds `path` beside, flushes, renames, and removes the journal. Memory stays flat. Wants at
  /// least one episode. Throws Error(kResource), after which the journal is whole and finish() can
  /// be tried again. The writer is done afterwards; without a journal (nothing appended to a
  /// finished file) it does nothing.
  void finish(EpisodeOrder order = EpisodeOrder::kAppended);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lram::datasets
