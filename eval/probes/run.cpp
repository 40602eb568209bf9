#include "eval/probes/run.h"

#include <torch/nn/functional/loss.h>
#include <torch/nn/modules/linear.h>
#include <torch/utils.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <mutex>

#include "eval/probes/cell.h"
#include "lram/core/error.h"
#include "lram/model/backbones.h"
#include "lram/training/optimizer.h"
#include "lram/training/schedule.h"

namespace lram::eval::probes {
using torch::Tensor;
namespace {
constexpr double kFloorOfRate = 1e-3;  // of the cosine, over the peak
constexpr double kWorstError = 1e9;    // stands for one that is not finite
constexpr std::int64_t kTestTokens = 1 << 14, kTestTokensGpu = 1 << 18;  // tested at once, about

Tensor to_tensor(const std::vector<std::int32_t>& values, at::IntArrayRef shape,
                 torch::Device device) {
  return torch::tensor(values, torch::kInt32).view(shape).to(device);
}

Tensor to_tensor(const std::vector<float>& values, at::IntArrayRef shape, torch::Device device) {
  return torch::tensor(values).view(shape).to(device);
}

/// Flat indices of the positions that are scored, the last `tail` of each row (0 = all).
Tensor scored_positions(const Task& task, const Batch& batch, std::int64_t tail,
                        torch::Device device) {
  std::vector<std::int64_t> out;
  for (std::int64_t row = 0; row < batch.rows; ++row) {
    const std::int64_t end = batch.ends[static_cast<std::size_t>(row)];
    const std::int64_t first = tail == 0 ? 0 : std::max<std::int64_t>(0, end - tail);
    for (std::int64_t t = first; t < end; ++t) {
      const auto at = static_cast<std::size_t>(row * batch.length + t);
      if (task.is_real() ? !std::isnan(batch.targets[at]) : batch.labels[at] != kNotScored)
        out.push_back(static_cast<std::int64_t>(at));
    }
  }
  return torch::tensor(out, torch::kInt64).to(device);
}

struct Answers {
  Tensor said;    // [P, C] at the P scored positions
  Tensor wanted;  // [P] int64 symbols, or float numbers
};

Answers answer(ProbeModel& model, const Task& task, const Batch& batch, std::int64_t tail) {
  const torch::Device device = model.device();
  const Tensor where = scored_positions(task, batch, tail, device);
  const Tensor hidden = model.hidden(batch);
  const Tensor said = model.head(hidden.flatten(0, 1).index_select(0, where));
  const std::int64_t all = batch.rows * batch.length;
  const Tensor wanted = task.is_real() ? to_tensor(batch.targets, {all}, device)
                                       : to_tensor(batch.labels, {all}, device).to(torch::kInt64);
  return {said, wanted.index_select(0, where)};
}

bool reached(const Task& task, double score, double bar) {
  return task.is_real() ? score <= bar : score >= bar;
}
}  // namespace

ProbeModel::ProbeModel(const Task& task, const RunSettings& settings) {
  static std::mutex mutex;  // initial weights come from LibTorch's one generator
  const std::scoped_lock lock(mutex);
  torch::manual_seed(settings.seed);
  const std::int64_t dim = settings.embed_dim;
  const auto linear = [this](const char* name, std::int64_t in, std::int64_t out) {
    return register_module(name, std::make_shared<torch::nn::LinearImpl>(in, out));
  };
  if (task.is_real())
    inputs_ = linear("inputs", task.input_width, dim);
  else  // the public xlstm package's embedding; "wte" is what the optimizer does not decay
    table_ = register_parameter("wte", torch::randn({task.vocab_size, dim}) *
                                           std::sqrt(2.0 / (5.0 * static_cast<double>(dim))));
  backbone_ = register_module("backbone", model::make_backbone(cell_config(settings)));
  head_ = linear("head", dim, task.is_real() ? 1 : task.vocab_size);
}

torch::Device ProbeModel::device() const { return head_->weight.device(); }

Tensor ProbeModel::hidden(const Batch& batch) {
  const std::vector<std::int64_t> shape = {batch.rows, batch.length};
  Tensor x;
  if (table_.defined())
    x = torch::embedding(table_, to_tensor(batch.tokens, shape, device()).to(torch::kInt64));
  else
    x = inputs_->forward(to_tensor(batch.inputs, {batch.rows, batch.length, -1}, device()));
  model::SequenceMask mask;
  if (std::any_of(batch.ends.begin(), batch.ends.end(),
                  [&](std::int32_t end) { return end != batch.length; }))
    mask.end = to_tensor(batch.ends, {batch.rows}, device());
  return backbone_->forward(x, backbone_->initial_state(batch.rows), mask).hidden;
}

Tensor ProbeModel::head(const Tensor& hidden) { return head_->forward(hidden); }

Tensor probe_loss(ProbeModel& model, const Task& task, const Batch& batch) {
  const Answers answers = answer(model, task, batch, /*tail=*/0);
  return task.is_real() ? torch::mse_loss(answers.said.squeeze(1), answers.wanted)
                        : torch::nn::functional::cross_entropy(answers.said, answers.wanted);
}

double probe_score(ProbeModel& model, const Task& task, const RunSettings& settings, Split split,
                   std::int64_t count, std::int64_t low, std::int64_t high) {
  const torch::NoGradGuard no_grad;
  const std::int64_t rows = std::clamp<std::int64_t>(
      (model.device().is_cpu() ? kTestTokens : kTestTokensGpu) / high, 1, count);
  double total = 0.0;
  std::int64_t scored = 0;
  for (std::int64_t first = 0; first < count; first += rows) {
    std::vector<Sequence> sequences;
    for (std::int64_t i = first; i < std::min(first + rows, count); ++i)
      sequences.push_back(
          draw_sequence(task, settings.seed, split, static_cast<std::uint64_t>(i), low, high));
    const Answers answers = answer(model, task, make_batch(task, sequences), task.scored_tail);
    const Tensor each = task.is_real()
                            ? (answers.said.squeeze(1) - answers.wanted).square().to(torch::kDouble)
                            : answers.said.argmax(1).eq(answers.wanted).to(torch::kDouble);
    total += each.sum().item<double>();
    scored += each.numel();
  }
  return std::isfinite(total) ? total / static_cast<double>(scored) : kWorstError;
}

std::optional<RunResult> run_probe(const RunSettings& settings, torch::Device device,
                                   const StepCallback& on_step,
                                   std::shared_ptr<ProbeModel>* trained) {
  const Task task = make_task(settings.task, settings.options);
  LRAM_CHECK(settings.steps >= 1 && settings.batch_size >= 1 && settings.validate_every >= 1,
             "probe ", settings.task, ": ", settings.steps, " steps of ", settings.batch_size,
             " sequences, validated every ", settings.validate_every, ": wanted 1 or more of each");
  const auto start = std::chrono::steady_clock::now();
  const auto model = std::make_shared<ProbeModel>(task, settings);
  model->to(device);
  training::Optimizer optimizer(
      *model, {.weight_decay = settings.weight_decay, .max_grad_norm = settings.max_grad_norm});
  const training::Schedule schedule{.peak = settings.rate,
                                    .floor = kFloorOfRate * settings.rate,
                                    .warmup = settings.warmup,
                                    .cosine = settings.steps - settings.warmup};
  BatchStream stream(task, settings.seed, settings.batch_size, settings.train_low,
                     settings.train_high);
  const auto validate = [&] {
    return probe_score(*model, task, settings, Split::kValidation, settings.validation_sequences,
                       settings.test_low, settings.test_high);
  };

  RunResult result{.chance = task.chance};
  for (const Tensor& parameter : model->parameters()) result.parameters += parameter.numel();
  bool done = false;
  while (!done && result.steps < settings.steps) {
    const Batch batch = stream.next();
    const Tensor loss = probe_loss(*model, task, batch);
    optimizer.zero_grad();
    loss.backward();
    result.diverged = !std::isfinite(optimizer.step(schedule.rate(result.steps)));
    for (const std::int32_t end : batch.ends) result.tokens += end;
    ++result.steps;
    done = result.diverged;
    if (!done && (result.steps % settings.validate_every == 0 || result.steps == settings.steps)) {
      result.validation = validate();
      result.reached = reached(task, result.validation, settings.bar);
      done = result.reached;
    }
    if (on_step && on_step(result.steps)) return std::nullopt;
  }
  if (result.diverged) result.validation = validate();
  result.test = probe_score(*model, task, settings, Split::kTest, settings.test_sequences,
                            settings.test_low, settings.test_high);
  for (const std::int64_t wanted : settings.curve) {
    const std::int64_t length = task.fit_length(wanted);
    result.curve.push_back({length, probe_score(*model, task, settings, Split::kTest,
                                                settings.curve_sequences, length, length)});
  }
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (trained != nullptr) *trained = model;
  return result;
}

}  // namespace lram::eval::probes
