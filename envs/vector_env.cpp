#include "envs/vector_env.h"

#include <algorithm>
#include <functional>

#include "lram/core/error.h"

namespace lram::envs {
namespace {
template <typename T>
std::span<T> row_of(std::span<T> rows, std::size_t index, std::size_t width, std::size_t used) {
  return rows.empty() ? rows : rows.subspan(index * width, used);
}

void check_size(const char* name, std::size_t got, std::size_t wanted) {
  if (got != wanted)
    throw_error(ErrorKind::kUsage, "VectorEnv: {} has {} entries, wanted {}", name, got, wanted);
}

/// Runs `body`, adding to what it throws which environment that was.
template <typename Body>
void with_number(std::size_t env, Body body) {
  try {
    body();
  } catch (const Error& error) {
    throw_error(error.kind(), "environment {}: {}", env, error.what());
  }
}
}  // namespace

VectorEnv::VectorEnv(std::string_view task, VectorOptions options)
    : VectorEnv(std::vector<std::string>{std::string(task)}, options) {}

VectorEnv::VectorEnv(const std::vector<std::string>& tasks, VectorOptions options)
    : options_(options), pool_(options.num_threads) {
  if (tasks.empty() || options.num_envs == 0)
    throw_error(ErrorKind::kUsage,
                "VectorEnv: {} tasks with {} environments each, wanted 1 or more", tasks.size(),
                options.num_envs);
  for (const std::string& task : tasks) {
    for (std::size_t number = 0; number < options.num_envs; ++number) {
      slots_.push_back({.environment = make(task), .number = number});
      const TaskSpec& spec = slots_.back().environment->spec();
      const auto widen = [](std::size_t& width, std::int64_t size) {
        width = std::max(width, static_cast<std::size_t>(size));
      };
      widen(obs_width_, spec.observation.vector_size);
      widen(image_size_, spec.observation.image_size());
      widen(action_width_, spec.action.size);
      specs_.push_back(spec);
    }
  }
}

ObservationView VectorEnv::row(std::size_t env, std::span<float> obs,
                               std::span<std::uint8_t> image) const {
  const ObservationSpec& spec = specs_[env].observation;
  return {row_of(obs, env, obs_width_, static_cast<std::size_t>(spec.vector_size)),
          row_of(image, env, image_size_, static_cast<std::size_t>(spec.image_size()))};
}

void VectorEnv::check_view(VectorView view) const {
  if (!view.obs.empty()) check_size("obs", view.obs.size(), size() * obs_width_);
  if (!view.final_obs.empty()) check_size("final_obs", view.final_obs.size(), size() * obs_width_);
  if (!view.image.empty()) check_size("image", view.image.size(), size() * image_size_);
  if (!view.final_image.empty())
    check_size("final_image", view.final_image.size(), size() * image_size_);
}

void VectorEnv::begin_episode(std::size_t env, std::uint64_t seed, VectorView out) {
  Slot& slot = slots_[env];
  slot.seed = seed;
  slot.active = slot.idle = false;
  slot.environment->reset(seed, row(env, out.obs, out.image));
  slot.active = true;
}

void VectorEnv::reset(VectorView out) {
  check_view(out);
  pool_.for_each(size(), [&](std::size_t env, std::size_t) {
    with_number(env, [&] {
      slots_[env].episode = 0;
      begin_episode(
          env, episode_seed(options_.first_seed, options_.num_envs, slots_[env].number, 0), out);
    });
  });
}

void VectorEnv::reset(std::size_t env, std::uint64_t seed, VectorView out) {
  check_view(out);
  if (env >= size())
    throw_error(ErrorKind::kUsage, "VectorEnv: reset of environment {}, wanted below {}", env,
                size());
  with_number(env, [&] { begin_episode(env, seed, out); });
}

StepResult VectorEnv::step_one(std::size_t env, std::span<const float> actions, VectorView out) {
  Slot& slot = slots_[env];
  const auto used = static_cast<std::size_t>(specs_[env].action.size);
  const ObservationView obs = row(env, out.obs, out.image);
  slot.active = false;
  const StepResult result = slot.environment->step(row_of(actions, env, action_width_, used), obs);
  slot.active = !result.done();
  if (slot.active) return result;

  const ObservationView last = row(env, out.final_obs, out.final_image);
  if (!obs.vector.empty() && !last.vector.empty())
    std::ranges::copy(obs.vector, last.vector.begin());
  if (!obs.image.empty() && !last.image.empty()) std::ranges::copy(obs.image, last.image.begin());
  slot.idle = !options_.auto_reset;
  if (options_.auto_reset) {
    ++slot.episode;
    begin_episode(
        env, episode_seed(options_.first_seed, options_.num_envs, slot.number, slot.episode), out);
  }
  return result;
}

void VectorEnv::step(std::span<const float> actions, std::span<StepResult> results,
                     VectorView out) {
  check_size("actions", actions.size(), size() * action_width_);
  check_size("results", results.size(), size());
  check_view(out);
  const auto body = [&](std::size_t env, std::size_t) {
    if (slots_[env].idle) {
      results[env].reward = 0.0f;
      return;
    }
    with_number(env, [&] { results[env] = step_one(env, actions, out); });
  };
  // A reference fits into std::function's own memory: nothing is allocated.
  pool_.for_each(size(), std::ref(body));
}
}  // namespace lram::envs
