#include "lram/model/impala.h"

#include "lram/core/error.h"
#include "lram/model/block_parts.h"
#include "lram/model/named_parameter.h"

namespace lram::model {
ImpalaEncoder::ImpalaEncoder(std::int64_t channels, std::int64_t height, std::int64_t width,
                             std::int64_t features, const std::vector<std::int64_t>& stage_widths) {
  const auto convolution = [&](const std::string& name, std::int64_t in, std::int64_t out) {
    return Convolution{
        add_parameter(*this, name + ".weight", uniform_init({out, in, 3, 3}, 9 * in)),
        add_parameter(*this, name + ".bias", uniform_init({out}, 9 * in))};
  };
  for (std::size_t i = 0; i < stage_widths.size(); ++i) {
    const std::string stage = "cnn." + std::to_string(i);
    const std::int64_t out = stage_widths[i];
    stages_.emplace_back().conv = convolution(stage + ".conv", channels, out);
    for (int unit = 0; unit < 2; ++unit)
      for (int k = 0; k < 2; ++k)
        stages_.back().units[unit][k] =
            convolution(fmt::format("{}.residual_{}.conv_{}", stage, unit, k), out, out);
    channels = out;
    height = (height + 1) / 2;
    width = (width + 1) / 2;
  }
  // N(0, 0.02) and no bias, as LRAM's other encoders.
  linear_weight_ =
      add_parameter(*this, "linear.0.weight",
                    torch::empty({features, channels * height * width}).normal_(0.0, 0.02));
  linear_bias_ = add_parameter(*this, "linear.0.bias", torch::zeros({features}));
}

torch::Tensor ImpalaEncoder::stages(const torch::Tensor& image) {
  LRAM_CHECK(image.dim() == 4, "images have ", image.dim(), " dimensions, wanted [B, C, H, W]");
  const auto conv = [](const torch::Tensor& x, const Convolution& c) {
    return torch::conv2d(x, c.weight, c.bias, /*stride=*/1, /*padding=*/1);
  };
  torch::Tensor x = image.to(linear_weight_.scalar_type()) / 255.0;
  for (const Stage& stage : stages_) {
    x = torch::max_pool2d(conv(x, stage.conv), /*kernel_size=*/3, /*stride=*/2, /*padding=*/1);
    for (const auto& unit : stage.units)
      x = x + conv(torch::relu(conv(torch::relu(x), unit[0])), unit[1]);
  }
  return x;
}

torch::Tensor ImpalaEncoder::forward(const torch::Tensor& image) {
  const torch::Tensor x = torch::relu(stages(image)).flatten(1);
  return torch::relu(torch::linear(x, linear_weight_, linear_bias_));
}

}  // namespace lram::model
