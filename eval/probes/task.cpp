#include "eval/probes/task.h"

#include <fmt/core.h>

#include <algorithm>
#include <limits>

#include "eval/probes/generators.h"
#include "lram/core/error.h"
#include "lram/core/text.h"

namespace lram::eval::probes {
namespace {
struct Entry {
  const char* name;
  Task (*make)(const TaskOptions&);
};

const Entry kTasks[] = {
    {"parity", [](const TaskOptions&) { return parity(); }},
    {"even_pairs", [](const TaskOptions&) { return even_pairs(); }},
    {"cycle_navigation", [](const TaskOptions& o) { return cycle_navigation(o.modulus); }},
    {"modular_arithmetic", [](const TaskOptions& o) { return modular_arithmetic(o.modulus); }},
    {"modular_arithmetic_brackets",
     [](const TaskOptions& o) { return modular_arithmetic_brackets(o.modulus); }},
    {"s3", [](const TaskOptions&) { return permutations_of_three(); }},
    {"recall", [](const TaskOptions& o) { return recall(o); }},
    {"nearest_neighbour", [](const TaskOptions&) { return nearest_neighbour(); }},
    {"tracking", [](const TaskOptions&) { return tracking(); }},
};

std::uint64_t stream_of(Split split, std::uint64_t index) {
  return static_cast<std::uint64_t>(split) << 56 | index;
}

std::int64_t tokens_of(const Task& task, const Sequence& sequence) {
  return task.is_real() ? std::ssize(sequence.targets) : std::ssize(sequence.tokens);
}
}  // namespace

std::int64_t Task::fit_length(std::int64_t length) const {
  return length <= min_length ? min_length : length - (length - min_length) % length_step;
}

std::vector<std::string> task_names() {
  std::vector<std::string> names;
  for (const Entry& entry : kTasks) names.emplace_back(entry.name);
  return names;
}

Task make_task(const std::string& name, const TaskOptions& options) {
  LRAM_CHECK(options.modulus >= 2, "probe ", name, ": modulus is ", options.modulus,
             ", wanted at least 2");
  for (const Entry& entry : kTasks) {
    if (name != entry.name) continue;
    Task task = entry.make(options);
    task.name = name;
    return task;
  }
  throw_error(ErrorKind::kUsage, "unknown probe '{}', known: {}", name, joined(task_names()));
}

Sequence draw_sequence(const Task& task, std::uint64_t seed, Split split, std::uint64_t index,
                       std::int64_t low, std::int64_t high) {
  const std::int64_t last = task.fit_length(high);
  // The shortest of the task's lengths that is not below `low`.
  std::int64_t first = task.fit_length(low);
  if (first < low) first += task.length_step;
  LRAM_CHECK(first <= last, "probe ", task.name, ": no length lies between ", low, " and ", high);
  CounterRng rng(seed, stream_of(split, index));
  const auto count = static_cast<std::uint64_t>((last - first) / task.length_step + 1);
  const std::int64_t length =
      first + static_cast<std::int64_t>(rng.below(count)) * task.length_step;
  return task.generate(length, rng);
}

Batch make_batch(const Task& task, const std::vector<Sequence>& sequences, std::int64_t multiple) {
  LRAM_CHECK(!sequences.empty(), "probe ", task.name, ": a batch of no sequences");
  Batch batch{.rows = std::ssize(sequences)};
  for (const Sequence& sequence : sequences)
    batch.length = std::max(batch.length, tokens_of(task, sequence));
  batch.length = (batch.length + multiple - 1) / multiple * multiple;
  const auto all = static_cast<std::size_t>(batch.rows * batch.length);
  const auto width = static_cast<std::size_t>(task.input_width);
  if (task.is_real()) {
    batch.inputs.assign(all * width, 0.0f);
    batch.targets.assign(all, std::numeric_limits<float>::quiet_NaN());
  } else {
    batch.tokens.assign(all, kPad);
    batch.labels.assign(all, kNotScored);
  }
  for (std::size_t row = 0; row < sequences.size(); ++row) {
    const Sequence& one = sequences[row];
    const auto at = static_cast<std::ptrdiff_t>(row) * batch.length;
    batch.ends.push_back(static_cast<std::int32_t>(tokens_of(task, one)));
    if (task.is_real()) {
      std::copy(one.inputs.begin(), one.inputs.end(), batch.inputs.begin() + at * task.input_width);
      std::copy(one.targets.begin(), one.targets.end(), batch.targets.begin() + at);
    } else {
      std::copy(one.tokens.begin(), one.tokens.end(), batch.tokens.begin() + at);
      std::copy(one.labels.begin(), one.labels.end(), batch.labels.begin() + at);
    }
  }
  return batch;
}

BatchStream::BatchStream(const Task& task, std::uint64_t seed, std::int64_t rows, std::int64_t low,
                         std::int64_t high, std::int64_t multiple)
    : task_(task), seed_(seed), rows_(rows), low_(low), high_(high), multiple_(multiple) {}

Batch BatchStream::next() {
  if (ready_.empty()) refill();
  Batch batch = make_batch(task_, ready_.back(), multiple_);
  ready_.pop_back();
  return batch;
}

void BatchStream::skip(std::int64_t batches) {
  auto left = static_cast<std::size_t>(batches);
  for (; left > 0 && !ready_.empty(); --left) ready_.pop_back();
  drawn_ += left / kPool * kPool * static_cast<std::uint64_t>(rows_);
  for (left %= kPool; left > 0; --left) next();
}

void BatchStream::refill() {
  std::vector<Sequence> pool;
  const std::uint64_t first = drawn_;
  while (pool.size() < kPool * static_cast<std::size_t>(rows_))
    pool.push_back(draw_sequence(task_, seed_, Split::kTrain, drawn_++, low_, high_));
  std::stable_sort(pool.begin(), pool.end(), [&](const Sequence& a, const Sequence& b) {
    return tokens_of(task_, a) < tokens_of(task_, b);
  });
  for (std::size_t i = 0; i < kPool; ++i)
    ready_.emplace_back(pool.begin() + static_cast<std::ptrdiff_t>(i) * rows_,
                        pool.begin() + static_cast<std::ptrdiff_t>(i + 1) * rows_);
  CounterRng order(seed_, first);  // a stream of split 0, which no sequence has
  for (std::size_t i = kPool - 1; i > 0; --i) std::swap(ready_[i], ready_[order.below(i + 1)]);
}

}  // namespace lram::eval::probes
