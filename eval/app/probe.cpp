// lram probe: what each cell can learn. The program `lram-probe`, which `lram` executes.
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <torch/types.h>

#include <algorithm>
#include <exception>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <thread>

#include "eval/probes/cell.h"
#include "eval/probes/claims.h"
#include "eval/probes/results.h"
#include "eval/probes/run.h"
#include "eval/probes/unfinished_run.h"
#include "eval/svg_plot.h"
#include "lram/app/verb.h"
#include "lram/core/build_info.h"
#include "lram/core/error.h"
#include "lram/core/file.h"
#include "lram/core/interrupt.h"
#include "lram/core/json.h"
#include "lram/core/log.h"
#include "lram/core/options.h"
#include "lram/core/progress.h"
#include "lram/core/text.h"
#include "lram/training/trainer.h"

namespace lram::app {
namespace {
using namespace eval::probes;

struct Options {
  std::string preset = "cpu", tasks, cells, rates, seeds = "0", device = "cpu", out, svg, set;
  std::int64_t steps = 0, more_steps = 0;
  int jobs = 0, threads = 1;
  bool as_json = false, show = false, eager = false;
};

/// Runs of one cell, task and seed, one for each learning rate, until one reaches the bar.
struct Group {
  std::vector<RunSettings> runs;
};

double parse_number(const std::string& text, const char* option) {
  std::size_t used = 0;
  double value = 0.0;
  try {
    value = std::stod(text, &used);
  } catch (const std::logic_error&) {
  }
  if (used == 0 || used != text.size() || !(value >= 0.0))
    throw_error(ErrorKind::kUsage, "{}: '{}' is no number of 0 or more", option, text);
  return value;
}

std::vector<std::string> chosen(const std::string& text, const char* option,
                                const std::vector<std::string>& all,
                                const std::vector<std::string>& known) {
  if (text.empty()) return all;
  std::vector<std::string> out = split_list(text, option);
  for (const std::string& name : out)
    if (std::find(known.begin(), known.end(), name) == known.end())
      throw_error(ErrorKind::kUsage, "{}: unknown '{}', known: {}", option, name, joined(known));
  return out;
}

void set_steps(RunSettings& settings, std::int64_t steps) {
  settings.steps = steps;
  settings.warmup = std::min(settings.warmup, steps / 10);
}

std::vector<Group> plan(const Options& o, const std::vector<std::string>& tasks,
                        const std::vector<std::string>& cells) {
  std::vector<double> rates = preset_rates(o.preset);
  if (!o.rates.empty()) {
    rates.clear();
    for (const std::string& text : split_list(o.rates, "--rates")) {
      const double rate = parse_number(text, "--rates");
      if (std::find(rates.begin(), rates.end(), rate) != rates.end())
        throw_error(ErrorKind::kUsage, "--rates names {} twice", rate);
      rates.push_back(rate);
    }
  }
  std::vector<Group> groups;
  for (const std::string& task : tasks) {
    RunSettings settings = preset_settings(o.preset, task);
    if (o.steps > 0) set_steps(settings, o.steps);
    if (!o.set.empty())
      for (const std::string& assignment : split_list(o.set, "--set"))
        set_field(settings, assignment);
    for (const std::string& seed : split_list(o.seeds, "--seeds")) {
      settings.seed = static_cast<std::uint64_t>(parse_number(seed, "--seeds"));
      for (const std::string& cell : cells) {
        settings.cell = cell;
        Group& group = groups.emplace_back();
        for (const double rate : rates) {
          RunSettings& run = group.runs.emplace_back(settings);
          run.rate = rate;
          if (rate != rates.front() && o.more_steps > 0) set_steps(run, o.more_steps);
        }
        cell_config(settings);  // refuses what cannot be built before anything is trained
      }
    }
  }
  return groups;
}

/// Trains what is not yet among the records, several runs side by side: all groups at their first
/// rate, then at the next.
class Runner {
 public:
  Runner(const Options& options, std::vector<Group> groups)
      : options_(options),
        groups_(std::move(groups)),
        device_(training::training_device(options.device)) {
    if (!options.out.empty()) known_ = read_records(options.out);
    hardware_ = one_line(hardware_info());
    build_ = one_line(build_info());
    for (std::size_t rate = 0; rate < groups_.front().runs.size(); ++rate)
      for (const Group& group : groups_) waiting_.push_back({&group, &group.runs[rate]});
  }

  /// False if a signal stopped it.
  bool run(std::size_t jobs) {
    std::int64_t total = 0;
    for (const Job& job : waiting_) total += job.run->steps;
    progress_.emplace("probe", total, "steps");
    std::vector<std::thread> workers;
    for (std::size_t i = std::max<std::size_t>(1, std::min(jobs, waiting_.size())); i > 0; --i)
      workers.emplace_back([this] { work(); });
    for (std::thread& worker : workers) worker.join();
    progress_->finish();
    if (failure_) std::rethrow_exception(failure_);
    return !interrupted();
  }

