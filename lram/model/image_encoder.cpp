#include "lram/model/image_encoder.h"

#include <fmt/core.h>

#include "lram/core/error.h"
#include "lram/core/text.h"
#include "lram/model/impala.h"
#include "lram/model/vil.h"
#include "lram/model/vit.h"

namespace lram::model {
namespace {
constexpr std::int64_t kChannels = 3;

std::shared_ptr<ImageEncoder> make_impala(const PolicyConfig& c) {
  return std::make_shared<ImpalaEncoder>(kChannels, c.image_size, c.image_size, c.embed_dim);
}

void check_patches(const PolicyConfig& c) {
  check_range("image_dim", c.image_dim, 1, 1 << 16);
  check_range("image_blocks", c.image_blocks, 1, 1 << 10);
  check_range("image_patch", c.image_patch, 1, c.image_size);
  check_divides(c.image_size, "image_size", "image_patch", c.image_patch);
}

void check_vil(const PolicyConfig& c) {
  check_patches(c);
  check_range("vil_version", c.vil_version, 1, 2);
  if (c.image_dim % 4 != 0)
    throw_error(ErrorKind::kUsage, "model.image_dim is {}, wanted a multiple of 4 for a vil",
                c.image_dim);
  if (c.vil_version == 2 && c.image_blocks % 2 != 0)
    throw_error(
        ErrorKind::kUsage,
        "model.image_blocks is {}, wanted an even number: a vil of version 2 scans in pairs",
        c.image_blocks);
}

std::shared_ptr<ImageEncoder> make_vil(const PolicyConfig& c) {
  VilConfig vil = c.vil_version == 1 ? VilConfig::v1() : VilConfig::v2();
  vil.dim = c.image_dim;
  vil.num_blocks = c.image_blocks;
  vil.patch = c.image_patch;
  vil.channels = kChannels;
  vil.height = vil.width = c.image_size;
  vil.num_outputs = c.embed_dim;
  // The package's classifier starts at 2e-5; behind it here is a LayerNorm with eps 1e-5, which
  // would pass almost nothing on. 0.02 is that of the policy's other encoders.
  vil.head_std = 0.02;
  return std::make_shared<VisionLstm>(vil);
}

void check_vit(const PolicyConfig& c) {
  check_patches(c);
  check_range("image_heads", c.image_heads, 1, 1 << 10);
  check_divides(c.image_dim, "image_dim", "image_heads", c.image_heads);
}

std::shared_ptr<ImageEncoder> make_vit(const PolicyConfig& c) {
  return std::make_shared<VisionTransformer>(VitConfig{.dim = c.image_dim,
                                                       .num_blocks = c.image_blocks,
                                                       .num_heads = c.image_heads,
                                                       .patch = c.image_patch,
                                                       .channels = kChannels,
                                                       .height = c.image_size,
                                                       .width = c.image_size,
                                                       .num_outputs = c.embed_dim});
}

struct Kind {
  const char* name;
  void (*check)(const PolicyConfig&);
  std::shared_ptr<ImageEncoder> (*make)(const PolicyConfig&);
};

const Kind kKinds[] = {
    {"impala", [](const PolicyConfig&) {}, make_impala},
    {"vil", check_vil, make_vil},
    {"vit", check_vit, make_vit},
};

const Kind& kind_of(const PolicyConfig& config) {
  for (const Kind& kind : kKinds)
    if (config.image_encoder == kind.name) return kind;
  throw_error(ErrorKind::kUsage, "model.image_encoder is '{}', wanted one of {}",
              config.image_encoder, joined(image_encoder_names()));
}
}  // namespace

std::vector<std::string> image_encoder_names() {
  std::vector<std::string> names;
  for (const Kind& kind : kKinds) names.push_back(kind.name);
  return names;
}

void validate_image_encoder(const PolicyConfig& config) {
  const Kind& kind = kind_of(config);
  if (config.image_size > 0)
    kind.check(config);
  else if (config.image_encoder != PolicyConfig().image_encoder)
    throw_error(ErrorKind::kUsage, "model.image_size is 0, wanted at least 1 for a {}", kind.name);
}

std::shared_ptr<ImageEncoder> make_image_encoder(const PolicyConfig& config) {
  return kind_of(config).make(config);
}

}  // namespace lram::model
