#include "envs/grid/grid_world.h"

#include <algorithm>
#include <charconv>
#include <utility>

#include "envs/action_check.h"
#include "envs/state_bytes.h"
#include "lram/core/error.h"

namespace lram::envs {
namespace {
constexpr Cell kStart = {0, 0};
constexpr Cell kSpareKey = {3, 1};
constexpr std::size_t kStateSize =
    sizeof(Mt19937::State) + 2 * sizeof(std::int64_t) + sizeof(Cell) + 4 * sizeof(bool);
constexpr Cell kMoves[] = {{0, -1}, {1, 0}, {0, 1}, {-1, 0}, {0, 0}};

std::vector<Cell> shuffled_cells(int width, int height, std::uint64_t seed) {
  std::vector<Cell> cells;
  for (const std::int64_t c : Mt19937(seed).permutation(std::int64_t{width} * height))
    cells.push_back({static_cast<int>(c / height), static_cast<int>(c % height)});
  return cells;
}

// "3_7", both at least 0.
std::optional<Cell> parse_cell(std::string_view text) {
  Cell cell;
  const char* end = text.data() + text.size();
  const auto x = std::from_chars(text.data(), end, cell.x);
  if (x.ec != std::errc{} || x.ptr == end || *x.ptr != '_') return {};
  const auto y = std::from_chars(x.ptr + 1, end, cell.y);
  if (y.ec != std::errc{} || y.ptr != end || cell.x < 0 || cell.y < 0) return {};
  return cell;
}
}  // namespace

std::string GridGoal::name() const {
  const std::string text = fmt::format("goal_{}_{}", goal.x, goal.y);
  return key ? fmt::format("key_{}_{}_{}", key->x, key->y, text) : text;
}

std::vector<GridGoal> grid_goals(int width, int height, bool with_key) {
  std::vector<GridGoal> goals;
  for (const Cell& cell : shuffled_cells(width, height, 43)) goals.push_back({cell, {}});
  if (with_key) {
    const std::vector<Cell> keys = shuffled_cells(width, height, 42);
    for (std::size_t i = 0; i < goals.size(); ++i)
      goals[i].key = keys[i] == goals[i].goal ? kSpareKey : keys[i];
  }
  return goals;
}

GridId split_grid_id(std::string_view id) {
  constexpr std::string_view kGoalMark = "_goal_", kKeyMark = "_key_";
  const auto at = id.rfind(kGoalMark);
  if (at == id.npos) return {id, {}};
  const std::optional<Cell> goal = parse_cell(id.substr(at + kGoalMark.size()));
  if (!goal) return {id, {}};
  GridId out{id.substr(0, at), GridGoal{*goal, {}}};
  const auto key_at = out.base.rfind(kKeyMark);
  if (key_at == id.npos) return out;
  // Not a number in "dark_key_door".
  out.goal->key = parse_cell(out.base.substr(key_at + kKeyMark.size()));
  if (out.goal->key) out.base = out.base.substr(0, key_at);
  return out;
}

GridWorld::GridWorld(std::string id, Options options) : options_(std::move(options)) {
  state_.generator = Mt19937(0).state();
  spec_.id = std::move(id);
  spec_.observation.parts = {{"position", 2}};
  spec_.observation.vector_size = 2;
  spec_.action.discrete = true;
  spec_.action.size = 1;
  spec_.action.num_actions = std::ssize(kMoves);
  spec_.max_episode_steps = options_.max_steps;
  if (!options_.fixed_goal) {
    goals_ = grid_goals(options_.width, options_.height, options_.with_key);
    num_train_ = std::ssize(goals_) * 8 / 10;
    return;
  }
  const GridGoal& fixed = *options_.fixed_goal;
  const auto inside = [&](const Cell& cell) {
    return cell.x < options_.width && cell.y < options_.height;
  };
  if (fixed.key.has_value() != options_.with_key)
    throw_error(ErrorKind::kUsage, "{}: wanted {}", spec_.id,
                options_.with_key ? "..._key_X_Y_goal_X_Y" : "..._goal_X_Y without a key");
  if (!inside(fixed.goal) || (fixed.key && !inside(*fixed.key)))
    throw_error(ErrorKind::kUsage, "{}: outside the grid, wanted x below {} and y below {}",
                spec_.id, options_.width, options_.height);
  goals_ = {fixed, fixed};
  num_train_ = 1;
}

void GridWorld::reset(std::optional<std::uint64_t> seed, ObservationView obs) {
  check_observation_size(spec_, obs.vector.size());
  Mt19937 rng = seed ? Mt19937(*seed) : Mt19937(state_.generator);
  const bool held_out = seed ? *seed >= kFirstHeldOutSeed : state_.held_out;
  const std::int64_t index =
      held_out ? rng.randint(num_train_, std::ssize(goals_)) : rng.randint(0, num_train_);
  goal_ = goals_[static_cast<std::size_t>(index)];
  state_ = {.generator = rng.state(),
            .goal_index = index,
            .position = kStart,
            .held_out = held_out,
            .in_episode = true};
  write_observation(obs);
}

StepResult GridWorld::step(std::span<const float> action, ObservationView obs) {
  if (!state_.in_episode) throw_not_in_episode(spec_);
  check_action(spec_, action);
  check_observation_size(spec_, obs.vector.size());
  const Cell move = kMoves[static_cast<std::size_t>(action[0])];
  state_.position.x = std::clamp(state_.position.x + move.x, 0, options_.width - 1);
  state_.position.y = std::clamp(state_.position.y + move.y, 0, options_.height - 1);
  ++state_.steps;
  StepResult result;
  result.reward = collect();
  result.terminated = options_.reward == Reward::kDark && state_.reached_goal;
  result.truncated = !result.terminated && state_.steps == options_.max_steps;
  state_.in_episode = !result.done();
  write_observation(obs);
  return result;
}

float GridWorld::collect() {
  if (goal_.key && !state_.has_key) {
    state_.has_key = state_.position == *goal_.key;
    return state_.has_key ? 1.0f : 0.0f;
  }
  if (state_.position != goal_.goal) return 0.0f;
  const bool first = !std::exchange(state_.reached_goal, true);
  return first || options_.reward != Reward::kSparse ? 1.0f : 0.0f;
}

void GridWorld::write_observation(ObservationView obs) const {
  if (obs.vector.empty()) return;
  obs.vector[0] = static_cast<float>(state_.position.y);
  obs.vector[1] = static_cast<float>(state_.position.x);
}

// Value by value, so that no padding gets in.
std::vector<std::byte> GridWorld::save_state() const {
  StateWriter out(kStateSize);
  out.put(state_.generator);
  out.put(state_.goal_index);
  out.put(state_.steps);
  out.put(state_.position);
  out.put(state_.held_out);
  out.put(state_.has_key);
  out.put(state_.reached_goal);
  out.put(state_.in_episode);
  return out.take();
}

void GridWorld::load_state(std::span<const std::byte> state) {
  StateReader in(spec_.id, state, kStateSize);
  const State loaded = {.generator = in.get<Mt19937::State>(),
                        .goal_index = in.get<std::int64_t>(),
                        .steps = in.get<std::int64_t>(),
                        .position = in.get<Cell>(),
                        .held_out = in.get<bool>(),
                        .has_key = in.get<bool>(),
                        .reached_goal = in.get<bool>(),
                        .in_episode = in.get<bool>()};
  if (loaded.goal_index < 0 || loaded.goal_index >= std::ssize(goals_))
    throw_error(ErrorKind::kInput, "{}: saved state has goal {}, wanted 0 to {}", spec_.id,
                loaded.goal_index, goals_.size() - 1);
  state_ = loaded;
  goal_ = goals_[static_cast<std::size_t>(loaded.goal_index)];
}
}  // namespace lram::envs
