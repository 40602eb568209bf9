#include "lram/tokenization/action_codec.h"

#include <algorithm>
#include <cassert>
#include <cmath>

#include "lram/core/error.h"

namespace lram::tokenization {

ActionCodec::ActionCodec(const TaskSpec& spec, const ActionLayout& layout)
    : task_(spec.id),
      layout_(layout),
      bins_(layout.num_bins),
      discrete_(spec.action.discrete),
      slots_(discrete_ ? 1 : spec.action.size),
      first_class_(discrete_ ? 0 : layout.discrete_ids),
      end_class_(discrete_ ? spec.action.num_actions : layout.num_classes()),
      low_(spec.action.low),
      high_(spec.action.high) {
  LRAM_CHECK(slots_ >= 1 && slots_ <= layout.slots, "task '", task_, "' has actions of ", slots_,
             " entries, the policy has ", layout.slots, " slots");
  if (discrete_) {
    LRAM_CHECK(end_class_ >= 1 && end_class_ <= layout.discrete_ids, "task '", task_, "' has ",
               end_class_, " discrete actions, the policy has ", layout.discrete_ids, " ids");
    return;
  }
  LRAM_CHECK(std::ssize(low_) == slots_ && std::ssize(high_) == slots_, "task '", task_, "' has ",
             low_.size(), " low and ", high_.size(), " high bounds for ", slots_, " entries");
  for (std::size_t i = 0; i < low_.size(); ++i)
    LRAM_CHECK(std::isfinite(low_[i]) && std::isfinite(high_[i]) && low_[i] < high_[i], "task '",
               task_, "': action entry ", i, " has bounds [", low_[i], ", ", high_[i],
               "], wanted finite ones with low < high");
}

void ActionCodec::encode(std::span<const float> action, std::span<std::int64_t> classes) const {
  if (discrete_) {
    const float index = action[0];
    LRAM_CHECK(
        index >= 0.0f && index < static_cast<float>(end_class_) && index == std::floor(index),
        "task '", task_, "': action ", index, ", wanted an index below ", end_class_);
    return encode_index(static_cast<std::int64_t>(index), classes);
  }
  assert(std::ssize(action) == slots_ && std::ssize(classes) == layout_.slots);
  std::fill(classes.begin(), classes.end(), kNoClass);
  for (std::size_t i = 0; i < action.size(); ++i) {
    const double scaled = 2.0 * (action[i] - low_[i]) / (high_[i] - low_[i]) - 1.0;
    classes[i] = layout_.discrete_ids + bins_.encode(static_cast<float>(scaled));
  }
}

void ActionCodec::encode_index(std::int64_t index, std::span<std::int64_t> classes) const {
  LRAM_CHECK(discrete_ && index >= 0 && index < end_class_, "task '", task_, "': action ", index,
             ", wanted ", discrete_ ? "an index below " : "a vector of ",
             discrete_ ? end_class_ : slots_);
  assert(std::ssize(classes) == layout_.slots);
  std::fill(classes.begin(), classes.end(), kNoClass);
  classes[0] = index;
}

void ActionCodec::decode(std::span<const std::int64_t> classes, std::span<float> action) const {
  assert(std::ssize(classes) == layout_.slots && std::ssize(action) == slots_);
  for (std::size_t i = 0; i < action.size(); ++i) {
    const std::int64_t id = classes[i];
    LRAM_CHECK(id >= first_class_ && id < end_class_, "task '", task_, "': class ", id, " in slot ",
               i, ", wanted one of [", first_class_, ", ", end_class_, ")");
    if (discrete_) {
      action[i] = static_cast<float>(id);
    } else {
      const double unit = 0.5 * (1.0 + bins_.decode(id - layout_.discrete_ids));
      action[i] = static_cast<float>(low_[i] + unit * (high_[i] - low_[i]));
    }
  }
}

void ActionCodec::legal_mask(std::span<std::uint8_t> mask) const {
  assert(std::ssize(mask) == layout_.slots * layout_.num_classes());
  std::fill(mask.begin(), mask.end(), std::uint8_t{0});
  for (std::int64_t slot = 0; slot < slots_; ++slot) {
    const auto row = mask.begin() + slot * layout_.num_classes();
    std::fill(row + first_class_, row + end_class_, std::uint8_t{1});
  }
}

}  // namespace lram::tokenization
