#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "envs/environment.h"
#include "envs/mt19937.h"
#include "envs/mujoco/model.h"

namespace lram::envs {

/// What a task says of itself; its MuJoCo model gives the rest of the TaskSpec.
struct MujocoTask {
  std::string id;                      ///< full task id
  std::string xml;                     ///< file of the suite
  int sub_steps = 1;                   ///< physics steps per control step
  std::vector<ObservationPart> parts;  ///< dm_control's names, in its order
  bool edits_model = false;            ///< takes a private copy of the model
};

/// A task of dm_control's suite: the same seed and actions give the same episode as
/// suite.load(domain, task, task_kwargs={'random': seed}), to the bit up to libm's exp and log1p
/// (tests/envs/mujoco/dmcontrol_golden_test.cpp). A task draws its initial state, reads its
/// observation and its reward; this class does the rest: control loop, time limit, saved states.
///
/// An empty ObservationView skips the observation. A simulation that diverges throws
/// Error(kCheckFailed) from step(); the environment then wants a reset() or load_state().
class MujocoEnvironment : public Environment {
 public:
  const TaskSpec& spec() const final { return spec_; }
  void reset(std::optional<std::uint64_t> seed, ObservationView obs) final;
  StepResult step(std::span<const float> action, ObservationView obs) final;
  std::vector<std::byte> save_state() const final;
  void load_state(std::span<const std::byte> state) final;

  int sub_steps() const { return sub_steps_; }
  const mjModel& model() const { return *model_; }
  /// The simulator's state; whoever writes qpos or qvel calls mj_step1() afterwards.
  mjData& data() { return *data_; }
  const mjData& data() const { return *data_; }
  /// Where the draws of the next reset() without a seed begin.
  const Mt19937& generator() const { return generator_; }

  /// Observation and reward of the current state in float64; step() rounds them to float32.
  virtual void observe(double* out) const = 0;  ///< out: [vector_size]
  virtual double reward() const = 0;

 protected:
  explicit MujocoEnvironment(MujocoTask task);

  /// Draws the initial qpos, qvel and model edits. On entry data() is that of mj_resetData() and
  /// forward_passive(); the caller runs forward_passive() again.
  virtual void draw_initial_state(Mt19937& rng) = 0;

  /// mj_forward without actuators, dm_control's `after_reset`: contacts and sensors of a drawn
  /// pose. Keeps qacc_warmstart.
  void forward_passive();
  /// One draw per limited joint from its range and per other hinge from a full turn, by id.
  void draw_joints(Mt19937& rng);
  /// draw() and forward_passive() until nothing touches. Throws Error(kInternal) after 1,000 tries.
  template <typename Draw>
  void draw_until_free(Draw draw) {
    for (int attempt = 0; attempt < 1000; ++attempt) {
      draw();
      forward_passive();
      if (data_->ncon == 0) return;
    }
    throw_no_free_pose();
  }
  /// `steps` physics steps in dm_control's order, which leaves all that depends on position and
  /// velocity current and all that depends on forces as in the last step.
  void advance(int steps);

  /// The private model of a task with `edits_model`.
  mjModel& editable_model() { return *private_model_; }
  /// Values of the private model that resets change: saved and loaded with the state.
  void track_edits(mjtNum* values, std::size_t count) { edits_.push_back({values, count}); }

 private:
  [[noreturn]] void throw_no_free_pose() const;
  void write_observation(ObservationView obs);
  void check_diverged();
  std::size_t state_size() const;

  TaskSpec spec_;
  int sub_steps_;
  std::shared_ptr<mjModel> private_model_;
  std::shared_ptr<const mjModel> model_;
  mjModel passive_;  ///< shares the arrays of *model_, actuation disabled
  DataPtr data_;
  Mt19937 generator_{0};
  std::vector<std::span<mjtNum>> edits_;
  std::vector<double> observation_;  ///< [vector_size]
  std::int64_t step_count_ = 0;
  bool in_episode_ = false;
};

/// Mean over the actuators of a cost that is 1 at rest and 0 at full control.
double small_control(const mjModel& model, const mjData& data);

}  // namespace lram::envs
