#pragma once
#include <cstdint>

namespace lram::tokenization {

/// LRAM's sequence (lram.md 1.1): each time step is a state, a return-to-go and a reward token, in
/// this order. The action of the step is read at the return-to-go token, so the reward token, which
/// holds the reward of that action, comes behind it. When an agent runs, the same stream is fed as
/// (r_{t-1} unless t = 0), s_t, rtg_t; nothing stands for r_{-1}.
inline constexpr std::int64_t kStateToken = 0;
inline constexpr std::int64_t kReturnToken = 1;
inline constexpr std::int64_t kRewardToken = 2;
inline constexpr std::int64_t kTokensPerStep = 3;

}  // namespace lram::tokenization
