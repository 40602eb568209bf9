#pragma once
#include <torch/nn/module.h>
#include <torch/types.h>

#include <memory>
#include <string>
#include <vector>

#include "lram/model/config.h"

namespace lram::model {
// B images, C channels, F features.

/// Images to vectors: the observation token of a policy.
class ImageEncoder : public torch::nn::Module {
 public:
  /// image: [B, C, H, W], uint8 pixels. Returns [B, F] in the type of the weights.
  virtual torch::Tensor forward(const torch::Tensor& image) = 0;
};

/// The names that `model.image_encoder` takes.
std::vector<std::string> image_encoder_names();

/// Throws Error(kUsage) that names the field, its value and what was wanted, for an encoder that
/// cannot be built; without images (image_size 0) for any but the default.
void validate_image_encoder(const PolicyConfig& config);

/// The encoder that model.image_encoder names, for images [3, image_size, image_size] and F =
/// embed_dim. Initial values come from torch's generator. Takes a config that validate() accepts.
std::shared_ptr<ImageEncoder> make_image_encoder(const PolicyConfig& config);

}  // namespace lram::model
