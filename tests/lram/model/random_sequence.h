#pragma once
#include <torch/types.h>

#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "lram/model/backbone.h"

namespace lram::test {}
namespace lram::model::test {
using namespace lram::test;  // so that test:: means both in a file with others

/// Draws of one random case. Tensors come from its own generator, so a seed names the case.
class Draw {
 public:
  explicit Draw(std::uint64_t seed)
      : engine_(seed), generator_(at::make_generator<at::CPUGeneratorImpl>(seed)) {}

  std::int64_t integer(std::int64_t low, std::int64_t high) {  // both included
    return std::uniform_int_distribution<std::int64_t>(low, high)(engine_);
  }
  bool coin(double probability = 0.5) { return std::bernoulli_distribution(probability)(engine_); }
  torch::Tensor normal(at::IntArrayRef shape, torch::ScalarType dtype) {
    return torch::randn(shape, generator_, torch::kDouble).to(dtype);
  }

  /// Ragged rows (empty ones too) and resets, each part with probability 1/2.
  SequenceMask mask(std::int64_t batch, std::int64_t tokens) {
    SequenceMask out;
    if (coin()) {
      out.begin = torch::zeros({batch}, torch::kInt32);
      out.end = torch::zeros({batch}, torch::kInt32);
      for (std::int64_t b = 0; b < batch; ++b) {
        const std::int64_t begin = integer(0, tokens), end = integer(begin, tokens);
        out.begin[b] = static_cast<std::int32_t>(begin);
        out.end[b] = static_cast<std::int32_t>(end);
      }
    }
    if (coin()) out.reset = torch::rand({batch, tokens}, generator_).lt(0.15).to(torch::kUInt8);
    return out;
  }

 private:
  std::mt19937_64 engine_;
  at::Generator generator_;
};

/// `mask` for tokens [first, first + count) of T.
inline SequenceMask piece(const SequenceMask& mask, std::int64_t first, std::int64_t count) {
  SequenceMask out;
  const auto shifted = [&](const torch::Tensor& bound) {
    return (bound - first).clamp(0, count).to(torch::kInt32);
  };
  if (mask.begin.defined()) out.begin = shifted(mask.begin);
  if (mask.end.defined()) out.end = shifted(mask.end);
  if (mask.reset.defined()) out.reset = mask.reset.narrow(1, first, count);
  return out;
}

/// [B, T] bool: tokens that count.
inline torch::Tensor counts(const SequenceMask& mask, std::int64_t batch, std::int64_t tokens) {
  torch::Tensor out = torch::ones({batch, tokens}, torch::kBool);
  const torch::Tensor position = torch::arange(tokens);
  if (mask.begin.defined()) out = out & (position >= mask.begin.unsqueeze(1));
  if (mask.end.defined()) out = out & (position < mask.end.unsqueeze(1));
  return out;
}

/// x [B, T, ...] with NaN where a token does not count.
inline torch::Tensor poison(const torch::Tensor& x, const SequenceMask& mask) {
  std::vector<std::int64_t> shape(static_cast<std::size_t>(x.dim()), 1);
  shape[0] = x.size(0), shape[1] = x.size(1);
  return x.masked_fill(counts(mask, x.size(0), x.size(1)).logical_not().view(shape),
                       std::numeric_limits<double>::quiet_NaN());
}

/// |a - b| / |b|; infinite where a NaN is.
inline double relative_error(const torch::Tensor& a, const torch::Tensor& b) {
  const double error = (a.detach() - b.detach()).to(torch::kDouble).norm().item<double>();
  const double size = b.detach().to(torch::kDouble).norm().item<double>();
  const double ratio = error == 0.0 ? 0.0 : error / size;
  return ratio == ratio ? ratio : std::numeric_limits<double>::infinity();
}

}  // namespace lram::model::test
