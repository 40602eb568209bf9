#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "envs/environment.h"
#include "lram/core/thread_pool.h"

namespace lram::envs {

struct VectorOptions {
  std::size_t num_envs = 1;      ///< of every task
  std::size_t num_threads = 0;   ///< in all, the caller's included; 0 = one per core
  std::uint64_t first_seed = 0;  ///< see episode_seed()
  bool auto_reset = true;        ///< an ended episode is followed by the next at once
};

/// Seed of an environment's k-th episode (from 0): over the `num_envs` environments of one task the
/// seeds count up from `first_seed`, round by round. A count that began below kFirstHeldOutSeed
/// stays there: it starts over at 0.
constexpr std::uint64_t episode_seed(std::uint64_t first_seed, std::size_t num_envs,
                                     std::size_t env, std::uint64_t episode) {
  const std::uint64_t seed = first_seed + episode * num_envs + env;
  return first_seed < kFirstHeldOutSeed ? seed % kFirstHeldOutSeed : seed;
}

/// Caller-owned memory for the observations of all environments, one row each, as wide as the
/// widest; a narrower task uses the front of its row. What is empty is not written.
struct VectorView {
  std::span<float> obs = {};           ///< [size, obs_width]
  std::span<std::uint8_t> image = {};  ///< [size, image_size]
  std::span<float> final_obs = {};     ///< [size, obs_width], of an episode that ended; needs `obs`
  std::span<std::uint8_t> final_image = {};  ///< [size, image_size], likewise
};

/// Many environments stepped together on a pool of threads: those of the first task, then those of
/// the second, and so on. What an environment does depends on its seed and actions alone, never on
/// the others or the number of threads (tests/envs/vector_env_test.cpp). step() allocates nothing.
/// One call at a time.
///   VectorEnv envs("dmcontrol/cartpole_swingup", {.num_envs = 16});
///   std::vector<float> obs(envs.size() * envs.obs_width());
///   envs.reset({.obs = obs});
///   envs.step(actions, results, {.obs = obs});
/// A bad buffer is Error(kUsage); what an environment throws comes out of step() or reset() with
/// its number, after all others were stepped, and that one is idle until its next reset.
class VectorEnv {
 public:
  explicit VectorEnv(std::string_view task, VectorOptions options = {});
  explicit VectorEnv(const std::vector<std::string>& tasks, VectorOptions options = {});

  std::size_t size() const { return slots_.size(); }
  const std::vector<TaskSpec>& specs() const { return specs_; }  ///< one per environment
  std::size_t obs_width() const { return obs_width_; }
  std::size_t image_size() const { return image_size_; }  ///< bytes, 0 = no task has images
  std::size_t action_width() const { return action_width_; }

  /// Begins episode 0 everywhere.
  void reset(VectorView out);
  /// Begins an episode of one environment with a seed of the caller's choice; writes its row alone.
  void reset(std::size_t env, std::uint64_t seed, VectorView out);
  /// One step of every environment. actions: [size, action_width], results: [size]. Where an
  /// episode ends, results say so, final_obs gets its last observation and, with auto_reset, obs
  /// the first one of the next episode. Without auto_reset obs has the last observation too; from
  /// then on that environment is idle: its rows and flags stay and its reward is 0.
  void step(std::span<const float> actions, std::span<StepResult> results, VectorView out);

  /// Whether an episode is under way.
  bool active(std::size_t env) const { return slots_.at(env).active; }
  /// Seed of the current or, if none is under way, the last episode.
  std::uint64_t seed(std::size_t env) const { return slots_.at(env).seed; }
  const Environment& at(std::size_t env) const { return *slots_.at(env).environment; }

 private:
  struct Slot {
    std::unique_ptr<Environment> environment;
    std::size_t number = 0;     ///< among the environments of its task
    std::uint64_t episode = 0;  ///< since reset()
    std::uint64_t seed = 0;
    bool active = false;  ///< an episode is under way
    bool idle = false;    ///< the last one ended and nobody began another
  };
  void begin_episode(std::size_t env, std::uint64_t seed, VectorView out);
  StepResult step_one(std::size_t env, std::span<const float> actions, VectorView out);
  ObservationView row(std::size_t env, std::span<float> obs, std::span<std::uint8_t> image) const;
  void check_view(VectorView view) const;

  VectorOptions options_;
  std::vector<Slot> slots_;
  std::vector<TaskSpec> specs_;
  std::size_t obs_width_ = 0, image_size_ = 0, action_width_ = 0;
  ThreadPool pool_;
};

}  // namespace lram::envs
