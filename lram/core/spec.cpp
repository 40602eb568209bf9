#include "lram/core/spec.h"

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "lram/core/error.h"
#include "lram/core/json.h"

namespace lram {
namespace {
using nlohmann::json;

template <typename T>
T field(const json& object, const char* name) {
  const auto at = object.find(name);
  if (at == object.end()) throw_error(ErrorKind::kInput, "TaskSpec: no field '{}'", name);
  try {
    return at->get<T>();
  } catch (const json::exception& error) {
    throw_error(ErrorKind::kInput, "TaskSpec: field '{}' is {}: {}", name, at->dump(),
                error.what());
  }
}

// JSON has no infinity, so an open bound is null.
json bounds_to_json(const std::vector<double>& bounds) {
  json out = json::array();
  for (double bound : bounds) out.push_back(std::isfinite(bound) ? json(bound) : json(nullptr));
  return out;
}

std::vector<double> bounds_from_json(const json& object, const char* name, double open) {
  std::vector<double> out;
  for (const json& bound : field<json>(object, name)) {
    if (!bound.is_null() && !bound.is_number())
      throw_error(ErrorKind::kInput, "TaskSpec: field '{}' holds {}", name, json_text(bound));
    out.push_back(bound.is_null() ? open : bound.get<double>());
  }
  return out;
}
}  // namespace

void to_json(json& out, const TaskSpec& spec) {
  json parts = json::array();
  for (const ObservationPart& part : spec.observation.parts)
    parts.push_back({{"name", part.name}, {"size", part.size}});
  out = {{"id", spec.id},
         {"observation",
          {{"parts", parts},
           {"vector_size", spec.observation.vector_size},
           {"image",
            {spec.observation.image_height, spec.observation.image_width,
             spec.observation.image_channels}}}},
         {"action",
          {{"discrete", spec.action.discrete},
           {"size", spec.action.size},
           {"num_actions", spec.action.num_actions},
           {"low", bounds_to_json(spec.action.low)},
           {"high", bounds_to_json(spec.action.high)}}},
         {"max_episode_steps", spec.max_episode_steps},
         {"control_dt", spec.control_dt},
         {"reward_scale", spec.reward_scale}};
}

void from_json(const json& in, TaskSpec& spec) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  TaskSpec out;
  out.id = field<std::string>(in, "id");
  const json observation = field<json>(in, "observation");
  std::int64_t total = 0;
  for (const json& part : field<json>(observation, "parts")) {
    out.observation.parts.push_back(
        {field<std::string>(part, "name"), field<std::int64_t>(part, "size")});
    total += out.observation.parts.back().size;
  }
  out.observation.vector_size = field<std::int64_t>(observation, "vector_size");
  if (!out.observation.parts.empty() && total != out.observation.vector_size)
    throw_error(ErrorKind::kInput, "TaskSpec '{}': parts add up to {}, vector_size is {}", out.id,
                total, out.observation.vector_size);
  const auto image = field<std::vector<std::int64_t>>(observation, "image");
  if (image.size() != 3)
    throw_error(ErrorKind::kInput, "TaskSpec '{}': image has {} sizes, wanted 3", out.id,
                image.size());
  out.observation.image_height = image[0];
  out.observation.image_width = image[1];
  out.observation.image_channels = image[2];
  const json action = field<json>(in, "action");
  out.action.discrete = field<bool>(action, "discrete");
  out.action.size = field<std::int64_t>(action, "size");
  out.action.num_actions = field<std::int64_t>(action, "num_actions");
  out.action.low = bounds_from_json(action, "low", -kInfinity);
  out.action.high = bounds_from_json(action, "high", kInfinity);
  if (!out.action.discrete && (std::ssize(out.action.low) != out.action.size ||
                               std::ssize(out.action.high) != out.action.size))
    throw_error(ErrorKind::kInput, "TaskSpec '{}': {} low and {} high bounds, action size {}",
                out.id, out.action.low.size(), out.action.high.size(), out.action.size);
  out.max_episode_steps = field<std::int64_t>(in, "max_episode_steps");
  out.control_dt = field<double>(in, "control_dt");
  out.reward_scale = field<double>(in, "reward_scale");
  spec = std::move(out);
}
}  // namespace lram