  /// What is known of the cells and tasks of this plan, from this call and earlier ones, at every
  /// rate and number of steps.
  std::vector<RunRecord> records() const {
    std::vector<RunRecord> out;
    std::copy_if(known_.begin(), known_.end(), std::back_inserter(out), [&](const RunRecord& one) {
      return std::any_of(groups_.begin(), groups_.end(), [&](const Group& group) {
        return same_but_for_effort(group.runs.front(), one.settings);
      });
    });
    return out;
  }

 private:
  struct Job {
    const Group* group;
    const RunSettings* run;
  };

  static bool same_but_for_effort(RunSettings a, const RunSettings& b) {
    a.rate = b.rate, a.steps = b.steps, a.warmup = b.warmup;
    return a == b;
  }

  /// Whether a run is known, or the bar was reached earlier, at whatever rate and number of steps.
  bool is_needless(const Job& job) const {
    return std::any_of(known_.begin(), known_.end(), [&](const RunRecord& one) {
      return one.settings == *job.run ||
             (one.result.reached && same_but_for_effort(*job.run, one.settings));
    });
  }

  /// The first job of a group at which nobody works, as its rate may be the last that is needed; or
  /// else, so that nobody is idle, the first.
  std::optional<Job> next() {
    const std::scoped_lock lock(mutex_);
    std::erase_if(waiting_, [&](const Job& job) {
      if (!is_needless(job)) return false;
      forget_unfinished(*job.run);
      advance(job.run->steps, *job.run);
      return true;
    });
    if (waiting_.empty() || failure_) return std::nullopt;
    const auto free = [&](const Job& job) { return !busy_.contains(job.group); };
    auto chosen = std::find_if(waiting_.begin(), waiting_.end(), free);
    if (chosen == waiting_.end()) chosen = waiting_.begin();
    const Job job = *chosen;
    waiting_.erase(chosen);
    busy_.insert(job.group);
    return job;
  }

  void work() {
    at::set_num_threads(options_.threads);
    at::globalContext().setFlushDenormal(true);
    try {
      while (!stop()) {
        const auto job = next();
        if (!job) return;
        work_on(*job->run);
        const std::scoped_lock lock(mutex_);
        busy_.erase(busy_.find(job->group));
      }
    } catch (...) {
      const std::scoped_lock lock(mutex_);
      if (!failure_) failure_ = std::current_exception();
    }
  }

  void work_on(const RunSettings& settings) {
    std::int64_t last = 0;
    const auto result = run_probe(
        settings, device_,
        [&](std::int64_t steps) {
          const std::scoped_lock lock(mutex_);
          advance(steps - last, settings);
          last = steps;
          return interrupted() || failure_;
        },
        !options_.eager, unfinished(settings));
    if (!result) return;
    const std::scoped_lock lock(mutex_);
    advance(settings.steps - last, settings);
    keep({settings, *result, options_.device, hardware_, build_});
  }

  // With the mutex held.
  void advance(std::int64_t steps, const RunSettings& settings) {
    done_ += steps;
    progress_->update(done_, settings.task + " " + settings.cell);
  }

  void keep(const RunRecord& record) {
    known_.push_back(record);
    if (!options_.out.empty()) append_record(options_.out, record);
    const RunSettings& s = record.settings;
    forget_unfinished(s);
    log_info("probe", "task", s.task, "cell", s.cell, "seed", s.seed, "rate", s.rate, "steps",
             record.result.steps, "replays", record.result.replays, "validation",
             record.result.validation, "test", record.result.test, "seconds",
             fmt::format("{:.1f}", record.result.seconds));
  }

  /// Nowhere without --out.
  std::filesystem::path unfinished(const RunSettings& settings) const {
    return options_.out.empty() ? std::filesystem::path()
                                : unfinished_path(options_.out + ".unfinished", settings);
  }

  void forget_unfinished(const RunSettings& settings) const {
    const std::filesystem::path path = unfinished(settings);
    if (path.empty()) return;
    std::error_code ignored;  // a file that stays is read by nobody
    std::filesystem::remove(path, ignored);
    std::filesystem::remove(path.parent_path(), ignored);  // if it was the last
  }

  bool stop() {
    const std::scoped_lock lock(mutex_);
    return interrupted() || failure_;
  }

