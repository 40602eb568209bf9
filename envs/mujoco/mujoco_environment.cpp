#include "envs/mujoco/mujoco_environment.h"

#include <algorithm>
#include <numbers>
#include <utility>

#include "envs/action_check.h"
#include "envs/mujoco/tolerance.h"
#include "envs/state_bytes.h"
#include "lram/core/error.h"

namespace lram::envs {
namespace {
constexpr std::int64_t kEpisodeSteps = 1000;  // every task of the suite that LRAM uses
constexpr double kRewardScale = 100.0;        // lram.md 1.3

TaskSpec make_spec(MujocoTask& task, const mjModel& model) {
  TaskSpec spec;
  spec.id = std::move(task.id);
  for (const ObservationPart& part : task.parts) spec.observation.vector_size += part.size;
  spec.observation.parts = std::move(task.parts);
  spec.action.size = model.nu;
  for (int i = 0; i < model.nu; ++i) {
    spec.action.low.push_back(model.actuator_ctrlrange[2 * i]);
    spec.action.high.push_back(model.actuator_ctrlrange[2 * i + 1]);
  }
  spec.max_episode_steps = kEpisodeSteps;
  spec.control_dt = model.opt.timestep * task.sub_steps;
  spec.reward_scale = kRewardScale;
  return spec;
}
}  // namespace

MujocoEnvironment::MujocoEnvironment(MujocoTask task) : sub_steps_(task.sub_steps) {
  model_ = suite_model(task.xml);
  if (task.edits_model) {
    private_model_ = copy_model(*model_);
    model_ = private_model_;
  }
  passive_ = *model_;
  passive_.opt.disableflags |= mjDSBL_ACTUATION;
  data_ = make_data(*model_);
  spec_ = make_spec(task, *model_);
  observation_.resize(static_cast<std::size_t>(spec_.observation.vector_size));
}

void MujocoEnvironment::forward_passive() { mj_forward(&passive_, data_.get()); }

void MujocoEnvironment::draw_joints(Mt19937& rng) {
  for (int joint = 0; joint < model_->njnt; ++joint) {
    double& position = data_->qpos[model_->jnt_qposadr[joint]];
    const mjtNum* range = model_->jnt_range + 2 * joint;
    if (model_->jnt_limited[joint])
      position = rng.uniform(range[0], range[1]);
    else if (model_->jnt_type[joint] == mjJNT_HINGE)
      position = rng.uniform(-std::numbers::pi, std::numbers::pi);
  }
}

void MujocoEnvironment::throw_no_free_pose() const {
  throw_error(ErrorKind::kInternal, "{}: no initial pose without contact in 1000 draws", spec_.id);
}

void MujocoEnvironment::advance(int steps) {
  const mjModel* model = model_.get();
  mjData* data = data_.get();
  if (model->opt.integrator == mjINT_RK4) {
    // mj_step() would begin by computing again what mj_step1() below has left in place.
    for (int i = 0; i < steps; ++i) {
      mj_forwardSkip(model, data, mjSTAGE_VEL, /*skipsensor=*/0);
      mj_checkAcc(model, data);
      mj_RungeKutta(model, data, 4);
      mj_step1(model, data);
    }
    return;
  }
  mj_step2(model, data);
  for (int i = 1; i < steps; ++i) mj_step(model, data);
  mj_step1(model, data);
}

void MujocoEnvironment::reset(std::optional<std::uint64_t> seed, ObservationView obs) {
  check_observation_size(spec_, obs.vector.size());
  if (seed) generator_ = Mt19937(*seed);
  in_episode_ = false;
  mj_resetData(model_.get(), data_.get());
  forward_passive();
  draw_initial_state(generator_);
  forward_passive();
  step_count_ = 0;
  in_episode_ = true;
  write_observation(obs);
}

StepResult MujocoEnvironment::step(std::span<const float> action, ObservationView obs) {
  if (!in_episode_) throw_not_in_episode(spec_);
  check_action(spec_, action);
  check_observation_size(spec_, obs.vector.size());
  // Never clamped, as in dm_control: MuJoCo clamps a copy, control costs see the raw action.
  std::copy(action.begin(), action.end(), data_->ctrl);
  advance(sub_steps_);
  check_diverged();
  ++step_count_;
  in_episode_ = step_count_ < kEpisodeSteps;
  write_observation(obs);
  return {.reward = static_cast<float>(reward()), .truncated = !in_episode_};
}

void MujocoEnvironment::check_diverged() {
  for (const auto& [warning, name] :
       {std::pair{mjWARN_BADQPOS, "qpos"}, std::pair{mjWARN_BADQVEL, "qvel"},
        std::pair{mjWARN_BADQACC, "qacc"}, std::pair{mjWARN_BADCTRL, "ctrl"}}) {
    if (data_->warning[warning].number == 0) continue;
    in_episode_ = false;
    throw_error(ErrorKind::kCheckFailed,
                "{}: the simulation diverged at step {}: {}[{}] is not finite or too large",
                spec_.id, step_count_ + 1, name, data_->warning[warning].lastinfo);
  }
}

void MujocoEnvironment::write_observation(ObservationView obs) {
  if (obs.vector.empty()) return;
  observe(observation_.data());
  std::transform(observation_.begin(), observation_.end(), obs.vector.begin(),
                 [](double value) { return static_cast<float>(value); });
}

// The order of the fields below: generator, counters, clock, qpos, qvel, warm start, controls,
// sensors, edits. No task of the suite has actuator states (na = 0).
std::size_t MujocoEnvironment::state_size() const {
  const auto numbers = 1 + model_->nq + 2 * model_->nv + model_->nu + model_->nsensordata;
  std::size_t size = sizeof(Mt19937::State) + sizeof step_count_ + sizeof in_episode_ +
                     static_cast<std::size_t>(numbers) * sizeof(mjtNum);
  for (const auto& edit : edits_) size += edit.size_bytes();
  return size;
}

std::vector<std::byte> MujocoEnvironment::save_state() const {
  const auto count = [](int n) { return static_cast<std::size_t>(n); };
  StateWriter out(state_size());
  out.put(generator_.state());
  out.put(step_count_);
  out.put(in_episode_);
  out.put(data_->time);
  out.put(data_->qpos, count(model_->nq));
  out.put(data_->qvel, count(model_->nv));
  out.put(data_->qacc_warmstart, count(model_->nv));
  out.put(data_->ctrl, count(model_->nu));
  out.put(data_->sensordata, count(model_->nsensordata));
  for (const auto& edit : edits_) out.put(edit.data(), edit.size());
  return out.take();
}

void MujocoEnvironment::load_state(std::span<const std::byte> state) {
  const auto count = [](int n) { return static_cast<std::size_t>(n); };
  StateReader in(spec_.id, state, state_size());
  generator_ = Mt19937(in.get<Mt19937::State>());
  step_count_ = in.get<std::int64_t>();
  in_episode_ = in.get<bool>();
  mj_resetData(model_.get(), data_.get());
  data_->time = in.get<mjtNum>();
  in.get(data_->qpos, count(model_->nq));
  in.get(data_->qvel, count(model_->nv));
  in.get(data_->qacc_warmstart, count(model_->nv));
  in.get(data_->ctrl, count(model_->nu));
  std::vector<mjtNum> sensors(count(model_->nsensordata));
  in.get(sensors.data(), sensors.size());
  for (const auto& edit : edits_) in.get(edit.data(), edit.size());
  mj_step1(model_.get(), data_.get());  // mj_forward() would overwrite the warm start
  // mj_step1() leaves the sensors of forces, such as touch, at zero.
  std::copy(sensors.begin(), sensors.end(), data_->sensordata);
}

double small_control(const mjModel& model, const mjData& data) {
  double sum = 0.0;
  for (int i = 0; i < model.nu; ++i)
    sum += tolerance(data.ctrl[i], {}, 1.0, Sigmoid::kQuadratic, 0.0);
  return sum / model.nu;
}
}  // namespace lram::envs
