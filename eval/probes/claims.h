#pragma once
#include <string>
#include <vector>

#include "eval/probes/results.h"

namespace lram::eval::probes {

/// What a paper says about a cell, and whether the figures bear it out.
struct Verdict {
  enum class Kind { kBorneOut, kNotBorneOut, kOpen };

  std::string task, cell;
  std::string claim;     ///< "solves it: scaled accuracy >= 0.9"
  std::string source;    ///< arXiv number or section
  std::string measured;  ///< "0.998"
  Kind kind = Kind::kOpen;
  std::string reason = {};  ///< of kOpen: what is missing
};

std::string to_string(Verdict::Kind kind);

/// Judges every claim about a cell and a task that are both in `scores`. A claim of inability
/// stands only after three learning rates, each with no fewer steps than the same cell took to
/// solve even_pairs: otherwise it may be under-trained, and the claim is open.
std::vector<Verdict> judge_claims(const std::vector<CellScore>& scores);

std::string to_table(const std::vector<Verdict>& verdicts);

}  // namespace lram::eval::probes
