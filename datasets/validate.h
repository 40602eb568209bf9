#pragma once
#include <string>
#include <vector>

#include "datasets/episode_file.h"

namespace lram::datasets {

/// One thing that is wrong: where in the file, what is there, what was wanted.
struct Finding {
  std::string place;  ///< "/actions[1204,0] (episode 3, step 204)"
  std::string found;
  std::string wanted;
};

/// Looks at every value: checksums, finite numbers, observation columns that vary, actions within
/// their bounds, flags of 0 or 1 that are set on the last step and only there, lengths within the
/// task's limit, returns equal to the sum of the rewards; of a journal also the bytes behind the
/// last complete episode. At most five findings of a kind and array are spelt out, the rest is
/// counted. Rows are those of the finished file, for a journal too.
std::vector<Finding> validate(const EpisodeFile& file);

}  // namespace lram::datasets
