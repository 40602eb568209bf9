#pragma once
#include <filesystem>
#include <vector>

#include "datasets/episode.h"
#include "datasets/schema.h"
#include "lram/core/spec.h"

namespace lram::datasets {

/// Writes episodes, which lie in a mapped journal, as the finished file `path`: beside, flushed,
/// renamed. Reads them three times in order and holds none of them in memory. Throws
/// Error(kResource) and leaves no litter.
void build_file(const std::filesystem::path& path, const TaskSpec& spec, const Generator& generator,
                const std::vector<EpisodeView>& episodes);

}  // namespace lram::datasets
