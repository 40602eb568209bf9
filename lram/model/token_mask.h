#pragma once
#include <torch/types.h>

#include <cstdint>

#include "lram/model/backbone.h"

namespace lram::model {
// B rows, T tokens.

/// A SequenceMask as the cells use it.
struct TokenMask {
  torch::Tensor valid;  ///< [B, T] bool, tokens in [begin, end); undefined = all
  torch::Tensor reset;  ///< [B, T] bool, resets at tokens that count; undefined = none

  /// The same tokens' mask for tokens [first, first + count).
  TokenMask narrow(std::int64_t first, std::int64_t count) const;
};

/// Checks shapes and types (throws Error(kUsage) that names the field) and works out which tokens
/// count. On a CPU a mask that changes nothing comes back undefined.
TokenMask resolve_mask(const SequenceMask& mask, std::int64_t batch, std::int64_t tokens);

/// `mask` without the parts that `resolved`, which was worked out from it, found to change nothing.
SequenceMask without_trivial_parts(const SequenceMask& mask, const TokenMask& resolved);

/// `x` [B, T, ...] with zeros where a token does not count; what stood there (NaN too) is gone, and
/// so are the gradients.
torch::Tensor zero_masked(const torch::Tensor& x, const torch::Tensor& valid);

}  // namespace lram::model
