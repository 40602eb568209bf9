#include "datasets/schema.h"

#include <limits>

#include "lram/core/error.h"

namespace lram::datasets {
std::int64_t ArraySpec::num_bytes() const {
  std::int64_t bytes = element_size;
  for (const std::int64_t size : shape)
    if (__builtin_mul_overflow(bytes, size, &bytes))
      return std::numeric_limits<std::int64_t>::max();
  return bytes;
}

std::vector<ArraySpec> array_specs(const TaskSpec& spec, std::int64_t num_episodes,
                                   std::int64_t num_steps, std::int64_t variant_size) {
  const std::int64_t num_rows = num_steps + num_episodes;
  const ObservationSpec& obs = spec.observation;
  std::vector<ArraySpec> specs;
  if (obs.vector_size > 0)
    specs.push_back({"/observations", ElementType::kFloat32, {num_rows, obs.vector_size}, 4});
  if (obs.has_image())
    specs.push_back({"/images",
                     ElementType::kUint8,
                     {num_rows, obs.image_height, obs.image_width, obs.image_channels},
                     1});
  if (spec.action.discrete)
    specs.push_back({"/actions", ElementType::kInt32, {num_steps}, 4});
  else
    specs.push_back({"/actions", ElementType::kFloat32, {num_steps, spec.action.size}, 4});
  specs.push_back({"/rewards", ElementType::kFloat32, {num_steps}, 4});
  specs.push_back({"/terminated", ElementType::kUint8, {num_steps}, 1});
  specs.push_back({"/truncated", ElementType::kUint8, {num_steps}, 1});
  specs.push_back({"/episodes/offset", ElementType::kInt64, {num_episodes}, 8});
  specs.push_back({"/episodes/observation_offset", ElementType::kInt64, {num_episodes}, 8});
  specs.push_back({"/episodes/length", ElementType::kInt64, {num_episodes}, 8});
  specs.push_back({"/episodes/seed", ElementType::kUint64, {num_episodes}, 8});
  specs.push_back({"/episodes/return", ElementType::kFloat64, {num_episodes}, 8});
  specs.push_back({"/episodes/variant", ElementType::kString, {num_episodes}, variant_size});
  return specs;
}

std::string storage_problem(const TaskSpec& spec) {
  const ObservationSpec& obs = spec.observation;
  const bool any = obs.image_height > 0 || obs.image_width > 0 || obs.image_channels > 0;
  const bool all = obs.image_height > 0 && obs.image_width > 0 && obs.image_channels > 0;
  if (spec.id.empty()) return "the task has no id";
  if (obs.vector_size < 0 || any != all)
    return fmt::format("observation of {} values and an image of {} x {} x {}", obs.vector_size,
                       obs.image_height, obs.image_width, obs.image_channels);
  if (obs.vector_size == 0 && !all) return "neither a vector nor an image to observe";
  if (spec.action.discrete && spec.action.num_actions < 1)
    return fmt::format("{} discrete actions, wanted at least 1", spec.action.num_actions);
  if (!spec.action.discrete && spec.action.size < 1)
    return fmt::format("{} action entries, wanted at least 1", spec.action.size);
  return {};
}

std::filesystem::path journal_path(const std::filesystem::path& path) {
  return path.string() + ".part";
}
}  // namespace lram::datasets
