#pragma once
#include <cstdint>

namespace lram::tokenization {

/// Equal bins on [-1, 1], computed in float32 as LRAM does (lram.md 1.5), so that its classes come
/// out bit for bit: a float just below an edge can round into the bin above. Values outside fall
/// into the outer bins, NaN into bin 0.
class UniformBins {
 public:
  /// Throws Error(kUsage) unless num_bins >= 1.
  explicit UniformBins(std::int64_t num_bins);

  std::int64_t num_bins() const { return num_bins_; }
  std::int64_t encode(float value) const;
  /// The bin's centre; LRAM takes the left edge and so never reaches +1.
  float decode(std::int64_t bin) const;

 private:
  std::int64_t num_bins_;
  float width_;
};

}  // namespace lram::tokenization
