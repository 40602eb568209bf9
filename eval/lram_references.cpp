#include "eval/lram_references.h"

namespace lram::eval {
namespace {
constexpr LramReference kReferences[] = {
    {"dmcontrol/finger_turn_easy", 1000.0, 57.8, 800.645},
    {"dmcontrol/fish_upright", 999.433, 229.406, 547.962},
    {"dmcontrol/hopper_stand", 975.575, 1.296, 266.783},
    {"dmcontrol/point_mass_easy", 998.373, 1.341, 779.273},
    {"dmcontrol/walker_stand", 999.82, 134.701, 816.322},
    {"dmcontrol/walker_run", 513.464, 23.427, 344.794},
    {"dmcontrol/ball_in_cup_catch", 1000.0, 0.0, 926.719},
    {"dmcontrol/cartpole_swingup", 857.492, 27.414, 766.15},
    {"dmcontrol/cheetah_run", 451.274, 3.207, 324.045},
    {"dmcontrol/finger_spin", 987.0, 0.2, 834.629},
    {"dmcontrol/reacher_easy", 1000.0, 33.0, 849.241},
    // Held out from training.
    {"dmcontrol/cartpole_balance", 993.194, 350.391, 938.506},
    {"dmcontrol/finger_turn_hard", 1000.0, 40.6, 676.144},
    {"dmcontrol/pendulum_swingup", 1000.0, 0.0, 614.491},
    {"dmcontrol/reacher_hard", 1000.0, 8.0, 779.947},
    {"dmcontrol/walker_walk", 982.159, 30.193, 773.174},
    // Appendix D.4's text; its table has 82. LRAM normalises no score of the grid worlds.
    {"grid/dark_room_10x10_dense", 80.0, std::nullopt, std::nullopt},
};
}  // namespace

std::span<const LramReference> lram_references() { return kReferences; }

const LramReference* find_lram_reference(std::string_view task) {
  for (const LramReference& reference : kReferences)
    if (reference.task == task) return &reference;
  return nullptr;
}
}  // namespace lram::eval
