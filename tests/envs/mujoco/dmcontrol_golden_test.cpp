// Episodes of Python's dm_control, tests/golden/dmcontrol (its README says how they were made).
#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "envs/mujoco/mujoco_environment.h"
#include "lram/core/json.h"
#include "tests/support/golden.h"
#include "tests/support/hdf5_file.h"

namespace lram::envs::dmcontrol_golden_test {
namespace {
using lram::test::Hdf5Array;
using lram::test::Hdf5File;
using nlohmann::json;

// numpy's exp and log1p are up to 1 ulp off libm's in 4 % of arguments: the README's figure.
constexpr double kLibmTolerance = 1e-14;
constexpr double kProbeTolerance = 1e-12;   // single states, the README's figure
constexpr double kFloat32Tolerance = 1e-6;  // of a float32 interface, times max(1, |x|)
constexpr double kEqual = 0.0;

std::filesystem::path folder() { return lram::test::golden_root() / "dmcontrol"; }

json read_json(const std::filesystem::path& path) {
  std::ifstream file(path);
  EXPECT_TRUE(file.good()) << path;
  return parse_json(file);
}

// What the sensitivity study recommends for a task; a set without a study of its own takes ours.
json recommended(const std::string& task) {
  std::filesystem::path path = folder() / "sensitivity.json";
  if (!std::filesystem::exists(path))
    path = std::filesystem::path(LRAM_SOURCE_DIR) / "tests/golden/dmcontrol/sensitivity.json";
  return read_json(path).at("tasks").at(task).at("recommended");
}

// The same library on the recorded processor family gives the same bits.
bool same_bits_expected() {
  return std::string(mj_versionString()) == "3.3.0" && __builtin_cpu_supports("avx512f");
}

struct Case {
  json task;
  std::uint64_t seed = 0;
  bool first_seed = false;
  std::string name() const {
    return fmt::format("{}_{}", task.at("name").get<std::string>(), seed);
  }
};

// Every file that tasks.json lists.
std::vector<Case> cases() {
  std::vector<Case> out;
  for (const json& task : read_json(folder() / "tasks.json"))
    for (const std::uint64_t seed : task.at("seeds"))
      out.push_back({task, seed, seed == task.at("seeds").at(0)});
  return out;
}

std::unique_ptr<MujocoEnvironment> make_task(const json& task) {
  auto env = lram::envs::make("dmcontrol/" + task.at("name").get<std::string>());
  auto* raw = dynamic_cast<MujocoEnvironment*>(env.release());
  if (raw == nullptr) throw std::runtime_error("not a MuJoCo task");
  return std::unique_ptr<MujocoEnvironment>(raw);
}

void expect_near(std::span<const double> got, std::span<const double> wanted, double tolerance,
                 const std::string& what) {
  ASSERT_EQ(got.size(), wanted.size()) << what;
  for (std::size_t i = 0; i < got.size(); ++i)
    ASSERT_LE(std::abs(got[i] - wanted[i]), tolerance * std::max(1.0, std::abs(wanted[i])))
        << what << "[" << i << "] is " << got[i] << ", wanted " << wanted[i];
}

void expect_state(const MujocoEnvironment& env, const Hdf5File& file, const std::string& episode,
                  std::size_t row, double tolerance, const std::string& what) {
  const mjModel& model = env.model();
  const mjData& data = env.data();
  const std::pair<const char*, std::span<const double>> fields[] = {
      {"time", {&data.time, 1}},
      {"qpos", {data.qpos, static_cast<std::size_t>(model.nq)}},
      {"qvel", {data.qvel, static_cast<std::size_t>(model.nv)}},
      {"qacc_warmstart", {data.qacc_warmstart, static_cast<std::size_t>(model.nv)}},
      {"sensordata", {data.sensordata, static_cast<std::size_t>(model.nsensordata)}}};
  for (const auto& [name, got] : fields) {
    const std::string path = episode + "/states/" + name;
    if (!file.has(path)) continue;  // a task without sensors
    expect_near(got, file.array(path).row(row), tolerance, what + " " + name);
  }
  EXPECT_EQ(data.ncon, file.array(episode + "/states/ncon").values[row]) << what;
}

void expect_model_edits(const MujocoEnvironment& env, const Hdf5File& file,
                        const std::string& episode, const json& task, const std::string& what) {
  const mjModel& model = env.model();
  const auto compiled = lram::envs::suite_model(task.at("xml"));
  const auto doubles = [](const mjtNum* values, int count) {
    return std::vector<double>(values, values + count);
  };
  const auto floats = [](const float* values, int count) {
    return std::vector<double>(values, values + count);
  };
  const auto fields = [&](const mjModel& m) {
    return std::map<std::string, std::vector<double>>{
        {"geom_pos", doubles(m.geom_pos, 3 * m.ngeom)},
        {"geom_size", doubles(m.geom_size, 3 * m.ngeom)},
        {"geom_rgba", floats(m.geom_rgba, 4 * m.ngeom)},
        {"site_pos", doubles(m.site_pos, 3 * m.nsite)},
        {"site_size", doubles(m.site_size, 3 * m.nsite)},
        {"site_rgba", floats(m.site_rgba, 4 * m.nsite)},
        {"dof_damping", doubles(m.dof_damping, m.nv)}};
  };
  auto wanted = fields(*compiled);
  for (const std::string& name : file.names(episode + "/model_changes")) {
    ASSERT_TRUE(wanted.contains(name)) << what << " edits " << name;
    wanted[name] = file.array(episode + "/model_changes/" + name).values;
  }
  for (const auto& [name, got] : fields(model))
    expect_near(got, wanted[name], kEqual, what + " " + name);
}

void expect_generator(const MujocoEnvironment& env, const Hdf5File& file,
                      const std::string& episode, const std::string& what) {
  lram::envs::Mt19937 rng(env.generator().state());
  EXPECT_EQ(rng.state().has_gauss, file.attribute(episode, "rng_has_gauss").values[0]) << what;
  EXPECT_EQ(rng.state().gauss, file.attribute(episode, "rng_cached_gauss").values[0]) << what;
  for (const double wanted : file.attribute(episode, "rng_next_random_sample").values)
    EXPECT_EQ(rng.random_sample(), wanted) << what;
}

// One step against row t of the recording; a tolerance of 0 asks for the same bits but for libm.
void step_and_compare(MujocoEnvironment& env, const Hdf5Array& actions,
                      const Hdf5Array& observations, const Hdf5Array& rewards, std::size_t t,
                      double tolerance, const std::string& what) {
  const auto row = actions.row(t);
  const std::vector<float> action(row.begin(), row.end());
  std::vector<float> rounded(observations.row(0).size());
  const auto result = env.step(action, {.vector = rounded});
  std::vector<double> observation(rounded.size());
  env.observe(observation.data());
  const double reward = env.reward();
  const double limit = std::max(tolerance, kLibmTolerance);
  const std::string where = fmt::format("{} step {}", what, t + 1);
  expect_near(observation, observations.row(t + 1), limit, where + " observation");
  expect_near({&reward, 1}, rewards.row(t), limit, where + " reward");
  const std::vector<double> widened(rounded.begin(), rounded.end());
  const double rounded_reward = result.reward;
  expect_near(widened, observation, kFloat32Tolerance, where + " float32 observation");
  expect_near({&rounded_reward, 1}, {&reward, 1}, kFloat32Tolerance, where + " float32 reward");
}

class DmcontrolGolden : public testing::Test {
 protected:
  void SetUp() override {
    LRAM_SKIP_WITHOUT_GOLDEN("dmcontrol");
    cases_ = cases();
    ASSERT_FALSE(cases_.empty()) << folder() << " lists no case";
  }
  std::vector<Case> cases_;
};

TEST_F(DmcontrolGolden, SpecsEqualTheRecordedOnes) {
  for (const json& task : read_json(folder() / "tasks.json")) {
    const auto env = make_task(task);
    const lram::TaskSpec& spec = env->spec();
    const std::string name = task.at("name");
    EXPECT_FALSE(task.at("seeds").empty()) << name;
    std::vector<lram::ObservationPart> parts;
    for (const json& part : task.at("observation"))
      parts.push_back({part.at("name"), part.at("size")});
    EXPECT_EQ(spec.observation.parts, parts) << name;
    EXPECT_EQ(spec.observation.vector_size, task.at("observation_size")) << name;
    EXPECT_EQ(spec.action.size, task.at("action_size")) << name;
    EXPECT_EQ(spec.action.low, task.at("action_minimum").get<std::vector<double>>()) << name;
    EXPECT_EQ(spec.action.high, task.at("action_maximum").get<std::vector<double>>()) << name;
    EXPECT_EQ(spec.max_episode_steps, task.at("episode_steps")) << name;
    EXPECT_DOUBLE_EQ(spec.control_dt, task.at("control_timestep")) << name;
    EXPECT_EQ(env->sub_steps(), task.at("n_sub_steps")) << name;
  }
}

TEST_F(DmcontrolGolden, ResetsEqual) {
  const double tolerance = same_bits_expected() ? kEqual : kProbeTolerance;
  for (const Case& c : cases_) {
    const Hdf5File file(folder() / (c.name() + ".h5"));
    const auto env = make_task(c.task);
    for (const std::string episode : {"episode_0", "episode_1"}) {
      const std::string what = c.name() + " " + episode;
      std::vector<float> obs(static_cast<std::size_t>(env->spec().observation.vector_size));
      env->reset(episode == "episode_0" ? std::optional(c.seed) : std::nullopt, {.vector = obs});
      expect_state(*env, file, episode, 0, tolerance, what);
      expect_model_edits(*env, file, episode, c.task, what);
      expect_generator(*env, file, episode, what);
      std::vector<double> observation(obs.size());
      env->observe(observation.data());
      expect_near(observation, file.array(episode + "/observations").row(0),
                  std::max(tolerance, kLibmTolerance), what + " observation");
    }
    if (HasFailure()) return;
  }
}

// Single states that reach every branch of the rewards.
TEST_F(DmcontrolGolden, ProbesEqual) {
  for (const Case& c : cases_) {
    if (!c.first_seed) continue;
    const Hdf5File file(folder() / (c.name() + ".h5"));
    const auto env = make_task(c.task);
    env->reset(c.seed, {});
    const Hdf5Array qpos = file.array("probes/qpos"), qvel = file.array("probes/qvel");
    const Hdf5Array ctrl = file.array("probes/ctrl"), rewards = file.array("probes/rewards");
    const Hdf5Array observations = file.array("probes/observations");
    ASSERT_GT(qpos.rows(), 0u) << c.name();
    mjData& data = env->data();
    std::vector<double> observation(observations.row(0).size());
    for (std::size_t i = 0; i < qpos.rows(); ++i) {
      const std::string what = fmt::format("{} probe {}", c.name(), i);
      mj_resetData(&env->model(), &data);
      std::ranges::copy(qpos.row(i), data.qpos);
      std::ranges::copy(qvel.row(i), data.qvel);
      std::ranges::copy(ctrl.row(i), data.ctrl);
      mj_forward(&env->model(), &data);
      env->observe(observation.data());
      const double reward = env->reward();
      expect_near(observation, observations.row(i), kProbeTolerance, what + " observation");
      expect_near({&reward, 1}, rewards.row(i), kProbeTolerance, what + " reward");
    }
    if (HasFailure()) return;
  }
}

// From recorded states through the actions that follow, so that no rounding can grow for long.
TEST_F(DmcontrolGolden, SegmentsFromRecordedStatesEqual) {
  for (const Case& c : cases_) {
    const Hdf5File file(folder() / (c.name() + ".h5"));
    const json limits = recommended(c.task.at("name"));
    const std::size_t length = limits.at("resync_every");
    const double tolerance =
        same_bits_expected() ? kEqual : limits.at("resync_tolerance").get<double>();
    const Hdf5Array actions = file.array("episode_0/actions");
    const Hdf5Array observations = file.array("episode_0/observations");
    const Hdf5Array rewards = file.array("episode_0/rewards");
    const Hdf5Array steps = file.array("episode_0/states/step");
    const Hdf5Array qpos = file.array("episode_0/states/qpos");
    const Hdf5Array qvel = file.array("episode_0/states/qvel");
    const Hdf5Array warm = file.array("episode_0/states/qacc_warmstart");
    const Hdf5Array time = file.array("episode_0/states/time");
    const auto env = make_task(c.task);
    mjData& data = env->data();
    std::size_t segments = 0;
    for (std::size_t row = 0; row < steps.rows(); ++row) {
      const auto begin = static_cast<std::size_t>(steps.values[row]);
      const std::size_t end = std::min(begin + length, actions.rows());
      if (begin % length != 0 || begin == end) continue;
      ++segments;
      env->reset(c.seed, {});
      mj_resetData(&env->model(), &data);
      data.time = time.values[row];
      std::ranges::copy(qpos.row(row), data.qpos);
      std::ranges::copy(qvel.row(row), data.qvel);
      std::ranges::copy(warm.row(row), data.qacc_warmstart);
      mj_step1(&env->model(), &data);
      for (std::size_t t = begin; t < end; ++t) {
        step_and_compare(*env, actions, observations, rewards, t, tolerance, c.name());
        if (HasFailure()) return;
      }
      const auto stored = std::ranges::find(steps.values, static_cast<double>(end));
      ASSERT_NE(stored, steps.values.end()) << c.name() << " has no state at step " << end;
      expect_state(*env, file, "episode_0", static_cast<std::size_t>(stored - steps.values.begin()),
                   tolerance, fmt::format("{} step {}", c.name(), end));
      if (HasFailure()) return;
    }
    EXPECT_GT(segments, 0u) << c.name();
  }
}

// From the seed alone: all the way where bits must be equal, else until rounding has grown.
TEST_F(DmcontrolGolden, EpisodesFromTheSeedEqual) {
  for (const Case& c : cases_) {
    const Hdf5File file(folder() / (c.name() + ".h5"));
    const json limits = recommended(c.task.at("name"));
    const auto env = make_task(c.task);
    for (const std::string episode : {"episode_0", "episode_1"}) {
      const Hdf5Array actions = file.array(episode + "/actions");
      const Hdf5Array observations = file.array(episode + "/observations");
      const Hdf5Array rewards = file.array(episode + "/rewards");
      const Hdf5Array kinds = file.array(episode + "/step_types");
      const Hdf5Array states = file.array(episode + "/states/step");
      const bool exact = same_bits_expected();
      const double tolerance = exact ? kEqual : limits.at("direct_tolerance").get<double>();
      const std::size_t steps =
          exact ? actions.rows()
                : std::min(actions.rows(), limits.at("direct_steps").get<std::size_t>());
      env->reset(episode == "episode_0" ? std::optional(c.seed) : std::nullopt, {});
      for (std::size_t t = 0, state = 1; t < steps; ++t) {
        step_and_compare(*env, actions, observations, rewards, t, tolerance, c.name());
        if (state < states.rows() && states.values[state] == static_cast<double>(t + 1))
          expect_state(*env, file, episode, state++, tolerance,
                       fmt::format("{} {} step {}", c.name(), episode, t + 1));
        // The last step is the time limit's: afterwards step() wants a reset.
        if (kinds.values[t + 1] == 2.0) {
          const std::vector<float> action(actions.row(t).size());
          EXPECT_THROW(env->step(action, {}), std::exception) << c.name();
        }
        if (HasFailure()) return;
      }
    }
  }
}
}  // namespace
}  // namespace lram::envs::dmcontrol_golden_test
