#pragma once
#include <filesystem>
#include <optional>
#include <vector>

#include "datasets/journal.h"
#include "datasets/reader.h"

namespace lram::datasets {

/// A finished data set or a journal (by its name, F.part), for those who look at either.
class EpisodeFile {
 public:
  /// Throws Error(kInput) as Dataset and Journal do.
  explicit EpisodeFile(const std::filesystem::path& path);

  const TaskSpec& spec() const { return data_ ? data_->spec() : journal_->spec(); }
  const Generator& generator() const { return data_ ? data_->generator() : journal_->generator(); }
  /// They live as long as this object.
  const std::vector<EpisodeView>& episodes() const { return episodes_; }
  std::int64_t num_steps() const;
  /// Null where the file is a journal, and the other way round.
  const Dataset* data() const { return data_ ? &*data_ : nullptr; }
  const Journal* journal() const { return journal_ ? &*journal_ : nullptr; }

 private:
  std::optional<Dataset> data_;
  std::optional<Journal> journal_;
  std::vector<EpisodeView> episodes_;
};

}  // namespace lram::datasets
