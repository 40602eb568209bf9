#include "lram/training/config.h"

#include <algorithm>
#include <array>
#include <charconv>

#include "lram/core/error.h"

namespace lram::training {
namespace {
/// One option `name` whose default is what `value` holds.
template <typename T>
void add(po::options_description& options, const char* name, T& value, const char* help) {
  options.add_options()(name, po::value(&value)->default_value(value, fmt::format("{}", value)),
                        help);
}

template <typename T>
void check_at_least(const char* name, T value, T low) {
  if (!(value >= low))
    throw_error(ErrorKind::kUsage, "{} is {}, wanted at least {}", name, value, low);
}

// "grid=8,atari=16" -> {{"grid", 8}, {"atari", 16}}
std::vector<std::pair<std::string, std::int64_t>> parse_batch_sizes(const std::string& text) {
  std::vector<std::pair<std::string, std::int64_t>> sizes;
  if (text.empty()) return sizes;
  for (const std::string& entry : split_list(text, "train.batch_sizes")) {
    const auto equals = entry.find('=');
    std::int64_t size = 0;
    const char* last = entry.data() + entry.size();
    const char* first = equals == std::string::npos ? last : entry.data() + equals + 1;
    const auto [end, error] = std::from_chars(first, last, size);
    if (error != std::errc() || end != last || size < 1)
      throw_error(ErrorKind::kUsage, "train.batch_sizes: '{}', wanted DOMAIN=WINDOWS", entry);
    sizes.emplace_back(entry.substr(0, equals), size);
  }
  return sizes;
}
}  // namespace

std::int64_t batch_size_of(const TrainConfig& config, const std::string& domain) {
  for (const auto& [name, size] : parse_batch_sizes(config.batch_sizes))
    if (name == domain) return size;
  return config.batch_size;
}

std::vector<std::string> domains_with_batch_size(const TrainConfig& config) {
  std::vector<std::string> names;
  for (const auto& [name, size] : parse_batch_sizes(config.batch_sizes)) names.push_back(name);
  return names;
}

void describe(po::options_description& options, DataConfig& c) {
  add(options, "data.files", c.files, "data sets, one task each: a.h5,b.h5");
  add(options, "data.validation_fraction", c.validation_fraction,
      "share of each task's episodes, at least one");
  add(options, "data.split_seed", c.split_seed, "seed of the choice of validation episodes");
  add(options, "data.obs_normalization", c.obs_normalization, "on, or none (LRAM)");
  add(options, "data.obs_std_floor", c.obs_std_floor,
      "a smaller standard deviation counts as this");
  add(options, "data.obs_clip", c.obs_clip, "normalised entries are cut to [-clip, clip]");
}

void describe(po::options_description& options, TrainConfig& c) {
  add(options, "train.steps", c.steps, "updates of the weights");
  add(options, "train.batch_size", c.batch_size, "windows per domain and step");
  add(options, "train.batch_sizes", c.batch_sizes, "other sizes for some domains, grid=8,atari=16");
  add(options, "train.window_steps", c.window_steps,
      "time steps of a window, 0 = model.context_length");
  add(options, "train.carry_state", c.carry_state,
      "windows go on from the state of the one before");
  add(options, "train.seed", c.seed, "seed of weights and windows");
  add(options, "train.peak_lr", c.peak_lr, "learning rate after the warm-up");
  add(options, "train.min_lr", c.min_lr, "learning rate at the last step");
  add(options, "train.warmup_steps", c.warmup_steps, "steps of rising learning rate");
  add(options, "train.weight_decay", c.weight_decay, "AdamW's, of weight matrices alone");
  add(options, "train.beta1", c.beta1, "AdamW's first decay");
  add(options, "train.beta2", c.beta2, "AdamW's second decay");
  add(options, "train.max_grad_norm", c.max_grad_norm, "global norm to clip at, 0 = never");
  add(options, "train.device", c.device, "cpu, cuda or cuda:N; --device for short");
  add(options, "train.log_every", c.log_every, "steps between lines of metrics");
  add(options, "train.validate_every", c.validate_every, "steps, 0 = never");
  add(options, "train.validation_batches", c.validation_batches, "micro-batches per domain");
  add(options, "train.checkpoint_every", c.checkpoint_every, "steps");
  add(options, "train.keep_checkpoints", c.keep_checkpoints, "newest ones, 0 = all");
  add(options, "train.max_seconds", c.max_seconds, "stop after this time, 0 = never");
}

void validate(const DataConfig& c) {
  if (c.files.empty())
    throw_error(ErrorKind::kUsage, "data.files is empty, wanted data sets: a.h5,b.h5");
  if (!(c.validation_fraction >= 0.0 && c.validation_fraction < 1.0))
    throw_error(ErrorKind::kUsage, "data.validation_fraction is {}, wanted 0 to 1",
                c.validation_fraction);
  if (c.obs_normalization != "on" && c.obs_normalization != "none")
    throw_error(ErrorKind::kUsage, "data.obs_normalization is '{}', wanted on or none",
                c.obs_normalization);
  check_at_least("data.obs_std_floor", c.obs_std_floor, 1e-12);
  check_at_least("data.obs_clip", c.obs_clip, 1e-12);
}

void validate(const TrainConfig& c) {
  const std::int64_t zero = 0, one = 1;
  check_at_least("train.steps", c.steps, one);
  check_at_least("train.batch_size", c.batch_size, one);
  parse_batch_sizes(c.batch_sizes);
  check_at_least("train.window_steps", c.window_steps, zero);
  check_at_least("train.peak_lr", c.peak_lr, 0.0);
  check_at_least("train.min_lr", c.min_lr, 0.0);
  check_at_least("train.warmup_steps", c.warmup_steps, zero);
  check_at_least("train.weight_decay", c.weight_decay, 0.0);
  check_at_least("train.max_grad_norm", c.max_grad_norm, 0.0);
  check_at_least("train.log_every", c.log_every, one);
  check_at_least("train.validate_every", c.validate_every, zero);
  check_at_least("train.validation_batches", c.validation_batches, one);
  check_at_least("train.checkpoint_every", c.checkpoint_every, one);
  check_at_least("train.keep_checkpoints", c.keep_checkpoints, zero);
  check_at_least("train.max_seconds", c.max_seconds, 0.0);
  if (c.warmup_steps > c.steps)
    throw_error(ErrorKind::kUsage, "train.warmup_steps is {}, wanted at most train.steps, {}",
                c.warmup_steps, c.steps);
  for (const auto& [name, beta] : {std::pair("train.beta1", c.beta1), {"train.beta2", c.beta2}})
    if (!(beta >= 0.0 && beta < 1.0))
      throw_error(ErrorKind::kUsage, "{} is {}, wanted 0 to 1", name, beta);
}

bool may_change_on_resume(const std::string& key) {
  static constexpr std::array kFree = {"data.files", "train.checkpoint_every",
                                       "train.keep_checkpoints", "train.max_seconds"};
  return std::find(kFree.begin(), kFree.end(), key) != kFree.end();
}
}  // namespace lram::training
