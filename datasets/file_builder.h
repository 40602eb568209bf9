#pragma once
#include <filesystem>

#include "datasets/journal.h"

namespace lram::datasets {

/// Writes the episodes of a journal as the finished file `path`: beside, flushed, renamed. Reads
/// the journal three times in order and holds none of it in memory. Throws Error(kResource) and
/// leaves no litter.
void build_file(const std::filesystem::path& path, const Journal& journal);

}  // namespace lram::datasets
