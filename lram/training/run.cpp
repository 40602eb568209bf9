#include "lram/training/run.h"

#include <chrono>
#include <map>
#include <sstream>

#include "lram/core/error.h"
#include "lram/core/file.h"
#include "lram/core/interrupt.h"
#include "lram/core/log.h"
#include "lram/core/progress.h"
#include "lram/training/checkpoint.h"

namespace lram::training {
namespace fs = std::filesystem;
namespace {
using Clock = std::chrono::steady_clock;
constexpr const char* kConfigName = "config.ini";

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

std::map<std::string, std::string> parse_ini(const std::string& text) {
  std::istringstream stream(text);
  std::map<std::string, std::string> values;
  const po::options_description none;
  for (const auto& option :
       po::parse_config_file(stream, none, /*allow_unregistered=*/true).options)
    values[option.string_key] = option.value.empty() ? "" : option.value.front();
  return values;
}

/// The run's loop: what it has done since the last line of metrics, and when what is due.
class Loop {
 public:
  Loop(Trainer& trainer, const TrainConfig& config, const fs::path& run)
      : trainer_(trainer),
        config_(config),
        metrics_(run, trainer.num_steps()),
        checkpoints_(run / "checkpoints", config.keep_checkpoints),
        progress_("train", config.steps, "steps") {}

  RunResult run() {
    while (true) {
      const std::int64_t step = trainer_.num_steps();
      const bool finished = step >= config_.steps;
      const bool late = config_.max_seconds > 0.0 && seconds_since(start_) >= config_.max_seconds;
      if (finished || late || interrupted() != 0) {
        save();
        progress_.finish();
        result_.step = step;
        result_.reason = finished ? StopReason::kFinished
                         : late   ? StopReason::kOutOfTime
                                  : StopReason::kInterrupted;
        return result_;
      }
      one_step();
    }
  }

 private:
  bool due(std::int64_t every) const {
    const std::int64_t step = trainer_.num_steps();
    return every > 0 && (step % every == 0 || step == config_.steps);
  }

  void one_step() {
    const StepReport report = trainer_.step();
    tokens_ += report.tokens;
    if (due(config_.log_every)) log(report);
    if (due(config_.validate_every)) {
      write(summarize("valid", trainer_.validate()));
      log_info("validate", "step", trainer_.num_steps(), "loss", result_.metrics["valid/loss"],
               "accuracy", result_.metrics["valid/accuracy"]);
      log_time_ = Clock::now();  // validation is no training time
    }
    if (due(config_.checkpoint_every)) save();
    progress_.update(trainer_.num_steps(), note_);
  }

  void log(const StepReport& report) {
    Metrics line = summarize("train", trainer_.take_tallies());
    const double tokens_per_second = static_cast<double>(tokens_) / seconds_since(log_time_);
    note_ = fmt::format("loss {:.3f}, {:.0f} tokens/s", line["train/loss"], tokens_per_second);
    line["train/learning_rate"] = report.rate;
    line["train/grad_norm"] = report.grad_norm;
    line["time/tokens_per_second"] = tokens_per_second;
    line["time/seconds"] = seconds_since(start_);
    write(line);
    tokens_ = 0;
    log_time_ = Clock::now();
  }

  void write(const Metrics& line) {
    metrics_.write(trainer_.num_steps(), line);
    for (const auto& [name, value] : line) result_.metrics[name] = value;
  }

  void save() {
    const std::int64_t step = trainer_.num_steps();
    if (saved_step_ == step) return;
    metrics_.sync();
    result_.checkpoint =
        checkpoints_.write(step, [&](const fs::path& folder) { trainer_.save(folder); });
    saved_step_ = step;
  }

  Trainer& trainer_;
  const TrainConfig& config_;
  MetricsWriter metrics_;
  CheckpointFolder checkpoints_;
  Progress progress_;
  RunResult result_;
  std::string note_;
  std::int64_t tokens_ = 0;       // since log_time_
  std::int64_t saved_step_ = -1;  // of the newest checkpoint that this loop wrote
  Clock::time_point start_ = Clock::now(), log_time_ = start_;
};
}  // namespace

void create_run(const fs::path& run, const std::string& config_ini) {
  if (fs::exists(run) && !(fs::is_directory(run) && fs::is_empty(run)))
    throw_error(ErrorKind::kUsage,
                "{}: exists already; go on with it by --resume {}, or name another folder by --run",
                run.string(), run.string());
  make_folder(run);
  write_file_atomically(run / kConfigName, config_ini);
}

fs::path checkpoint_to_resume(const fs::path& run, const std::string& config_ini) {
  const auto then = parse_ini(read_file(run / kConfigName)), now = parse_ini(config_ini);
  for (const auto& [key, value] : now) {
    const auto old = then.find(key);
    if (may_change_on_resume(key) || (old != then.end() && old->second == value)) continue;
    throw_error(
        ErrorKind::kUsage,
        "{} is '{}', but {} was started with '{}': a resumed run keeps its config, a new one "
        "needs another --run",
        key, value, run.string(), old == then.end() ? "another version" : old->second);
  }
  const auto checkpoint = CheckpointFolder(run / "checkpoints", 0).newest_whole();
  if (!checkpoint)
    throw_error(ErrorKind::kInput, "{}: no whole checkpoint to resume from",
                (run / "checkpoints").string());
  return *checkpoint;
}

RunResult train(Trainer& trainer, const TrainConfig& config, const fs::path& run) {
  return Loop(trainer, config, run).run();
}
}  // namespace lram::training
