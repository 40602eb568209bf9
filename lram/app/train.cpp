// lram train: a policy from data sets. The program `lram-train`, which `lram` executes.
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <c10/util/Exception.h>
#include <fmt/core.h>
#include <malloc.h>
#include <torch/utils.h>

#include <algorithm>
#include <filesystem>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "agents/experts/random.h"
#include "envs/environment.h"
#include "lram/app/verb.h"
#include "lram/core/error.h"
#include "lram/core/interrupt.h"
#include "lram/core/json.h"
#include "lram/core/log.h"
#include "lram/core/options.h"
#include "lram/model/policy.h"
#include "lram/tokenization/sequence.h"
#include "lram/training/run.h"
#include "lram/training/trainer.h"
#include "lram/training/training_data.h"

namespace lram::app {
namespace fs = std::filesystem;
using training::TrainingData;
namespace {
struct Options {
  std::string run, resume;
  int threads = 0;
  bool dry_run = false, json = false;
  training::DataConfig data;
  training::TrainConfig train;
  model::PolicyConfig model;
};

CommandLine command_line(Options& o) {
  CommandLine line("lram train --recipe FILE [--run FOLDER] [--KEY VALUE ...] | --resume RUN",
                   "Trains one policy on all data sets of a recipe. Keys of the recipe are options "
                   "too, and the command\nline wins.");
  line.allow_recipe();
  line.options().add_options()("run", po::value(&o.run),
                               "folder of the new run (default runs/RECIPE)")(
      "resume", po::value(&o.resume), "run to go on with, from its newest whole checkpoint")(
      "threads", po::value(&o.threads)->default_value(o.threads),
      "CPU threads, 0 = one per core; the same number gives the same run")(
      "dry-run", po::bool_switch(&o.dry_run), "open everything, train one step, keep nothing")(
      "json", po::bool_switch(&o.json), "print the result as JSON");
  describe(line.options(), o.data);
  describe(line.options(), o.model);
  describe(line.options(), o.train);
  return line;
}

/// Every step asks for the tensors of the step before: what is freed stays with the process, or the
/// system would clear those pages anew each time (an eighth to a third of the step).
void keep_freed_memory() {
  mallopt(M_MMAP_THRESHOLD, 32 << 20);  // the most that glibc takes
  mallopt(M_TRIM_THRESHOLD, std::numeric_limits<int>::max());
  mallopt(M_TOP_PAD, 64 << 20);
}

/// Mean return of uniformly random actions over kEpisodes episodes, seeds from kFirstSeed on: below
/// the held-out seeds of evaluation, above those that data sets begin with.
double random_return(const std::string& task) {
  constexpr std::uint64_t kFirstSeed = 900'000, kEpisodes = 10;
  const auto env = envs::make(task);
  agents::experts::Random agent(task);
  const TaskSpec& spec = env->spec();
  std::vector<float> obs(static_cast<std::size_t>(spec.observation.vector_size));
  std::vector<std::uint8_t> image(static_cast<std::size_t>(spec.observation.image_size()));
  std::vector<float> action(static_cast<std::size_t>(spec.action.size));
  const envs::ObservationView view{.vector = obs, .image = image};
  double total = 0.0;
  for (std::uint64_t seed = kFirstSeed; seed < kFirstSeed + kEpisodes; ++seed) {
    env->reset(seed, view);
    agent.begin_episode(*env, seed);
    for (bool done = false; !done;) {
      agent.act(*env, obs, action);
      const envs::StepResult result = env->step(action, view);
      total += static_cast<double>(result.reward);
      done = result.done();
    }
  }
  return total / static_cast<double>(kEpisodes);
}

void measure_random_returns(TrainingData& data) {
  const auto known = envs::task_ids();
  for (std::size_t i = 0; i < data.tasks().size(); ++i) {
    const std::string& task = data.tasks()[i].entry.spec.id;
    if (std::find(known.begin(), known.end(), task) == known.end()) {
      log_warning("task '{}' has no simulator here: its random_mean stays 0", task);
      continue;
    }
    data.set_random_mean(i, random_return(task));
  }
}

void print_banner(const Options& o, const training::Trainer& trainer, const TrainingData& data) {
  const model::PolicyConfig& model = trainer.policy().config();
  std::int64_t parameters = 0;
  for (const auto& parameter : trainer.policy().parameters()) parameters += parameter.numel();
  fmt::print(stderr, "policy   {}, {:.3f} M parameters: {} blocks of width {}, {} heads\n",
             model.backbone, static_cast<double>(parameters) * 1e-6, model.num_blocks,
             model.embed_dim, model.num_heads);
  for (const training::TrainingDomain& domain : data.domains()) {
    for (const std::size_t index : domain.tasks) {
      const training::TrainingTask& task = data.tasks()[index];
      fmt::print(stderr,
                 "task     {}: {} episodes to train on, {} to validate, {} steps, mean return "
                 "{:.1f}, best {:.1f}, random {:.1f}\n",
                 task.entry.spec.id, task.split.train.size(), task.split.validation.size(),
                 task.data.num_steps(), task.entry.data_mean, task.entry.target_return,
                 task.entry.random_mean);
    }
  }
  const std::int64_t steps = o.train.window_steps > 0 ? o.train.window_steps : model.context_length;
  fmt::print(stderr, "windows  {} steps of {} tokens, {}\n", steps, tokenization::kTokensPerStep,
             o.train.carry_state ? "walking through episodes with their state"
                                 : "each from an empty state");
  std::int64_t windows = 0;
  for (const auto& domain : data.domains()) windows += batch_size_of(o.train, domain.name);
  fmt::print(stderr, "batch    {} windows over {} domains, up to {} tokens per step\n", windows,
             data.domains().size(), windows * steps * tokenization::kTokensPerStep);
  fmt::print(stderr, "device   {}, {} threads\n", o.train.device, at::get_num_threads());
}

std::string describe_stop(const training::RunResult& result) {
  switch (result.reason) {
    case training::StopReason::kFinished:
      return "finished";
    case training::StopReason::kInterrupted:
      return "interrupted";
    case training::StopReason::kOutOfTime:
      return "out of time";
  }
  return {};
}

void print_result(const Options& o, const training::RunResult& result) {
  const std::string reason = describe_stop(result);
  if (o.json) {
    const nlohmann::json out = {{"run", o.run},
                                {"reason", reason},
                                {"step", result.step},
                                {"checkpoint", result.checkpoint.string()},
                                {"metrics", result.metrics}};
    fmt::print("{}\n", json_text(out, 1));
    return;
  }
  fmt::print("{} at step {} of {}\n", reason, result.step, o.train.steps);
  for (const char* name : {"train/loss", "train/accuracy", "valid/loss", "valid/accuracy"})
    if (const auto value = result.metrics.find(name); value != result.metrics.end())
      fmt::print("{:<14}  {:.4f}\n", name, value->second);
  fmt::print("checkpoint      {}\n", result.checkpoint.string());
  if (result.reason != training::StopReason::kFinished)
    fmt::print("go on with      lram train --resume {}\n", o.run);
}

/// The config with what follows from the data: the Transformer's table of positions.
model::PolicyConfig fitted(model::PolicyConfig config, std::int64_t longest_episode) {
  if (config.backbone == "gpt2" && config.max_episode_steps == 0)
    config.max_episode_steps = longest_episode;
  return config;
}

std::shared_ptr<model::Policy> new_policy(const Options& o, TrainingData& data) {
  const model::PolicyConfig config = fitted(o.model, data.longest_episode());
  torch::manual_seed(o.train.seed);
  auto policy = std::make_shared<model::Policy>(config);
  if (!o.dry_run) measure_random_returns(data);
  policy->set_tasks(data.table());
  return policy;
}

int run(Options& o, const std::string& config_ini) {
  validate(o.train);
  // What is wrong already is refused before anything is read or written.
  model::validate(fitted(o.model, /*longest_episode=*/1));
  training::training_device(o.train.device);
  fs::path checkpoint;
  if (!o.resume.empty()) {
    o.run = o.resume;
    checkpoint = training::checkpoint_to_resume(o.run, config_ini);
  }
  TrainingData data(o.data);
  std::shared_ptr<model::Policy> policy;
  if (checkpoint.empty()) {
    policy = new_policy(o, data);
  } else {
    policy = model::load_policy(checkpoint);
    for (std::size_t i = 0; i < data.tasks().size(); ++i)
      if (const auto* entry = policy->tasks().find(data.tasks()[i].entry.spec.id))
        data.set_random_mean(i, entry->random_mean);
  }
  training::Trainer trainer(o.train, policy, data);
  if (!checkpoint.empty()) trainer.restore(checkpoint);
  print_banner(o, trainer, data);
  if (o.dry_run) {
    const auto report = trainer.step();
    fmt::print("one step: loss {:.4f}, gradient norm {:.4f}, {} tokens\n",
               summarize("train", report.tallies).at("train/loss"), report.grad_norm,
               report.tokens);
    return 0;
  }
  if (checkpoint.empty()) training::create_run(o.run, config_ini);
  fmt::print(stderr, "run      {}{}\n", o.run,
             checkpoint.empty() ? "" : fmt::format(", from step {}", trainer.num_steps()));
  catch_interrupts();
  const training::RunResult result = training::train(trainer, o.train, o.run);
  print_result(o, result);
  return result.reason == training::StopReason::kInterrupted ? interrupt_exit_code() : 0;
}
}  // namespace

int train(const Args& given) {
  Args args = given;
  for (std::string& arg : args)  // the short form that other verbs and tools have
    if (arg == "--device" || arg.starts_with("--device=")) arg.insert(2, "train.");
  Options options;
  CommandLine line = command_line(options);
  if (!line.parse(args)) return 0;
  std::string config_ini = line.resolved_ini();
  if (!options.resume.empty() && line.recipe().empty()) {
    const fs::path saved = fs::path(options.resume) / "config.ini";
    if (!fs::exists(saved))
      throw_error(ErrorKind::kInput, "{}: no such file, wanted a run of 'lram train' to resume",
                  saved.string());
    Args with_saved = args;
    with_saved.insert(with_saved.end(), {"--recipe", saved.string()});
    Options again;
    CommandLine second = command_line(again);
    second.parse(with_saved);
    config_ini = second.resolved_ini();
    options = again;
  }
  check_threads(options.threads);
  if (!options.resume.empty() && !options.run.empty())
    throw_error(ErrorKind::kUsage, "--run {} beside --resume {}: wanted one of them", options.run,
                options.resume);
  if (options.run.empty() && options.resume.empty()) {
    if (line.recipe().empty())
      throw_error(ErrorKind::kUsage, "wanted --recipe FILE or --run FOLDER for a new run");
    options.run = fs::path("runs") / fs::path(line.recipe()).stem();
  }
  // Moments of AdamW fade into subnormal numbers, which a CPU adds a hundred times slower.
  at::globalContext().setFlushDenormal(true);
  keep_freed_memory();
  if (options.threads > 0) at::set_num_threads(options.threads);
  try {
    return run(options, config_ini);
  } catch (const c10::OutOfMemoryError& error) {
    throw_error(ErrorKind::kResource, "out of memory on {}, try a smaller train.batch_size: {}",
                options.train.device, error.what_without_backtrace());
  }
}
}  // namespace lram::app

int main(int argc, char** argv) {
  return lram::app::run_verb("lram train", lram::app::train,
                             lram::app::Args(argv + 1, argv + argc));
}
