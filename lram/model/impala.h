#pragma once
#include <torch/types.h>

#include <cstdint>
#include <vector>

#include "lram/model/image_encoder.h"

namespace lram::model {
// B images, C channels, F features.

/// The image encoder of IMPALA (Espeholt et al. 2018, Fig. 3, without the LSTM) in LRAM's layout
/// and with its parameter names: per stage conv 3x3 -> max-pool 3x3 stride 2 -> two residual units;
/// then ReLU, flatten (C, H, W), linear, ReLU.
class ImpalaEncoder : public ImageEncoder {
 public:
  ImpalaEncoder(std::int64_t channels, std::int64_t height, std::int64_t width,
                std::int64_t features,
                const std::vector<std::int64_t>& stage_widths = {16, 32, 32});

  /// image: [B, C, H, W] uint8. Returns [B, F] in the type of the weights.
  torch::Tensor forward(const torch::Tensor& image) override;
  /// The last stage, before the ReLU: [B, stage_widths.back(), H', W'].
  torch::Tensor stages(const torch::Tensor& image);

 private:
  struct Convolution {
    torch::Tensor weight, bias;
  };
  struct Stage {
    Convolution conv;
    Convolution units[2][2];  ///< residual unit, its two convolutions
  };
  std::vector<Stage> stages_;
  torch::Tensor linear_weight_, linear_bias_;
};

}  // namespace lram::model
