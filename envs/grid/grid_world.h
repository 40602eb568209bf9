#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "envs/environment.h"
#include "envs/mt19937.h"

namespace lram::envs {

/// A cell: x counts columns from the left, y rows from the top.
struct Cell {
  int x = 0, y = 0;
  bool operator==(const Cell&) const = default;
};

/// What an episode hides: where the reward is and, in Dark-KeyDoor, the key that unlocks it.
struct GridGoal {
  Cell goal;
  std::optional<Cell> key;
  bool operator==(const GridGoal&) const = default;
  std::string name() const;  ///< "goal_3_7", "key_1_2_goal_3_7"
};

/// All goals of a grid in the order of LRAM's lists (lram.md 6), of which the first 80 % are for
/// training. In any size: goals are the cells in the order of RandomState(43).permutation(n), keys
/// those of RandomState(42), and number c is the cell (c / height, c % height). The one key of
/// 10x10 that falls onto its goal is (3, 1) in LRAM's list; so are those of the other sizes.
std::vector<GridGoal> grid_goals(int width, int height, bool with_key);

/// Dark-Room and Dark-KeyDoor (Laskin et al. 2022, arXiv 2210.14215, in LRAM's sizes): a walk in a
/// grid whose goal no observation shows. Begins at (0, 0); observes (row, column); moves 0 north,
/// 1 east, 2 south, 3 west, 4 stay, and walls block. Rewards:
///   dark    1 on the goal, which ends the episode
///   sparse  1 on the first visit of the goal
///   dense   1 for every step that ends on the goal; with a key 1 once for the key, then the goal
/// A seed below kFirstHeldOutSeed draws a training goal, from there on a held-out one; a reset
/// without a seed draws on from the same side.
class GridWorld final : public Environment {
 public:
  enum class Reward { kDark, kSparse, kDense };
  struct Options {
    int width = 10, height = 10;
    int max_steps = 100;
    Reward reward = Reward::kDense;
    bool with_key = false;
    std::optional<GridGoal> fixed_goal = {};
  };
  /// Throws Error(kUsage) for a fixed goal that lies outside the grid or lacks its key.
  GridWorld(std::string id, Options options);

  const TaskSpec& spec() const override { return spec_; }
  void reset(std::optional<std::uint64_t> seed, ObservationView obs) override;
  StepResult step(std::span<const float> action, ObservationView obs) override;
  std::vector<std::byte> save_state() const override;
  void load_state(std::span<const std::byte> state) override;
  std::string variant() const override { return goal_.name(); }

  const Options& options() const { return options_; }
  Cell position() const { return state_.position; }

 private:
  struct State {
    Mt19937::State generator;
    std::int64_t goal_index = 0;  ///< in goals_
    std::int64_t steps = 0;
    Cell position;
    bool held_out = false, has_key = false, reached_goal = false, in_episode = false;
  };
  void write_observation(ObservationView obs) const;
  float collect();

  Options options_;
  TaskSpec spec_;
  std::vector<GridGoal> goals_;  ///< training goals, then held-out ones
  std::int64_t num_train_;
  GridGoal goal_;
  State state_;
};

struct GridId {
  std::string_view base;         ///< the id without its goal
  std::optional<GridGoal> goal;  ///< absent: drawn by the seed
};
/// "grid/dark_room_10x10_dense_goal_3_7" is the base "grid/dark_room_10x10_dense" with the goal
/// (3, 7); "..._key_1_2_goal_3_7" has a key too. Any other text is all base.
GridId split_grid_id(std::string_view id);

}  // namespace lram::envs
