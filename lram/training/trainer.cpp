#include "lram/training/trainer.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <torch/cuda.h>
#include <torch/utils.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "lram/core/error.h"
#include "lram/core/file.h"
#include "lram/core/json.h"
#include "lram/core/log.h"
#include "lram/core/text.h"
#include "lram/model/action_loss.h"
#include "lram/model/tensor_io.h"
#include "lram/tokenization/sequence.h"

namespace lram::training {
namespace fs = std::filesystem;
using nlohmann::json;
namespace {
constexpr int kStateVersion = 1;
constexpr const char* kStateFolder = "training_state";
constexpr const char* kStateName = "trainer.json";
constexpr const char* kOptimizerName = "optimizer.safetensors";
constexpr const char* kCarriedName = "carried_state.safetensors";

TrainConfig checked(const TrainConfig& config, const model::Policy& policy) {
  validate(config);
  if (config.carry_state && policy.config().backbone == "gpt2")
    throw_error(
        ErrorKind::kUsage,
        "train.carry_state is on, but a {}'s memory is its window: wanted a recurrent backbone",
        policy.config().backbone);
  return config;
}

std::shared_ptr<model::Policy> on_device(std::shared_ptr<model::Policy> policy,
                                         torch::Device device) {
  policy->to(device);
  return policy;
}

OptimizerConfig optimizer_config(const TrainConfig& c) {
  return {.beta1 = c.beta1,
          .beta2 = c.beta2,
          .weight_decay = c.weight_decay,
          .max_grad_norm = c.max_grad_norm};
}

// Tensors of the carried states as the file names them.
model::NamedTensors carried_tensors(const std::vector<model::BackboneState>& carried,
                                    const std::vector<TrainingDomain>& domains) {
  model::NamedTensors out;
  for (std::size_t d = 0; d < carried.size(); ++d)
    for (std::size_t i = 0; i < carried[d].tensors.size(); ++i)
      out.emplace_back(fmt::format("{}.{}", domains[d].name, i), carried[d].tensors[i]);
  return out;
}

[[noreturn]] void fail_not_finite(std::int64_t step, const std::string& what, double value) {
  throw_error(
      ErrorKind::kCheckFailed,
      "step {}: {} is {}, wanted a finite number; the last checkpoint is as it was (a lower "
      "train.peak_lr or train.max_grad_norm may help)",
      step, what, std::fabs(value));  // without the sign of -nan
}
}  // namespace

torch::Device training_device(const std::string& name) {
  const bool cuda =
      name == "cuda" || (name.starts_with("cuda:") && name.size() > 5 &&
                         name.find_first_not_of("0123456789", 5) == std::string::npos);
  if (name != "cpu" && !cuda)
    throw_error(ErrorKind::kUsage, "train.device is '{}', wanted cpu, cuda or cuda:N", name);
  const torch::Device device(name);
  if (cuda && (!torch::cuda::is_available() || device.index() >= torch::cuda::device_count()))
    throw_error(ErrorKind::kResource,
                "train.device is '{}', but LibTorch finds {} GPUs here (a build without -D "
                "LRAM_CUDA=ON finds none)",
                name, torch::cuda::is_available() ? torch::cuda::device_count() : 0);
  return device;
}

Trainer::Trainer(const TrainConfig& config, std::shared_ptr<model::Policy> policy,
                 const TrainingData& data)
    : config_(checked(config, *policy)),
      data_(data),
      device_(training_device(config.device)),
      policy_(on_device(std::move(policy), device_)),
      window_steps_(config.window_steps > 0 ? config.window_steps
                                            : policy_->config().context_length),
      builder_(data, policy_->config(), window_steps_),
      legal_classes_(builder_.legal_classes().to(device_)),
      optimizer_(*policy_, optimizer_config(config)),
      schedule_{.peak = config.peak_lr,
                .floor = config.min_lr,
                .warmup = config.warmup_steps * num_domains(),
                .cosine = (config.steps - config.warmup_steps) * num_domains()} {
  at::globalContext().setDeterministicCuDNN(true);
  std::vector<std::string> domains;
  for (const TrainingDomain& domain : data_.domains()) domains.push_back(domain.name);
  for (const std::string& name : domains_with_batch_size(config_))
    if (std::find(domains.begin(), domains.end(), name) == domains.end())
      throw_error(ErrorKind::kUsage, "train.batch_sizes: no domain '{}' in the data, only {}", name,
                  joined(domains));
  policy_->train();
  start_streams();
}

Trainer::~Trainer() {
  if (next_batch_.valid()) next_batch_.wait();  // it refers to this object
}

std::int64_t Trainer::batch_size(std::size_t domain) const {
  return batch_size_of(config_, data_.domains()[domain].name);
}

WindowStream Trainer::stream(std::size_t domain, Half half, std::uint64_t next) const {
  const std::uint64_t id = 2 * domain + (half == Half::kTrain ? 0 : 1);
  return WindowStream(data_.sources(data_.domains()[domain], half), window_steps_,
                      batch_size(domain), config_.carry_state, config_.seed, id, next);
}

void Trainer::start_streams() {
  if (next_batch_.valid()) next_batch_.get();
  streams_.clear();
  carried_.clear();
  for (std::size_t d = 0; d < data_.domains().size(); ++d) {
    streams_.push_back(stream(d, Half::kTrain, static_cast<std::uint64_t>(num_steps_)));
    carried_.push_back(config_.carry_state ? policy_->initial_state(batch_size(d))
                                           : model::BackboneState());
  }
  load_ahead(0);
}

void Trainer::load_ahead(std::size_t domain) {
  next_batch_ = std::async(std::launch::async, [this, domain] {
    return builder_.build(data_.domains()[domain], streams_[domain].next());
  });
}

Trainer::Forward Trainer::forward(const MicroBatch& batch, const model::BackboneState& carried) {
  model::BackboneState state;
  if (!carried.empty()) {
    state = carried.clone();
    state.copy_rows(policy_->initial_state(batch.inputs.begin.size(0)), batch.fresh_rows);
  }
  using model::FinalState;
  model::Policy::Output out = policy_->forward(
      batch.inputs, state, config_.carry_state ? FinalState::kKept : FinalState::kDropped);
  // The counted slots alone: most tasks use few of the head's.
  const torch::Tensor logits = out.logits.flatten(0, 2).index_select(0, batch.slot);
  const torch::Tensor legal = legal_classes_.index_select(0, batch.legal_row);
  const torch::Tensor losses = model::action_entry_losses(logits, batch.target, legal);
  Forward result{.loss = losses.mean(), .tallies = {}, .state = out.state.detach()};

  const torch::NoGradGuard no_grad;
  const torch::Tensor correct =
      model::greedy_classes(logits.detach(), legal).eq(batch.target).to(losses.scalar_type());
  const torch::Tensor host =
      torch::stack({losses.detach(), correct}).to(torch::kCPU, torch::kDouble).contiguous();
  const torch::Tensor rows = batch.legal_row.to(torch::kCPU);
  const double* values = host.const_data_ptr<double>();
  const auto* row = rows.const_data_ptr<std::int64_t>();
  const std::int64_t count = rows.numel();
  std::vector<Tally> by_task(data_.tasks().size());
  for (std::int64_t i = 0; i < count; ++i)
    by_task[builder_.task_of(row[i])].add({values[i], values[count + i], 1.0});
  for (std::size_t task = 0; task < by_task.size(); ++task)
    if (by_task[task].count > 0.0)
      result.tallies[data_.tasks()[task].entry.spec.id] = by_task[task];
  return result;
}

StepReport Trainer::step() {
  StepReport report;
  optimizer_.zero_grad();
  std::vector<model::BackboneState> states;
  const std::size_t domains = data_.domains().size();
  for (std::size_t d = 0; d < domains; ++d) {
    const MicroBatch batch = next_batch_.get().to(device_);
    load_ahead((d + 1) % domains);
    Forward result = forward(batch, carried_[d]);
    if (const double loss = result.loss.item<double>(); !std::isfinite(loss))
      fail_not_finite(num_steps_ + 1,
                      fmt::format("the loss of domain '{}'", data_.domains()[d].name), loss);
    (result.loss / static_cast<double>(domains)).backward();
    states.push_back(std::move(result.state));
    add(report.tallies, result.tallies);
    report.tokens += batch.real_steps * tokenization::kTokensPerStep;
  }
  // LRAM counts micro-steps; the update comes after the last one of the step.
  report.rate = schedule_.rate((num_steps_ + 1) * num_domains() - 1);
  report.grad_norm = optimizer_.step(report.rate);
  if (!std::isfinite(report.grad_norm))
    fail_not_finite(num_steps_ + 1, "the gradients' norm", report.grad_norm);
  if (config_.carry_state) carried_ = std::move(states);
  ++num_steps_;
  add(tallies_, report.tallies);
  return report;
}

TaskTallies Trainer::validate() {
  const torch::NoGradGuard no_grad;
  TaskTallies tallies;
  for (std::size_t d = 0; d < data_.domains().size(); ++d) {
    WindowStream windows = stream(d, Half::kValidation, 0);
    model::BackboneState carried;
    if (config_.carry_state) carried = policy_->initial_state(batch_size(d));
    for (std::int64_t n = 0; n < config_.validation_batches; ++n) {
      Forward result =
          forward(builder_.build(data_.domains()[d], windows.next()).to(device_), carried);
      if (config_.carry_state) carried = std::move(result.state);
      add(tallies, result.tallies);
    }
  }
  return tallies;
}

TaskTallies Trainer::take_tallies() { return std::exchange(tallies_, {}); }

void Trainer::save(const fs::path& checkpoint) const {
  model::save_policy_files(*policy_, checkpoint);
  const fs::path folder = checkpoint / kStateFolder;
  make_folder(folder);
  optimizer_.save(folder / kOptimizerName);
  if (config_.carry_state)
    model::save_tensors(folder / kCarriedName, carried_tensors(carried_, data_.domains()));
  // Windows, learning rate and all random numbers are functions of the step's number and the seed.
  const json state = {
      {"format_version", kStateVersion},  {"step", num_steps_},          {"seed", config_.seed},
      {"threads", at::get_num_threads()}, {"data", data_.fingerprint()}, {"tallies", tallies_}};
  write_file_atomically(folder / kStateName, json_text(state, 1) + "\n");
}

void Trainer::restore(const fs::path& checkpoint) {
  const fs::path folder = checkpoint / kStateFolder, path = folder / kStateName;
  std::int64_t step = 0;
  TaskTallies tallies;
  try {
    const json state = parse_json(read_file(path));
    if (const int version = state.at("format_version"); version != kStateVersion)
      throw_error(ErrorKind::kInput, "{}: format_version is {}, wanted {}", path.string(), version,
                  kStateVersion);
    const json now = data_.fingerprint();
    const json& then = state.at("data");
    for (std::size_t i = 0; i < std::max(now.size(), then.size()); ++i)
      if (i >= now.size() || i >= then.size() || now[i] != then[i])
        throw_error(ErrorKind::kUsage,
                    "data.files: entry {} is {}, the run to resume was trained on {}", i + 1,
                    i < now.size() ? data_.tasks()[i].data.path().string() : "missing",
                    i < then.size() ? json_text(then[i]) : "fewer files");
    if (const int threads = state.at("threads"); threads != at::get_num_threads())
      log_warning("{} CPU threads now, {} when the run began: its numbers differ in the last bits",
                  at::get_num_threads(), threads);
    state.at("step").get_to(step);
    state.at("tallies").get_to(tallies);
  } catch (const json::exception& error) {
    throw_error(ErrorKind::kInput, "{}: {}", path.string(), error.what());
  }
  optimizer_.load(folder / kOptimizerName);
  if (optimizer_.num_steps() != step)
    throw_error(ErrorKind::kInput, "{}: after {} steps, {} says {}",
                (folder / kOptimizerName).string(), optimizer_.num_steps(), path.string(), step);
  num_steps_ = step;
  tallies_ = std::move(tallies);
  start_streams();
  if (config_.carry_state)
    model::load_tensors(SafetensorsFile(folder / kCarriedName),
                        carried_tensors(carried_, data_.domains()));
}
}  // namespace lram::training
