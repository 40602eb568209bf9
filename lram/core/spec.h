#pragma once
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace lram {

/// A named part of a vector observation, in order; unified layouts place parts by name.
struct ObservationPart {
  std::string name;
  std::int64_t size = 0;
  bool operator==(const ObservationPart&) const = default;
};

struct ObservationSpec {
  std::vector<ObservationPart> parts;  ///< of the vector; sizes add up to vector_size
  std::int64_t vector_size = 0;        ///< float32 values, 0 = no vector
  std::int64_t image_height = 0, image_width = 0, image_channels = 0;  ///< uint8 HWC, 0 = no image

  bool has_image() const { return image_height > 0; }
  std::int64_t image_size() const { return image_height * image_width * image_channels; }
  bool operator==(const ObservationSpec&) const = default;
};

struct ActionSpec {
  bool discrete = false;
  /// Continuous: entries of the action vector. Discrete: 1, the action is its index.
  std::int64_t size = 0;
  std::int64_t num_actions = 0;   ///< discrete only
  std::vector<double> low, high;  ///< continuous only, [size], task units; may be infinite
  bool operator==(const ActionSpec&) const = default;
};

/// Everything about a task that a data set, a policy or an evaluation must know.
struct TaskSpec {
  std::string id;  ///< domain/name, e.g. dmcontrol/cartpole_swingup
  ObservationSpec observation;
  ActionSpec action;
  std::int64_t max_episode_steps = 0;
  double control_dt = 0.0;    ///< seconds of simulated time per step, 0 = no clock
  double reward_scale = 1.0;  ///< LRAM's divisor of reward and return-to-go (lram.md 1.3)

  std::string domain() const { return id.substr(0, id.find('/')); }
  std::string name() const { return id.substr(id.find('/') + 1); }
  bool operator==(const TaskSpec&) const = default;
};

/// JSON with the field names above. from_json throws Error(kInput) that names the bad field.
void to_json(nlohmann::json& json, const TaskSpec& spec);
void from_json(const nlohmann::json& json, TaskSpec& spec);

}  // namespace lram
