#include "eval/probes/claims.h"

#include <fmt/core.h>

#include <algorithm>

#include "lram/core/table.h"

namespace lram::eval::probes {
namespace {
// Scaled accuracies. Even pairs is the control of the claims of inability.
constexpr double kSolved = 0.9, kFailed = 0.2, kControl = 0.98, kRecalled = 0.99;
constexpr std::size_t kRates = 3;        // that a cell must have tried in vain
constexpr double kFlat = 1.05;           // error at any longer length over that at the shortest
constexpr double kRevision = 1.0 / 3.0;  // error over the LSTM's
constexpr double kLearned = 0.9;         // error over that of the mean

enum class Kind { kSolves, kFails, kControls, kRecalls, kRevises, kStaysFlat, kRises };

struct Claim {
  const char *task, *cell;
  Kind kind;
  const char* source;
};

// xLSTM: 2405.04517, Sec. 4.1 and App. D.1; formal languages also 2411.12537. States and S3 of
// xLSTM and Mamba: 2606.12364. Recall: Zoology, 2312.04927, and 2405.04517 Sec. 4.1. Extrapolation:
// 2410.22391.
constexpr const char *kXlstm = "2405.04517", *kStates = "2411.12537", *kS3 = "2606.12364",
                     *kZoology = "2312.04927", *kLram = "2410.22391";

const Claim kClaims[] = {
    {"even_pairs", "*", Kind::kControls, kXlstm},
    {"parity", "slstm", Kind::kSolves, kXlstm},
    {"parity", "xlstm", Kind::kSolves, kXlstm},
    {"parity", "lstm", Kind::kSolves, kXlstm},
    {"parity", "mlstm", Kind::kFails, kStates},
    {"parity", "xlstm_large", Kind::kFails, kStates},
    {"parity", "mamba", Kind::kFails, kStates},
    {"parity", "gpt2", Kind::kFails, kXlstm},
    {"cycle_navigation", "slstm", Kind::kSolves, kXlstm},
    {"cycle_navigation", "gpt2", Kind::kFails, kXlstm},
    {"modular_arithmetic", "slstm", Kind::kSolves, kXlstm},
    {"modular_arithmetic", "mlstm", Kind::kFails, kXlstm},
    {"modular_arithmetic", "mamba", Kind::kFails, kXlstm},
    {"modular_arithmetic", "gpt2", Kind::kFails, kXlstm},
    {"s3", "slstm", Kind::kSolves, kS3},
    {"s3", "xlstm", Kind::kSolves, kS3},
    {"s3", "mlstm", Kind::kFails, kS3},
    {"recall", "gpt2", Kind::kRecalls, kZoology},
    {"recall", "mlstm", Kind::kRecalls, kXlstm},
    {"recall", "xlstm", Kind::kRecalls, kXlstm},
    {"nearest_neighbour", "mlstm", Kind::kRevises, kXlstm},
    {"nearest_neighbour", "xlstm", Kind::kRevises, kXlstm},
    {"nearest_neighbour", "slstm", Kind::kRevises, kXlstm},
    {"tracking", "mlstm", Kind::kStaysFlat, kLram},
    {"tracking", "xlstm", Kind::kStaysFlat, kLram},
    {"tracking", "slstm", Kind::kStaysFlat, kLram},
    {"tracking", "xlstm_large", Kind::kStaysFlat, kLram},
    {"tracking", "lstm", Kind::kStaysFlat, kLram},
    {"tracking", "mamba", Kind::kStaysFlat, kLram},
    {"tracking", "gpt2", Kind::kRises, kLram},
};

std::string text_of(Kind kind) {
  switch (kind) {
    case Kind::kSolves:
      return fmt::format("solves it: scaled accuracy >= {}", kSolved);
    case Kind::kFails:
      return fmt::format("cannot: scaled accuracy <= {}", kFailed);
    case Kind::kControls:
      return fmt::format("solves it: scaled accuracy >= {}", kControl);
    case Kind::kRecalls:
      return fmt::format("recalls: scaled accuracy >= {}", kRecalled);
    case Kind::kRevises:
      return "error below a third of the LSTM's";
    case Kind::kStaysFlat:
      return fmt::format("error never above {} x that of its training length", kFlat);
    case Kind::kRises:
      return fmt::format("error rises above {} x that of its training length", kFlat);
  }
  return {};
}

void decide(Verdict& verdict, bool holds) {
  verdict.kind = holds ? Verdict::Kind::kBorneOut : Verdict::Kind::kNotBorneOut;
}

void judge_inability(Verdict& verdict, const CellScore& score,
                     const std::vector<CellScore>& scores) {
  if (score.scaled() > kFailed) return decide(verdict, false);
  const CellScore* control = find(scores, "even_pairs", score.cell);
  if (control == nullptr) {
    verdict.reason = "no control: even_pairs was not run";
  } else if (control->scaled() < kControl) {
    verdict.reason = fmt::format("the control failed: even_pairs {:.3f}", control->test());
  } else if (score.least_steps < control->best.result.steps) {
    verdict.reason = fmt::format("{} steps at a rate, of which the control took {}",
                                 score.least_steps, control->best.result.steps);
  } else if (score.rates.size() < kRates) {
    verdict.reason = fmt::format("{} of {} learning rates tried", score.rates.size(), kRates);
  } else {
    decide(verdict, true);
  }
}

void judge_flatness(Verdict& verdict, const CellScore& score, bool wants_flat) {
  const auto& curve = score.best.result.curve;
  if (curve.size() < 2) {
    verdict.reason = "needs two lengths";
    return;
  }
  const auto shorter = [](const CurvePoint& a, const CurvePoint& b) { return a.length < b.length; };
  const auto low = std::min_element(curve.begin(), curve.end(), shorter);
  // The worst of the longer ones.
  auto high = low == curve.begin() ? std::next(low) : curve.begin();
  for (auto at = curve.begin(); at != curve.end(); ++at)
    if (at != low && at->score > high->score) high = at;
  const double ratio = high->score / low->score;
  verdict.measured =
      fmt::format("{:.4f} at {}, {:.4f} at {}", low->score, low->length, high->score, high->length);
  if (low->score > kLearned * score.best.result.chance)
    verdict.reason = "learned nothing: as good as the mean";
  else
    decide(verdict, (ratio <= kFlat) == wants_flat);
}

Verdict judge(const Claim& claim, const CellScore& score, const std::vector<CellScore>& scores) {
  Verdict verdict{
      .task = score.task,
      .cell = score.cell,
      .claim = text_of(claim.kind),
      .source = claim.source,
      .measured = fmt::format("{:.3f}", score.is_error ? score.test() : score.scaled())};
  switch (claim.kind) {
    case Kind::kSolves:
      decide(verdict, score.scaled() >= kSolved);
      break;
    case Kind::kControls:
      decide(verdict, score.scaled() >= kControl);
      break;
    case Kind::kRecalls:
      decide(verdict, score.scaled() >= kRecalled);
      break;
    case Kind::kFails:
      judge_inability(verdict, score, scores);
      break;
    case Kind::kRevises: {
      const CellScore* lstm = find(scores, score.task, "lstm");
      verdict.measured = fmt::format("{:.4f}", score.test());
      if (lstm == nullptr) {
        verdict.reason = "the LSTM was not run";
        break;
      }
      verdict.measured += fmt::format(", LSTM {:.4f}", lstm->test());
      if (score.test() > kLearned * score.best.result.chance)
        verdict.reason = "learned nothing: as good as the mean";
      else
        decide(verdict, score.test() < kRevision * lstm->test());
      break;
    }
    case Kind::kStaysFlat:
    case Kind::kRises:
      judge_flatness(verdict, score, claim.kind == Kind::kStaysFlat);
      break;
  }
  return verdict;
}
}  // namespace

std::string to_string(Verdict::Kind kind) {
  switch (kind) {
    case Verdict::Kind::kBorneOut:
      return "borne out";
    case Verdict::Kind::kNotBorneOut:
      return "not borne out";
    case Verdict::Kind::kOpen:
      return "open";
  }
  return {};
}

std::vector<Verdict> judge_claims(const std::vector<CellScore>& scores) {
  std::vector<Verdict> out;
  for (const Claim& claim : kClaims)
    for (const CellScore& score : scores)
      if (score.task == claim.task && (score.cell == claim.cell || *claim.cell == '*'))
        out.push_back(judge(claim, score, scores));
  return out;
}

std::string to_table(const std::vector<Verdict>& verdicts) {
  Table table({"task", "cell", "claim", "paper", "measured", "verdict"});
  for (const Verdict& verdict : verdicts)
    table.add({verdict.task, verdict.cell, verdict.claim, verdict.source, verdict.measured,
               to_string(verdict.kind) + (verdict.reason.empty() ? "" : ", " + verdict.reason)});
  return table.text();
}

}  // namespace lram::eval::probes
