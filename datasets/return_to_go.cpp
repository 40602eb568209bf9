#include "datasets/return_to_go.h"

#include "lram/core/error.h"

namespace lram::datasets {
void return_to_go(std::span<const float> rewards, std::span<float> out) {
  LRAM_CHECK(rewards.size() == out.size(), rewards.size(), " rewards, room for ", out.size());
  float sum = 0.0f;
  for (std::size_t t = rewards.size(); t-- > 0;) out[t] = sum += rewards[t];
}
}  // namespace lram::datasets
