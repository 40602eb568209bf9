#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "lram/core/rng.h"

namespace lram::eval::probes {
// T tokens of a sequence, N sequences of a batch, W numbers per real input.

constexpr std::int32_t kPad = 0;         ///< token that fills what is not there
constexpr std::int32_t kNotScored = -1;  ///< label of a position that nobody asks about

/// One sequence, and what is to be said after each of its tokens. The answer to a position is never
/// among the inputs up to it.
struct Sequence {
  std::vector<std::int32_t> tokens = {};  ///< [T] symbols; empty in a task with real inputs
  std::vector<float> inputs = {};         ///< [T, W] real inputs; empty in a task with symbols
  std::vector<std::int32_t> labels = {};  ///< [T] symbol to name, or kNotScored
  std::vector<float> targets = {};        ///< [T] number to give, or NaN
};

/// A task that asks for one ability of a sequence model. Lengths are min_length, min_length +
/// length_step, ...; those of a task with one answer behind the sequence count the answer, which
/// the inputs do not hold.
struct Task {
  std::string name = {}, summary = {};
  std::int64_t vocab_size = 0;   ///< symbols, the pad included; 0 = real inputs
  std::int64_t input_width = 0;  ///< W
  double chance = 0.0;  ///< accuracy of a guess; with real inputs the error of the best constant
  std::int64_t min_length = 1, length_step = 1;
  /// With real inputs: the last so many positions that are scored in a test, 0 = all.
  std::int64_t scored_tail = 0;
  /// Draws a sequence of one of the task's lengths.
  std::function<Sequence(std::int64_t length, CounterRng& rng)> generate = {};

  bool is_real() const { return vocab_size == 0; }
  /// The longest of the task's lengths that is not above `length`, or min_length.
  std::int64_t fit_length(std::int64_t length) const;
};

struct TaskOptions {
  std::int64_t modulus = 5;        ///< cycle_navigation, modular_arithmetic*
  std::int64_t vocab_size = 8192;  ///< recall: an even number
  std::int64_t num_pairs = 4;      ///< recall: K
  bool random_filler = false;      ///< recall: any token between the queries instead of 0
  bool operator==(const TaskOptions&) const = default;
};

std::vector<std::string> task_names();
/// Throws Error(kUsage) that lists the known names, or names the option that does not fit.
Task make_task(const std::string& name, const TaskOptions& options = {});

/// Streams of numbers that never meet: what a model is trained on, chosen by, and judged by.
enum class Split : std::uint64_t { kTrain = 1, kValidation = 2, kTest = 3 };

/// Sequence `index` of a split: a length of [low, high], each as likely, then the content. A
/// function of its arguments alone.
Sequence draw_sequence(const Task& task, std::uint64_t seed, Split split, std::uint64_t index,
                       std::int64_t low, std::int64_t high);

/// Sequences side by side, padded at the end.
struct Batch {
  std::int64_t rows = 0, length = 0;      ///< N, and T of the longest
  std::vector<std::int32_t> tokens = {};  ///< [N, T], or empty
  std::vector<float> inputs = {};         ///< [N, T, W], or empty
  std::vector<std::int32_t> ends = {};    ///< [N] tokens of each
  std::vector<std::int32_t> labels = {};  ///< [N, T], kNotScored in pads
  std::vector<float> targets = {};        ///< [N, T], NaN in pads
};
/// `multiple`: what its length is rounded up to.
Batch make_batch(const Task& task, const std::vector<Sequence>& sequences,
                 std::int64_t multiple = 1);

/// Batches of `rows` training sequences without end. They are drawn kPool batches at a time and
/// sorted, so that a batch's lengths are near each other and few pads are computed.
class BatchStream {
 public:
  BatchStream(const Task& task, std::uint64_t seed, std::int64_t rows, std::int64_t low,
              std::int64_t high, std::int64_t multiple = 1);
  Batch next();
  /// As if next() had been called `batches` times, of which most are not drawn.
  void skip(std::int64_t batches);

 private:
  static constexpr std::size_t kPool = 8;
  void refill();

  const Task& task_;
  std::uint64_t seed_, drawn_ = 0;
  std::int64_t rows_, low_, high_, multiple_;
  std::vector<std::vector<Sequence>> ready_;
};

}  // namespace lram::eval::probes
