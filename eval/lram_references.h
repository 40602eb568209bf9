#pragma once
#include <optional>
#include <span>
#include <string_view>

namespace lram::eval {

/// What LRAM's code holds for one task (arXiv 2410.22391; ml-jku/LRAM, src/envs/target_returns.py
/// and dn_scores.py).
struct LramReference {
  std::string_view task;  ///< our id
  double target_return;   ///< prompts the return-to-go at evaluation: the best return of its data
  std::optional<double> random_return, data_return;  ///< 0 and 1 of its normalised score
};

/// The DMControl tasks (11 of training, 5 held out) and the dense Dark-Room.
std::span<const LramReference> lram_references();

/// Null for a task that LRAM does not have.
const LramReference* find_lram_reference(std::string_view task);

}  // namespace lram::eval
