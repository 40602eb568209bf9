// lram data collect: experts play episodes, which go to a data set in the order of their seeds.
#include <algorithm>
#include <atomic>
#include <ctime>
#include <exception>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <thread>
#include <vector>

#include "agents/experts/disturbance.h"
#include "agents/experts/expert.h"
#include "datasets/reader.h"
#include "datasets/statistics.h"
#include "datasets/writer.h"
#include "envs/environment.h"
#include "lram/app/verb.h"
#include "lram/core/error.h"
#include "lram/core/interrupt.h"
#include "lram/core/log.h"
#include "lram/core/options.h"
#include "lram/core/progress.h"

namespace lram::app {
namespace {
using agents::experts::Disturbance;
using agents::experts::Expert;

struct CollectOptions {
  std::string task, agent, out, settings, record = "executed";
  std::int64_t episodes = 10;
  std::uint64_t first_seed = 0;
  std::size_t threads = 0;
  double noise = 0.0, noise_share = 0.25, noise_correlation = 0.8;
  bool json = false;
};

// Histories are played side by side and written as their episodes end, so that a kill loses those
// under way alone. History h is `history_length` episodes that are reset with seed first_seed + h,
// each with an expert of its own; one that was cut is played again up to where it was.
class Collector {
 public:
  Collector(const CollectOptions& options, std::int64_t history_length,
            datasets::DatasetWriter& writer)
      : options_(options), history_length_(history_length), writer_(writer) {
    for (const std::uint64_t seed : writer.seeds()) ++written_[seed];
    for (std::int64_t h = 0; h * history_length_ < options_.episodes; ++h) {
      const std::int64_t missing = length(h) - written(h);
      if (missing > 0) histories_.push_back(h);
      missing_ += std::max<std::int64_t>(missing, 0);
    }
  }

  std::int64_t missing() const { return missing_; }

