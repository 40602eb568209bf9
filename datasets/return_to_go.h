#pragma once
#include <span>

namespace lram::datasets {

/// out[t] = rewards[t] + rewards[t + 1] + ... of one episode, undiscounted, added in float32 from
/// the end as LRAM does (lram.md 3.3). Both [T]; rewards reach to the end of the episode.
void return_to_go(std::span<const float> rewards, std::span<float> out);

}  // namespace lram::datasets
