#pragma once
#include <torch/types.h>

#include <cstdint>

namespace lram::model {
// What cells made of few operations share (slstm_operations.cpp, lstm_operations.cpp). B batch, T
// tokens, H heads, D = H * d units. Their tensors are [T, H, B, ., d]: a token's part is one piece
// of memory, and the heads a batch of products.

inline torch::Tensor row(const torch::Tensor& x, std::int64_t index) { return x.select(-2, index); }
inline torch::Tensor rows(const torch::Tensor& x, std::int64_t first, std::int64_t count) {
  return x.narrow(-2, first, count);
}

/// [B, T, D] -> [T, H, B, d].
inline torch::Tensor tokens_first(const torch::Tensor& x, std::int64_t heads) {
  return x.view({x.size(0), x.size(1), heads, -1}).permute({1, 2, 0, 3}).contiguous();
}

/// [T + 1, H, B, d], the first before any token -> [B, T, D].
inline torch::Tensor after_tokens(const torch::Tensor& x) {
  const std::int64_t tokens = x.size(0) - 1;
  return x.narrow(0, 1, tokens)
      .permute({2, 0, 1, 3})
      .reshape({x.size(2), tokens, x.size(1) * x.size(3)});
}

/// [T + 1, H, B, d] -> [B, D] after `count` [B] int64 tokens of each row, undefined = all.
inline torch::Tensor last_of_rows(const torch::Tensor& x, const torch::Tensor& count) {
  const std::int64_t heads = x.size(1), batch = x.size(2), unit = x.size(3);
  const torch::Tensor last =
      count.defined() ? x.gather(0, count.view({1, 1, batch, 1}).expand({1, heads, batch, unit}))[0]
                      : x[x.size(0) - 1];
  return last.transpose(0, 1).reshape({batch, heads * unit});
}

/// Of weights [H, G d, d] that mixed h [T + 1, H, B, d] into gates with gradients [T, H, B, G, d].
inline torch::Tensor recurrent_gradient(const torch::Tensor& dgates, const torch::Tensor& h) {
  const std::int64_t tokens = dgates.size(0), heads = dgates.size(1), batch = dgates.size(2),
                     unit = dgates.size(4);
  const torch::Tensor by_head =
      dgates.permute({1, 3, 4, 0, 2}).reshape({heads, dgates.size(3) * unit, tokens * batch});
  return at::bmm(by_head, h.narrow(0, 0, tokens).transpose(0, 1).reshape({heads, -1, unit}));
}

}  // namespace lram::model
