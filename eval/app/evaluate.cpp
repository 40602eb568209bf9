// lram eval: plays a checkpoint's tasks and scores the returns.
#include <ATen/Context.h>
#include <ATen/Parallel.h>

#include <chrono>
#include <cmath>
#include <ctime>
#include <nlohmann/json.hpp>

#include "eval/lram_references.h"
#include "eval/rollout.h"
#include "eval/run_folder.h"
#include "eval/scores.h"
#include "lram/app/verb.h"
#include "lram/core/build_info.h"
#include "lram/core/error.h"
#include "lram/core/file.h"
#include "lram/core/interrupt.h"
#include "lram/core/json.h"
#include "lram/core/log.h"
#include "lram/core/options.h"
#include "lram/core/text.h"

namespace {
using namespace lram;
using Mode = agents::AgentOptions::Mode;

struct Settings {
  std::string checkpoint, tasks, target = "data", mode = "carried", csv, out;
  std::int64_t episodes = 20, window_steps = 0;
  std::uint64_t first_seed = envs::kFirstHeldOutSeed;
  std::size_t num_envs = 32, threads = 0;
  bool json = false;
};

std::vector<Mode> parse_modes(const std::string& text) {
  if (text == "carried") return {Mode::kCarried};
  if (text == "window") return {Mode::kWindow};
  if (text == "both") return {Mode::kCarried, Mode::kWindow};
  throw_error(ErrorKind::kUsage, "--mode is '{}', wanted carried, window or both", text);
}

// The return that prompts the episodes of a task.
double target_of(const std::string& target, const tokenization::TaskEntry& task) {
  if (target == "data") return task.target_return;
  if (target == "lram") {
    const eval::LramReference* reference = eval::find_lram_reference(task.spec.id);
    if (reference == nullptr)
      throw_error(ErrorKind::kUsage, "--target-return lram: LRAM has no table value for '{}'",
                  task.spec.id);
    return reference->target_return;
  }
  double value = 0.0;
  try {
    std::size_t used = 0;
    value = std::stod(target, &used);
    if (used != target.size() || !std::isfinite(value)) throw std::invalid_argument(target);
  } catch (const std::logic_error&) {
    throw_error(ErrorKind::kUsage, "--target-return is '{}', wanted lram, data or a number",
                target);
  }
  return value;
}

// Full ids: those asked for, or all of the checkpoint.
std::vector<std::string> choose_tasks(const std::string& list, const tokenization::TaskTable& known,
                                      const std::string& checkpoint) {
  std::vector<std::string> ids;
  if (list.empty()) {
    for (const auto& entry : known.entries()) ids.push_back(entry.spec.id);
    if (ids.empty()) throw_error(ErrorKind::kInput, "{}: the checkpoint names no task", checkpoint);
    return ids;
  }
  std::vector<std::string> known_ids;
  for (const auto& entry : known.entries()) known_ids.push_back(entry.spec.id);
  for (const std::string& name : split_list(list, "--task")) {
    ids.push_back(envs::make(name)->spec().id);
    if (known.find(ids.back()) == nullptr)
      throw_error(ErrorKind::kUsage, "{}: the checkpoint was not trained on '{}'; it knows {}",
                  checkpoint, ids.back(), joined(known_ids));
  }
  return ids;
}

void warn_of_overlap(const tokenization::TaskEntry& task, std::uint64_t first,
                     std::int64_t episodes) {
  const std::uint64_t last = first + static_cast<std::uint64_t>(episodes) - 1;
  if (first <= task.last_seed && task.first_seed <= last)
    log_warning(
        "{}: the evaluation seeds {} to {} overlap the training data's {} to {}, so the score "
        "says nothing about new episodes",
        task.spec.id, first, last, task.first_seed, task.last_seed);
}

// One task in one mode.
eval::TaskEvaluation play(const std::shared_ptr<model::Policy>& policy, const std::string& task,
                          Mode mode, const Settings& settings) {
  const tokenization::TaskEntry& entry = policy->tasks().at(task);
  const double target = target_of(settings.target, entry);
  envs::VectorEnv envs(
      task, {.num_envs = std::min(settings.num_envs, static_cast<std::size_t>(settings.episodes)),
             .num_threads = settings.threads,
             .auto_reset = false});
  agents::RecurrentAgent agent(policy, envs.specs(),
                               {.mode = mode,
                                .window_steps = settings.window_steps,
                                .target_returns = std::vector(envs.size(), target),
                                .num_threads = settings.threads});
  const char* name = mode == Mode::kCarried ? "carried" : "window";
  eval::RolloutResult result = eval::rollout(
      agent, envs,
      {.episodes = settings.episodes, .first_seed = settings.first_seed, .show_progress = true});
  log_info("eval", "task", task, "mode", name, "mean_return",
           fmt::format("{:.1f}", result.mean_return), "steps_per_s",
           std::llround(static_cast<double>(result.steps) / result.seconds));
  return {.task = task,
          .mode = name,
          .target_return = target,
          .data_mean = entry.data_mean,
          .random_mean = entry.random_mean,
          .episodes = std::move(result.episodes)};
}

int evaluate(const app::Args& args) {
  Settings settings;
  CommandLine line(
      "lram eval --checkpoint DIR [--task T[,T]] [--episodes N]",
      "Plays tasks with a trained policy as a recurrent agent and prints mean returns, "
      "95 % bootstrap\nintervals and normalised scores. Stopped by SIGINT it scores the episodes "
      "that have "
      "ended.");
  line.options().add_options()("checkpoint", po::value(&settings.checkpoint),
                               "checkpoint folder, e.g. runs/small/checkpoints/last")(
      "task", po::value(&settings.tasks), "tasks, default all of the checkpoint")(
      "episodes", po::value(&settings.episodes)->default_value(settings.episodes),
      "episodes per task, one seed each")(
      "first-seed", po::value(&settings.first_seed)->default_value(settings.first_seed),
      "seed of the first episode; the others follow")(
      "target-return", po::value(&settings.target)->default_value(settings.target),
      "return that is asked of the policy: data (the best of its training data), lram (LRAM's "
      "table) or a number")(
      "mode", po::value(&settings.mode)->default_value(settings.mode),
      "carried (state kept over the episode), window (last steps recomputed, LRAM's published "
      "way) or both")("window-steps",
                      po::value(&settings.window_steps)->default_value(settings.window_steps),
                      "length of the window, 0 = the context length of training (LRAM: 50)")(
      "num-envs", po::value(&settings.num_envs)->default_value(settings.num_envs),
      "episodes played at once; changes no score")(
      "threads", po::value(&settings.threads)->default_value(settings.threads),
      "0 = one per core; changes no score")("json", po::bool_switch(&settings.json),
                                            "print JSON with every episode")(
      "csv", po::value(&settings.csv), "write the score table here too")(
      "out", po::value(&settings.out),
      "write eval.json into this folder, default RUN/eval/TIME.json");
  if (!line.parse(args)) return 0;
  if (settings.checkpoint.empty()) throw_error(ErrorKind::kUsage, "no --checkpoint given");
  if (settings.episodes < 1 || settings.num_envs < 1)
    throw_error(ErrorKind::kUsage, "--episodes is {} and --num-envs {}, wanted at least 1",
                settings.episodes, settings.num_envs);
  if (settings.window_steps < 0)
    throw_error(ErrorKind::kUsage, "--window-steps is {}, wanted 0 or more", settings.window_steps);
  check_threads(static_cast<std::int64_t>(settings.threads));
  const std::vector<Mode> modes = parse_modes(settings.mode);

  // Groups of rows are spread over the cores; inside of one LibTorch stays on its core.
  at::set_num_threads(1);
  at::globalContext().setFlushDenormal(true);
  const auto policy = model::load_policy(settings.checkpoint);
  const std::vector<std::string> tasks =
      choose_tasks(settings.tasks, policy->tasks(), settings.checkpoint);
  for (const std::string& task : tasks) {
    target_of(settings.target, policy->tasks().at(task));
    warn_of_overlap(policy->tasks().at(task), settings.first_seed, settings.episodes);
  }

  eval::Evaluation evaluation{
      .checkpoint = std::filesystem::weakly_canonical(settings.checkpoint).filename(),
      .target = settings.target,
      .hardware = one_line(hardware_info()),
      .build = one_line(build_info()),
      .tasks = {}};
  catch_interrupts();
  const auto start = std::chrono::steady_clock::now();
  std::int64_t played = 0;
  for (const std::string& task : tasks)
    for (const Mode mode : modes) {
      if (interrupted() != 0) continue;
      eval::TaskEvaluation one = play(policy, task, mode, settings);
      played += std::ssize(one.episodes);
      if (!one.episodes.empty()) evaluation.tasks.push_back(std::move(one));
    }
  if (interrupted() != 0) {
    log_warning("stopped after {} of {} episodes; only those are scored", played,
                settings.episodes * std::ssize(tasks) * std::ssize(modes));
    if (played == 0) return interrupt_exit_code();
  }
  evaluation.seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();

  const eval::Scores scores = eval::score(evaluation.tasks);
  nlohmann::json json = evaluation;
  json["scores"] = scores;
  std::filesystem::path file = std::filesystem::path(settings.out) / "eval.json";
  if (settings.out.empty())
    file = eval::new_evaluation_path(eval::run_of_checkpoint(settings.checkpoint),
                                     evaluation.checkpoint, std::time(nullptr));
  make_folder(file.parent_path());
  write_file_atomically(file, json_text(json, 1) + '\n');
  if (!settings.csv.empty()) write_file_atomically(settings.csv, eval::to_csv(scores));
  if (settings.json) {
    fmt::print("{}\n", json_text(json, 1));
  } else {
    fmt::print("{}", eval::to_table(scores));
  }
  log_info("eval", "wrote", file.string());
  return interrupted() != 0 ? interrupt_exit_code() : 0;
}
}  // namespace

int main(int argc, char** argv) {
  return lram::app::run_verb("lram eval", evaluate, lram::app::Args(argv + 1, argv + argc));
}
