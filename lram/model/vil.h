#pragma once
#include <torch/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "lram/model/image_encoder.h"
#include "lram/model/vil_block.h"

namespace lram::model {
// B images, C channels, N tokens (patches), D width, F outputs.

enum class VilPooling {
  kAverage,  ///< "bilateral_avg": mean of the first and the last token, D wide
  kFlatten,  ///< "bilateral_flatten": both, one behind the other, 2D wide
};

/// Vision-LSTM as the public package builds it. v1() and v2() give the published variants.
struct VilConfig {
  int version = 2;  ///< of the names, and of which norm stands where
  std::int64_t dim = 192;
  std::int64_t num_blocks = 24;  ///< scans; the package's v2 counts pairs of them ("depth")
  std::int64_t patch = 16;
  std::int64_t channels = 3, height = 224, width = 224;
  std::int64_t num_outputs = 1000;
  VilPooling pooling = VilPooling::kFlatten;
  VilConvolution convolution = VilConvolution::kGrid;
  bool proj_bias = true, norm_bias = true;
  bool legacy_norm = true;     ///< the second norm that the published weights were trained with
  double head_std = 2e-5;      ///< of the head's initial weights
  bool scaled_output = false;  ///< proj_down's "wang" rule with num_blocks instead of 1: the
                               ///< package's "original-fixed"; its "original" lacks the factor

  static VilConfig v1();
  static VilConfig v2() { return {}; }
  /// "tiny", "small" or "base" of Alkin et al. (2024, Table 1). Throws Error(kUsage) for others.
  VilConfig& set_size(const std::string& size);
};

/// Vision-LSTM (Alkin et al. 2024, arXiv 2406.04303): patches with learned places, mLSTM blocks
/// that scan them alternately from the first to the last and back, the first and the last token to
/// a linear head. Names, norms and initial values are the package's (golden/baselines/README.md).
class VisionLstm : public ImageEncoder {
 public:
  /// Throws Error(kUsage) for a config that cannot be built, naming the field.
  explicit VisionLstm(const VilConfig& config);

  const VilConfig& config() const { return config_; }

  /// image: [B, C, H, W], uint8 (normalised as ImageNet's, patch_embedding.h) or already
  /// normalised. H and W may differ from the built ones in multiples of the patch. Returns [B, F].
  torch::Tensor forward(const torch::Tensor& image) override { return run(image, nullptr); }

  /// The steps of forward(), for tests and analysis.
  struct Stages {
    torch::Tensor tokens;               ///< [B, N, D] patches with their places
    std::vector<torch::Tensor> blocks;  ///< [B, N, D] after each scan
    torch::Tensor normed;               ///< [B, N, D] v1: after legacy_norm, v2: after norm
    torch::Tensor pooled;               ///< [B, D or 2D] after the other norm
    torch::Tensor out;                  ///< [B, F]
  };
  Stages stages(const torch::Tensor& image);
  const PatchEmbedding& embedding() const { return embedding_; }

 private:
  /// A norm of the tokens or of what is pooled; absent without legacy_norm.
  struct Norm {
    torch::Tensor weight, bias;
    bool residual = false;  ///< scale 1 + weight
    double eps = 0.0;
    torch::Tensor operator()(const torch::Tensor& x) const;
  };

  torch::Tensor run(const torch::Tensor& image, Stages* stages);

  VilConfig config_;
  PatchEmbedding embedding_;
  std::vector<VilBlock> blocks_;
  Norm token_norm_, pooled_norm_;
  torch::Tensor head_, head_bias_;
};

}  // namespace lram::model
