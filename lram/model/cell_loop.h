#pragma once
#include <ATen/Parallel.h>
#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>

namespace lram::model {
// What the CPU loops of the cells with recurrence within heads share. An operation of LibTorch
// costs more there than what it does for one token.

struct HeadSizes {
  std::int64_t batch, tokens, heads, unit;  ///< unit: units per head
  std::int64_t dim() const { return heads * unit; }
};

/// Runs work(b, head) for all heads of all rows, in parallel: nothing passes between heads. Few at
/// a time make a task, unless they are so small (a single token) that threads would cost more.
template <typename Work>
void for_heads(const HeadSizes& size, const Work& work) {
  const std::int64_t grain =
      std::max<std::int64_t>(1, 65536 / (size.tokens * size.unit * (size.unit + 32)));
  at::parallel_for(0, size.batch * size.heads, grain, [&](std::int64_t first, std::int64_t end) {
    for (std::int64_t task = first; task < end; ++task) work(task / size.heads, task % size.heads);
  });
}

/// Row b of a dense bool [B, T], null if it is undefined.
inline const bool* mask_row(const torch::Tensor& mask, std::int64_t b) {
  return mask.defined() ? mask.const_data_ptr<bool>() + b * mask.size(1) : nullptr;
}

/// out[j] += sum_r factors[r] * matrix[r][j], rows of `width` numbers.
template <typename Scalar>
void add_rows(const Scalar* __restrict__ matrix, const Scalar* __restrict__ factors,
              std::int64_t rows, std::int64_t width, Scalar* __restrict__ out) {
  std::int64_t r = 0;
  for (; r + 4 <= rows; r += 4) {  // four at a time: `out` is read and written once for them
    const Scalar *a = matrix + r * width, *b = a + width, *c = b + width, *d = c + width;
    for (std::int64_t j = 0; j < width; ++j)
      out[j] +=
          factors[r] * a[j] + factors[r + 1] * b[j] + factors[r + 2] * c[j] + factors[r + 3] * d[j];
  }
  for (; r < rows; ++r)
    for (std::int64_t j = 0; j < width; ++j) out[j] += factors[r] * matrix[r * width + j];
}

/// float32 goes through float64: the C library's exp is several times quicker than its float tanh,
/// and no less exact at that width.
template <typename Scalar>
Scalar hyperbolic_tangent(Scalar x) {
  if constexpr (std::is_same_v<Scalar, double>) return std::tanh(x);
  return static_cast<Scalar>(1 - 2 / (std::exp(2.0 * x) + 1));
}

template <typename Scalar>
Scalar logistic(Scalar x) {
  return 1 / (1 + std::exp(-x));
}

}  // namespace lram::model
