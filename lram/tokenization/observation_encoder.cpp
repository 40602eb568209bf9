#include "lram/tokenization/observation_encoder.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <string_view>

#include "lram/core/error.h"

namespace lram::tokenization {
namespace {
constexpr ObservationSlot kUnifiedSlots[] = {
    {"orientations", 0, 14},  {"velocity", 14, 27},         {"position", 41, 8},
    {"touch", 49, 5},         {"target_position", 54, 2},   {"dist_to_target", 56, 1},
    {"joint_angles", 57, 21}, {"upright", 78, 1},           {"target", 79, 3},
    {"head_height", 82, 1},   {"extremities", 83, 12},      {"torso_vertical", 95, 3},
    {"com_velocity", 98, 3},  {"arm_pos", 101, 16},         {"arm_vel", 117, 8},
    {"hand_pos", 125, 4},     {"object_pos", 129, 4},       {"object_vel", 133, 3},
    {"target_pos", 136, 4},   {"orientation", 140, 2},      {"to_target", 142, 2},
    {"joints", 144, 14},      {"body_velocities", 158, 45}, {"height", 203, 1}};

std::int64_t unified_place(const TaskSpec& spec, const ObservationPart& part) {
  for (const ObservationSlot& slot : kUnifiedSlots) {
    if (part.name != slot.name) continue;
    LRAM_CHECK(part.size <= slot.size, "task '", spec.id, "': observation part '", part.name,
               "' has ", part.size, " entries, its slot in the state vector has ", slot.size);
    return slot.begin;
  }
  throw_error(ErrorKind::kUsage,
              "task '{}': observation part '{}' has no slot in the state vector of {}", spec.id,
              part.name, kUnifiedStateDim);
}
}  // namespace

std::span<const ObservationSlot> unified_slots() { return kUnifiedSlots; }

ObservationEncoder::ObservationEncoder(const TaskEntry& task, std::int64_t state_dim)
    : task_(task.spec.id), state_dim_(state_dim), clip_(static_cast<float>(task.obs_clip)) {
  const TaskSpec& spec = task.spec;
  const std::int64_t size = spec.observation.vector_size;
  LRAM_CHECK(size <= state_dim, "task '", spec.id, "' has observations of ", size,
             " entries, the policy's state vector has state_dim = ", state_dim);
  if (spec.domain() == "dmcontrol" && state_dim >= kUnifiedStateDim) {
    for (const ObservationPart& part : spec.observation.parts) {
      const std::int64_t begin = unified_place(spec, part);
      for (std::int64_t i = 0; i < part.size; ++i) places_.push_back(begin + i);
    }
    LRAM_CHECK(std::ssize(places_) == size, "task '", spec.id, "' has observations of ", size,
               " entries, its parts add up to ", places_.size());
  } else {
    for (std::int64_t i = 0; i < size; ++i) places_.push_back(i);
  }

  LRAM_CHECK(task.obs_mean.size() == task.obs_std.size() &&
                 (task.obs_mean.empty() || std::ssize(task.obs_mean) == size),
             "task '", spec.id, "' has observations of ", size, " entries, but ",
             task.obs_mean.size(), " means and ", task.obs_std.size(), " standard deviations");
  LRAM_CHECK(task.obs_std_floor > 0.0 && task.obs_clip > 0.0, "task '", spec.id,
             "': obs_std_floor ", task.obs_std_floor, ", obs_clip ", task.obs_clip,
             ", wanted more than 0");
  for (std::size_t i = 0; i < task.obs_mean.size(); ++i) {
    mean_.push_back(static_cast<float>(task.obs_mean[i]));
    scale_.push_back(static_cast<float>(1.0 / std::max(task.obs_std[i], task.obs_std_floor)));
  }
}

void ObservationEncoder::encode(std::span<const float> observation, std::span<float> state) const {
  assert(observation.size() == places_.size() && std::ssize(state) == state_dim_);
  std::fill(state.begin(), state.end(), 0.0f);
  for (std::size_t i = 0; i < observation.size(); ++i) {
    float value = observation[i];
    if (!std::isfinite(value)) [[unlikely]]
      throw_error(ErrorKind::kInput,
                  "task '{}': observation entry {} is {}, wanted a finite number", task_, i, value);
    if (!mean_.empty()) value = std::clamp((value - mean_[i]) * scale_[i], -clip_, clip_);
    state[static_cast<std::size_t>(places_[i])] = value;
  }
}

}  // namespace lram::tokenization
