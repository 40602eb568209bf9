#pragma once
#include <filesystem>
#include <optional>
#include <string>

#include "lram/training/config.h"
#include "lram/training/metrics.h"
#include "lram/training/trainer.h"

namespace lram::training {

// A run folder:
//   config.ini      the resolved recipe, which fed back repeats the run
//   metrics.jsonl, events.out.tfevents.*
//   checkpoints/    checkpoint.h

/// Makes the folder of a new run and saves its config. Throws Error(kUsage) with advice where there
/// is something already.
void create_run(const std::filesystem::path& run, const std::string& config_ini);

/// The newest whole checkpoint of a run to resume. Throws Error(kInput) where there is none, and
/// Error(kUsage) naming the first key whose value in `config_ini` is not that of the run.
std::filesystem::path checkpoint_to_resume(const std::filesystem::path& run,
                                           const std::string& config_ini);

enum class StopReason { kFinished, kInterrupted, kOutOfTime };

struct RunResult {
  StopReason reason = StopReason::kFinished;
  std::int64_t step = 0;
  std::filesystem::path checkpoint;  ///< of that step
  Metrics metrics;                   ///< last values
};

/// Trains until config.steps, an interrupt (lram/core/interrupt.h, polled between steps) or the end
/// of max_seconds, whichever comes first: metrics, validation and checkpoints at their intervals, a
/// checkpoint at the end in every case, progress on stderr. Throws what Trainer and
/// CheckpointFolder throw; the checkpoints written before stay.
RunResult train(Trainer& trainer, const TrainConfig& config, const std::filesystem::path& run);

}  // namespace lram::training