  const Options& options_;
  std::vector<Group> groups_;
  torch::Device device_;
  std::string hardware_, build_;
  std::mutex mutex_;  // of what follows
  std::vector<Job> waiting_;
  std::multiset<const Group*> busy_;
  std::vector<RunRecord> known_;
  std::optional<Progress> progress_;
  std::int64_t done_ = 0;
  std::exception_ptr failure_;
};

nlohmann::json to_json(const std::vector<RunRecord>& records,
                       const std::vector<Verdict>& verdicts) {
  nlohmann::json claims = nlohmann::json::array();
  for (const Verdict& v : verdicts)
    claims.push_back({{"task", v.task},
                      {"cell", v.cell},
                      {"claim", v.claim},
                      {"paper", v.source},
                      {"measured", v.measured},
                      {"verdict", to_string(v.kind)},
                      {"reason", v.reason}});
  return {{"runs", records}, {"claims", std::move(claims)}};
}

int probe(const Args& args) {
  Options o;
  CommandLine line(
      "lram probe [--preset cpu|full] [--task T,..] [--cell C,..] [--out FILE]",
      "Trains small models on tasks that each ask for one ability, and tests them on longer "
      "sequences: which cell\ncan keep a state (parity, modular_arithmetic, s3), recall, revise "
      "what it stored, run on beyond its training.\nPrints scores by cell and task, and for each "
      "claim of the papers whether the figures bear it out.\nCells: mlstm, xlstm and slstm are "
      "xLSTM[1:0], [1:1] and [0:1]. Every cell may try each learning rate, until one\nreaches the "
      "bar on validation sequences; the best of them is shown.");
  line.options().add_options()("preset", po::value(&o.preset)->default_value(o.preset),
                               "cpu: minutes per task on two cores; full: the published recipe")(
      "task", po::value(&o.tasks), "which tasks, comma-separated (default: those of the preset)")(
      "cell", po::value(&o.cells), "which cells (default: all)")(
      "seeds", po::value(&o.seeds)->default_value(o.seeds), "seeds of data and initial weights")(
      "rates", po::value(&o.rates), "learning rates instead of the preset's")(
      "steps", po::value(&o.steps)->default_value(o.steps),
      "training steps instead of the preset's, 0 = as there")(
      "more-steps", po::value(&o.more_steps)->default_value(o.more_steps),
      "training steps at every rate but the first, 0 = as many as there")(
      "set", po::value(&o.set),
      "other settings of the runs, embed_dim=64,options.num_pairs=8; --json shows all")(
      "device", po::value(&o.device)->default_value(o.device), "cpu, cuda or cuda:N")(
      "eager", po::bool_switch(&o.eager), "on a GPU, never record a training step as a CUDA graph")(
      "jobs", po::value(&o.jobs)->default_value(o.jobs),
      "models that are trained side by side, 0 = one per core")(
      "threads", po::value(&o.threads)->default_value(o.threads), "CPU threads of each")(
      "out", po::value(&o.out),
      "add every finished run to this file, and skip those that it holds; runs that are stopped "
      "wait in "
      "FILE.unfinished for the next call")("show", po::bool_switch(&o.show),
                                           "train nothing, show what --out holds")(
      "svg", po::value(&o.svg), "folder for one plot per task, score against length")(
      "json", po::bool_switch(&o.as_json), "print runs and verdicts as JSON");
  if (!line.parse(args)) return 0;
  LRAM_CHECK(o.steps >= 0, "--steps is ", o.steps, ", wanted 0 or more");
  LRAM_CHECK(o.more_steps >= 0, "--more-steps is ", o.more_steps, ", wanted 0 or more");
  check_threads(o.jobs, 0, "--jobs");
  check_threads(o.threads, 1);
  if (o.show && o.out.empty())
    throw_error(ErrorKind::kUsage, "--show needs --out, the file that it shows");

  const auto cells = chosen(o.cells, "--cell", cell_names(), cell_names());
  const auto tasks = chosen(o.tasks, "--task", preset_tasks(o.preset), task_names());
  Runner runner(o, plan(o, tasks, cells));
  catch_interrupts();
  const std::size_t jobs = o.jobs > 0 ? static_cast<std::size_t>(o.jobs)
                                      : std::max(1u, std::thread::hardware_concurrency());
  const bool finished = o.show || runner.run(jobs);

  const auto records = runner.records();
  const auto scores = cell_scores(records, cells);
  const auto verdicts = judge_claims(scores);
  if (!o.svg.empty()) {
    make_folder(o.svg);
    for (const std::string& task : tasks)
      write_file_atomically(std::filesystem::path(o.svg) / (task + ".svg"),
                            eval::render_svg(length_plot(scores, task)));
  }
  if (o.as_json)
    fmt::print("{}\n", json_text(to_json(records, verdicts), 1));
  else
    fmt::print("{}\n{}\n{}", to_table(scores), to_length_table(scores), to_table(verdicts));
  if (!finished)
    log_info("probe", "stopped",
             o.out.empty() ? std::string("nothing was kept, --out FILE keeps all runs")
                           : "the same command goes on with what is missing in " + o.out);
  return finished ? 0 : interrupt_exit_code();
}
}  // namespace
}  // namespace lram::app

int main(int argc, char** argv) {
  return lram::app::run_verb("lram probe", lram::app::probe,
                             lram::app::Args(argv + 1, argv + argc));
}