  /// Plays until nothing is missing or a signal asks to stop.
  void run() {
    Progress progress("collect " + options_.task, options_.episodes, "episodes");
    progress.update(options_.episodes - missing_);
    progress_ = &progress;
    const std::size_t cores =
        options_.threads > 0 ? options_.threads : std::max(1u, std::thread::hardware_concurrency());
    const std::size_t num_threads = std::min(cores, histories_.size());
    std::atomic<std::size_t> next = 0;
    std::vector<std::thread> threads;
    for (std::size_t i = 0; i < num_threads; ++i)
      threads.emplace_back([&, threads_each = cores / num_threads] {
        try {
          for (std::size_t n = next++; n < histories_.size() && !stopped(); n = next++)
            play_history(histories_[n], threads_each);
        } catch (...) {
          const std::lock_guard lock(mutex_);
          if (!failure_) failure_ = std::current_exception();
          failed_ = true;
        }
      });
    for (std::thread& thread : threads) thread.join();
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  bool stopped() const { return failed_ || interrupted() != 0; }
  std::uint64_t seed_of(std::int64_t history) const {
    return options_.first_seed + static_cast<std::uint64_t>(history);
  }
  std::int64_t length(std::int64_t history) const {
    return std::min(history_length_, options_.episodes - history * history_length_);
  }
  std::int64_t written(std::int64_t history) const {
    const auto at = written_.find(seed_of(history));
    return at == written_.end() ? 0 : at->second;
  }

  void play_history(std::int64_t history, std::size_t num_threads) {
    const auto env = envs::make(options_.task);
    const auto expert = agents::experts::make_expert(
        options_.agent, options_.task, {.settings = options_.settings, .num_threads = num_threads});
    for (std::int64_t i = 0; i < length(history); ++i) {
      const auto index = static_cast<std::uint64_t>(history * history_length_ + i);
      auto episode = play(*env, *expert, seed_of(history), index);
      if (!episode) return;
      if (i >= written(history)) write(*episode);
    }
  }

  // Nothing if it was stopped on the way.
  std::optional<datasets::Episode> play(envs::Environment& env, Expert& expert, std::uint64_t seed,
                                        std::uint64_t disturbance_seed) {
    const TaskSpec& spec = env.spec();
    const auto obs_size = static_cast<std::size_t>(spec.observation.vector_size);
    const auto image_size = static_cast<std::size_t>(spec.observation.image_size());
    std::vector<float> obs(obs_size), action(static_cast<std::size_t>(spec.action.size));
    std::vector<std::uint8_t> image(image_size);
    const envs::ObservationView view = {.vector = obs, .image = image};

    datasets::Episode episode;
    const auto record_observation = [&] {
      episode.observations.insert(episode.observations.end(), obs.begin(), obs.end());
      episode.images.insert(episode.images.end(), image.begin(), image.end());
    };
    env.reset(seed, view);
    expert.begin_episode(env, seed);
    Disturbance disturbance(spec.action, options_.noise, options_.noise_share,
                            options_.noise_correlation, disturbance_seed);
    episode.seed = seed;
    episode.variant = env.variant();
    record_observation();
    std::vector<float> executed;
    envs::StepResult result;
    while (!result.done()) {
      if (stopped()) return std::nullopt;
      expert.act(env, obs, action);
      executed = action;
      disturbance.apply(executed);
      result = env.step(executed, view);
      expert.observe(executed, result, obs);
      record_observation();
      const std::vector<float>& recorded = options_.record == "intended" ? action : executed;
      if (spec.action.discrete)
        episode.discrete_actions.push_back(static_cast<std::int32_t>(recorded[0]));
      else
        episode.actions.insert(episode.actions.end(), recorded.begin(), recorded.end());
      episode.rewards.push_back(result.reward);
      episode.terminated.push_back(result.terminated ? 1 : 0);
      episode.truncated.push_back(result.truncated ? 1 : 0);
    }
    return episode;
  }

  void write(const datasets::Episode& episode) {
    const std::lock_guard lock(mutex_);
    writer_.append(episode);
    const double episode_return = datasets::undiscounted_return(episode.rewards);
    return_sum_ += episode_return;
    ++returns_;
    progress_->update(options_.episodes - --missing_,
                      fmt::format("return {:.1f}, mean {:.1f}", episode_return,
                                  return_sum_ / static_cast<double>(returns_)));
  }

  const CollectOptions& options_;
  const std::int64_t history_length_;
  std::map<std::uint64_t, std::int64_t> written_;  // episodes found at the start, by seed
  std::vector<std::int64_t> histories_;            // that are not complete
  std::atomic<bool> failed_ = false;
  std::mutex mutex_;  // guards what follows
  datasets::DatasetWriter& writer_;
  Progress* progress_ = nullptr;
  std::int64_t missing_ = 0;
  std::exception_ptr failure_;
  double return_sum_ = 0.0;
  std::int64_t returns_ = 0;
};

void check(const CollectOptions& options) {
  const auto want = [](bool holds, const char* option, const auto& found, const char* wanted) {
    if (!holds) throw_error(ErrorKind::kUsage, "{} is {}, wanted {}", option, found, wanted);
  };
  want(options.episodes >= 1, "--episodes", options.episodes, "at least 1");
  want(options.noise >= 0.0, "--noise", options.noise, "at least 0");
  want(options.noise_share >= 0.0 && options.noise_share <= 1.0, "--noise-share",
       options.noise_share, "a share in 0..1");
  want(options.record == "executed" || options.record == "intended", "--record", options.record,
       "executed or intended");
  want(options.noise_correlation >= 0.0 && options.noise_correlation < 1.0, "--noise-correlation",
       options.noise_correlation, "at least 0 and below 1");
}

// Everything that changes the episodes, so that a file never mixes two ways of making them.
datasets::Generator generator_of(const CollectOptions& options, const Expert& expert) {
  std::string version = fmt::format("1 first_seed={}", options.first_seed);
  if (options.noise > 0.0)
    version += fmt::format(" noise={} noise_share={} noise_correlation={} record={}", options.noise,
                           options.noise_share, options.noise_correlation, options.record);
  const std::string settings = expert.settings();
  if (!settings.empty()) version += " " + settings;
  return {.name = options.agent, .version = version};
}

void print_summary(const CollectOptions& options, const TaskSpec& spec, const Expert& expert,
                   std::int64_t new_episodes, double cpu_seconds) {
  const datasets::Dataset data(options.out);
  const datasets::Statistics statistics = datasets::compute_statistics(data);
  if (!options.json) {
    fmt::print("{}: {} episodes of {} by {}, return {:.1f} (min {:.1f}, max {:.1f})\n", options.out,
               statistics.num_episodes, spec.id, options.agent, statistics.return_mean,
               statistics.return_min, statistics.return_max);
    return;
  }
  nlohmann::ordered_json json = {
      {"task", spec.id},
      {"agent", options.agent},
      {"settings", expert.settings()},
      {"path", options.out},
      {"episodes", statistics.num_episodes},
      {"returns", std::vector<double>(data.returns().begin(), data.returns().end())},
      {"return_mean", statistics.return_mean},
      {"new_episodes", new_episodes},
      {"cpu_seconds", cpu_seconds},
  };
  fmt::print("{}\n", json.dump());
}
}  // namespace

int data_collect(const Args& args) {
  CollectOptions o;
  std::string about =
      "Records episodes of an expert. Stopped by SIGINT it leaves a whole file; "
      "started again with the\nsame options it goes on.\n\nagents:\n";
  for (const auto& [name, summary] : agents::experts::expert_names())
    about += fmt::format("  {:<12} {}\n", name, summary);
  CommandLine line("lram data collect --task T --agent A --episodes N --out F", about);
  line.options().add_options()("task", po::value(&o.task)->required(), "task, see lram env ls")(
      "agent", po::value(&o.agent)->required(), "who plays, one of the above")(
      "episodes", po::value(&o.episodes)->default_value(o.episodes), "in the file at the end")(
      "out", po::value(&o.out)->required(), "HDF5 file; episodes gather in F.part")(
      "first-seed", po::value(&o.first_seed)->default_value(o.first_seed),
      "of the first episode, or of a learner's first history; the next has the next seed")(
      "threads", po::value(&o.threads)->default_value(o.threads), "0 = one per core")(
      "noise", po::value(&o.noise)->default_value(o.noise),
      "disturb the executed actions: standard deviation in half action ranges, or "
      "the probability of a random discrete action")(
      "noise-share", po::value(&o.noise_share)->default_value(o.noise_share),
      "share of the time in which --noise acts, in blocks of 25 steps")(
      "noise-correlation", po::value(&o.noise_correlation)->default_value(o.noise_correlation),
      "of the noise from step to step, 0 = white")(
      "record", po::value(&o.record)->default_value(o.record),
      "the action that is written under --noise: executed, or intended by the agent, which shows a "
      "learner how to come back (DART, Laskey et al. 2017)")(
      "settings", po::value(&o.settings), "changes to the agent's settings, name=value,...")(
      "json", po::bool_switch(&o.json), "print the result as JSON");
  if (!line.parse(args)) return 0;
  check(o);
  check_threads(static_cast<std::int64_t>(o.threads));

  const TaskSpec spec = envs::make(o.task)->spec();
  const auto expert = agents::experts::make_expert(o.agent, o.task, {.settings = o.settings});
  catch_interrupts();
  datasets::DatasetWriter writer(o.out, spec, generator_of(o, *expert));
  const std::int64_t found = writer.num_episodes();
  if (found > 0) log_info("collect", "file", o.out, "episodes_found", found);
  Collector collector(o, expert->history_length(), writer);
  if (collector.missing() > 0) collector.run();
  const std::int64_t episodes = writer.num_episodes();
  if (episodes > 0) {
    // Threads end in any order; the file does not depend on it.
    writer.finish(datasets::EpisodeOrder::kSeeds);
    const double cpu_seconds = static_cast<double>(std::clock()) / CLOCKS_PER_SEC;
    print_summary(o, spec, *expert, episodes - found, cpu_seconds);
  }
  if (interrupted() != 0 && collector.missing() > 0) {
    log_warning("stopped after {} of {} episodes; the same command goes on",
                o.episodes - collector.missing(), o.episodes);
    return interrupt_exit_code();
  }
  return 0;
}

}  // namespace lram::app
