#include "eval/step_latency.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <thread>

#include "agents/recurrent_agent.h"
#include "lram/core/error.h"
#include "lram/core/progress.h"
#include "lram/core/rng.h"

namespace lram::eval {
namespace {
constexpr std::int64_t kBlock = 10;        // timed steps from one memory
constexpr int kTrials = 40, kWarmUp = 10;  // steps that choose the number of threads

// An agent of one row, its observations and its times.
class Subject {
 public:
  explicit Subject(const LatencyCase& it)
      : case_(it),
        agent_(it.policy, std::vector{it.policy->tasks().at(it.task).spec}, {.rows_per_call = 1}),
        rng_(/*seed=*/0, static_cast<std::uint64_t>(it.context)) {
    const TaskSpec& spec = it.policy->tasks().at(it.task).spec;
    obs_.resize(static_cast<std::size_t>(spec.observation.vector_size));
    action_.resize(static_cast<std::size_t>(spec.action.size));
  }

  /// Microseconds of one step, the first one of the episode where `first`.
  double step(bool first = false) {
    for (float& value : obs_) value = static_cast<float>(rng_.normal());
    const agents::AgentInput input = {
        .vector = obs_, .reward = static_cast<float>(rng_.uniform()), .first = first};
    const std::span<float> action = action_;
    const auto start = std::chrono::steady_clock::now();
    agent_.act({&input, 1}, {&action, 1});
    const std::chrono::duration<double, std::micro> time = std::chrono::steady_clock::now() - start;
    return time.count();
  }

  void see_context() {
    for (std::int64_t i = 0; i < case_.context - warm_up(); ++i) step(/*first=*/i == 0);
    memory_ = agent_.save();
  }

  void time_block(std::int64_t steps) {
    agent_.restore(*memory_);
    for (std::int64_t i = 0; i < warm_up(); ++i) step();
    for (std::int64_t i = 0; i < steps; ++i) times_.push_back(step());
  }

  LatencyRow row(int threads) {
    std::sort(times_.begin(), times_.end());
    const auto at = [&](double level) {  // nearest rank
      const auto rank = std::ceil(level * static_cast<double>(times_.size()));
      return times_[static_cast<std::size_t>(std::max(rank, 1.0)) - 1];
    };
    const model::PolicyConfig& config = case_.policy->config();
    return {.model = case_.model,
            .preset = fmt::format("{} x {}, {} heads", config.num_blocks, config.embed_dim,
                                  config.num_heads),
            .parameters = count_parameters(*case_.policy),
            .context = case_.context,
            .steps = static_cast<std::int64_t>(times_.size()),
            .median_us = at(0.5),
            .p99_us = at(0.99),
            .max_us = times_.back(),
            .state_bytes = agent_.state_bytes(),
            .threads = threads};
  }

 private:
  // The last steps of the context come before each block, untimed: they bring the model's weights
  // and memory back into the caches.
  std::int64_t warm_up() const { return std::min<std::int64_t>(case_.context, 3); }

  LatencyCase case_;
  agents::RecurrentAgent agent_;
  CounterRng rng_;
  std::vector<float> obs_, action_;
  std::shared_ptr<const agents::RecurrentAgent::Memory> memory_;
  std::vector<double> times_;
};

// One or all cores: the smaller total of the first and the last subject. A total, since threads
// that wait for a busy core show in rare long steps.
int choose_threads(std::vector<Subject>& subjects) {
  int best = 1;
  double best_time = std::numeric_limits<double>::infinity();
  for (const int threads : {1, static_cast<int>(std::thread::hardware_concurrency())}) {
    at::set_num_threads(threads);
    double sum = 0.0;
    for (Subject* subject : {&subjects.front(), &subjects.back()}) {
      for (int i = 0; i < kTrials; ++i) {
        const double time = subject->step(/*first=*/i == 0);
        if (i >= kWarmUp) sum += time;
      }
    }
    if (sum < best_time) {
      best_time = sum;
      best = threads;
    }
  }
  return best;
}
}  // namespace

std::vector<LatencyRow> measure_step_latency(const std::vector<LatencyCase>& cases,
                                             const LatencyOptions& options) {
  LRAM_CHECK(!cases.empty(), "no cases to time");
  LRAM_CHECK(options.steps >= 1, "steps is ", options.steps, ", wanted at least 1");
  at::globalContext().setFlushDenormal(true);
  std::vector<Subject> subjects;
  for (const LatencyCase& entry : cases) {
    LRAM_CHECK(entry.context >= 1, "context is ", entry.context, ", wanted at least 1");
    subjects.emplace_back(entry);
  }
  const int threads = options.threads > 0 ? options.threads : choose_threads(subjects);
  at::set_num_threads(threads);

  std::unique_ptr<Progress> progress;
  std::int64_t total = 0, done = 0;
  for (const LatencyCase& entry : cases) total += entry.context + options.steps;
  if (options.show_progress) progress = std::make_unique<Progress>("bench step", total, "steps");
  const auto advance = [&](std::int64_t steps) {
    done += steps;
    if (progress) progress->update(done);
  };
  for (std::size_t i = 0; i < subjects.size(); ++i) {
    subjects[i].see_context();
    advance(cases[i].context);
  }
  for (std::int64_t first = 0; first < options.steps; first += kBlock) {
    const std::int64_t steps = std::min(kBlock, options.steps - first);
    for (Subject& subject : subjects) {
      subject.time_block(steps);
      advance(steps);
    }
  }
  std::vector<LatencyRow> rows;
  for (Subject& subject : subjects) rows.push_back(subject.row(threads));
  return rows;
}

std::int64_t count_parameters(const model::Policy& policy) {
  std::int64_t count = 0;
  for (const auto& parameter : policy.named_parameters())
    if (parameter.key().find("wpe") == std::string::npos) count += parameter.value().numel();
  return count;
}

model::PolicyConfig transformer_of_size(const model::PolicyConfig& like, std::int64_t parameters,
                                        std::int64_t context_length,
                                        std::int64_t max_episode_steps) {
  model::PolicyConfig config = like;
  config.backbone = "gpt2";
  model::clear_unused(config);
  config.context_length = context_length;
  config.max_episode_steps = max_episode_steps;

  // GPT-2: 12 D^2 + 13 D per block, and outside of the blocks what is linear in D; the image
  // encoder, the same in both, is left to the caller's `parameters`.
  const auto size = [&](std::int64_t width, std::int64_t blocks) {
    const std::int64_t logits = like.action_slots * like.num_classes();
    return blocks * (12 * width * width + 13 * width) + width * (like.state_dim + 9) +
           logits * (width + 1);
  };
  std::int64_t best = std::numeric_limits<std::int64_t>::max();
  const auto consider = [&](std::int64_t width) {
    for (std::int64_t blocks = 1; blocks <= 2 * like.num_blocks; ++blocks) {
      const std::int64_t off = std::abs(size(width, blocks) - parameters);
      if (off >= best) continue;
      best = off;
      config.embed_dim = width;
      config.num_blocks = blocks;
    }
  };
  consider(like.embed_dim);
  // LRAM's own pairs, half as many blocks of the same width, stay within 3 %.
  if (static_cast<double>(best) > 0.05 * static_cast<double>(parameters))
    for (std::int64_t width = 16; width <= 2 * like.embed_dim; width += 16) consider(width);
  config.num_heads = 1;
  for (const std::int64_t head : {64, 32, 16})
    if (config.embed_dim % head == 0) {
      config.num_heads = config.embed_dim / head;
      break;
    }
  return config;
}
}  // namespace lram::eval
