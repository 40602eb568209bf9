#include "datasets/episode_file.h"

namespace lram::datasets {
EpisodeFile::EpisodeFile(const std::filesystem::path& path) {
  if (path.extension() == ".part") {
    journal_.emplace(path);
    episodes_ = journal_->episodes();
  } else {
    data_.emplace(path);
    for (std::int64_t e = 0; e < data_->num_episodes(); ++e) episodes_.push_back(data_->episode(e));
  }
}

std::int64_t EpisodeFile::num_steps() const {
  std::int64_t steps = 0;
  for (const EpisodeView& episode : episodes_) steps += episode.length();
  return steps;
}
}  // namespace lram::datasets
