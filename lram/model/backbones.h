#pragma once
#include <memory>
#include <string>
#include <vector>

#include "lram/model/backbone.h"
#include "lram/model/config.h"

namespace lram::model {

/// The names that `model.backbone` takes.
std::vector<std::string> backbone_names();

/// Throws Error(kUsage) that names the field, its value and what was wanted, for a backbone that
/// cannot be built. What all backbones share is validate()'s part (config.h).
void validate_backbone(const PolicyConfig& config);

/// The backbone that `config` describes, with random weights from torch's generator.
std::shared_ptr<Backbone> make_backbone(const PolicyConfig& config);

}  // namespace lram::model
