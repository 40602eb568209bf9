#include "eval/probes/run.h"

#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/nn/functional/loss.h>
#include <torch/nn/modules/linear.h>
#include <torch/utils.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <mutex>

#include "eval/probes/cell.h"
#include "eval/probes/training_step.h"
#include "eval/probes/unfinished_run.h"
#include "lram/core/error.h"
#include "lram/model/backbones.h"
#include "lram/training/optimizer.h"
#include "lram/training/schedule.h"

namespace lram::eval::probes {
using torch::Tensor;
namespace {
constexpr double kFloorOfRate = 1e-3;  // of the cosine, over the peak
constexpr double kWorstError = 1e9;    // stands for one that is not finite
constexpr std::int64_t kTestTokens = 1 << 14, kTestTokensGpu = 1 << 17;  // tested at once, about
// On a GPU, where each length is recorded: a few more pads for far fewer lengths.
constexpr std::int64_t kLengthMultipleGpu = 4;
constexpr std::chrono::minutes kSaveEvery{2};  // while a run is not stopped, at its validations

Tensor to_tensor(const std::vector<std::int32_t>& values, at::IntArrayRef shape) {
  return torch::tensor(values, torch::kInt32).view(shape);
}

Tensor to_tensor(const std::vector<float>& values, at::IntArrayRef shape) {
  return torch::tensor(values).view(shape);
}

/// Flat indices of the positions that are scored, the last `tail` of each row (0 = all).
Tensor scored_positions(const Task& task, const Batch& batch, std::int64_t tail) {
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
  return torch::tensor(out, torch::kInt64);
}

/// What the model says at the scored positions, [P, C].
Tensor said(ProbeModel& model, const BatchTensors& batch) {
  return model.head(model.hidden(batch).flatten(0, 1).index_select(0, batch.where));
}

bool reached(const Task& task, double score, double bar) {
  return task.is_real() ? score <= bar : score >= bar;
}
}  // namespace

BatchTensors BatchTensors::to(torch::Device device) const {
  return {inputs.to(device), ends.defined() ? ends.to(device) : ends, where.to(device),
          wanted.to(device)};
}

void BatchTensors::copy_from(const BatchTensors& other) {
  inputs.copy_(other.inputs);
  if (ends.defined()) ends.copy_(other.ends);
  where.copy_(other.where);
  wanted.copy_(other.wanted);
}

BatchTensors batch_tensors(const Task& task, const Batch& batch, std::int64_t tail) {
  const std::int64_t rows = batch.rows, length = batch.length;
  BatchTensors out;
  out.where = scored_positions(task, batch, tail);
  Tensor all;
  if (task.is_real()) {
    out.inputs = to_tensor(batch.inputs, {rows, length, -1});
    all = to_tensor(batch.targets, {rows * length});
  } else {
    out.inputs = to_tensor(batch.tokens, {rows, length}).to(torch::kInt64);
    all = to_tensor(batch.labels, {rows * length}).to(torch::kInt64);
  }
  out.wanted = all.index_select(0, out.where);
  if (std::any_of(batch.ends.begin(), batch.ends.end(),
                  [&](std::int32_t end) { return end != length; }))
    out.ends = to_tensor(batch.ends, {rows});
  return out;
}

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

Tensor ProbeModel::hidden(const BatchTensors& batch) {
  const Tensor x =
      table_.defined() ? torch::embedding(table_, batch.inputs) : inputs_->forward(batch.inputs);
  // Pads come last, where nothing that is scored sees them: a CPU saves work by skipping them, while
  // a GPU, which waits for launches, saves some by not knowing of them.
  model::SequenceMask mask;
  if (x.is_cpu()) mask.end = batch.ends;
  return backbone_->forward(x, /*state=*/{}, mask, model::FinalState::kDropped).hidden;
}

Tensor ProbeModel::head(const Tensor& hidden) { return head_->forward(hidden); }

Tensor probe_loss(ProbeModel& model, const Task& task, const BatchTensors& batch) {
  const Tensor given = said(model, batch);
  return task.is_real() ? torch::mse_loss(given.squeeze(1), batch.wanted)
                        : torch::nn::functional::cross_entropy(given, batch.wanted);
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
    const BatchTensors batch =
        batch_tensors(task, make_batch(task, sequences), task.scored_tail).to(model.device());
    const Tensor given = said(model, batch);
    const Tensor each = (task.is_real() ? (given.squeeze(1) - batch.wanted).square()
                                        : given.argmax(1).eq(batch.wanted))
                            .to(torch::kDouble);
    total += each.sum().item<double>();
    scored += each.numel();
  }
  return std::isfinite(total) ? total / static_cast<double>(scored) : kWorstError;
}

std::optional<RunResult> run_probe(const RunSettings& settings, torch::Device device,
                                   const StepCallback& on_step, bool graphs,
                                   const std::filesystem::path& unfinished) {
  using Clock = std::chrono::steady_clock;
  const Task task = make_task(settings.task, settings.options);
  LRAM_CHECK(settings.steps >= 1 && settings.batch_size >= 1 && settings.validate_every >= 1,
             "probe ", settings.task, ": ", settings.steps, " steps of ", settings.batch_size,
             " sequences, validated every ", settings.validate_every, ": wanted 1 or more of each");
  const auto start = Clock::now();
  c10::OptionalStreamGuard own_stream;  // runs side by side on one GPU do not wait for each other
  if (!device.is_cpu())
    own_stream.reset_stream(
        c10::impl::VirtualGuardImpl(device.type()).getStreamFromGlobalPool(device));
  const auto model = std::make_shared<ProbeModel>(task, settings);
  model->to(device);
  training::Optimizer optimizer(
      *model, {.weight_decay = settings.weight_decay, .max_grad_norm = settings.max_grad_norm});
  const training::Schedule schedule{.peak = settings.rate,
                                    .floor = kFloorOfRate * settings.rate,
                                    .warmup = settings.warmup,
                                    .cosine = settings.steps - settings.warmup};
  const bool one_length = settings.train_low == settings.train_high;
  BatchStream stream(task, settings.seed, settings.batch_size, settings.train_low,
                     settings.train_high, device.is_cpu() || one_length ? 1 : kLengthMultipleGpu);
  TrainingStep step(*model, task, optimizer, settings, graphs);

  RunResult result{.chance = task.chance};
  for (const Tensor& parameter : model->parameters()) result.parameters += parameter.numel();
  if (!unfinished.empty())
    if (auto before = load_unfinished(unfinished, settings, *model, optimizer))
      result = *std::move(before);
  stream.skip(result.steps);
  const double seconds_before = result.seconds;
  const std::int64_t replays_before = result.replays;
  auto saved = start;
  const auto take_stock = [&] {
    result.seconds = seconds_before + std::chrono::duration<double>(Clock::now() - start).count();
    result.replays = replays_before + step.replays();
  };
  const auto save = [&] {
    if (unfinished.empty()) return;
    take_stock();
    save_unfinished(unfinished, settings, result, *model, optimizer);
    saved = Clock::now();
  };
  const auto stop = [&] { return on_step && on_step(result.steps); };
  const auto validate = [&] {
    return probe_score(*model, task, settings, Split::kValidation, settings.validation_sequences,
                       settings.test_low, settings.test_high);
  };

  bool done = result.reached || result.diverged;
  Batch batch = stream.next();
  while (!done && result.steps < settings.steps) {
    result.diverged = !step.run(batch, schedule.rate(result.steps));
    for (const std::int32_t end : batch.ends) result.tokens += end;
    batch = stream.next();  // while a GPU is at work
    ++result.steps;
    done = result.diverged;
    if (!done && (result.steps % settings.validate_every == 0 || result.steps == settings.steps)) {
      result.diverged = done = step.diverged();
      if (done) break;
      result.validation = validate();
      result.reached = reached(task, result.validation, settings.bar);
      done = result.reached;
      if (Clock::now() - saved > kSaveEvery) save();
    }
    if (stop()) {
      save();
      return std::nullopt;
    }
  }
  save();  // a test takes seconds, in which the process may end
  if (result.diverged) result.validation = validate();
  result.test = probe_score(*model, task, settings, Split::kTest, settings.test_sequences,
                            settings.test_low, settings.test_high);
  for (const std::int64_t wanted : settings.curve) {
    if (stop()) return std::nullopt;
    const std::int64_t length = task.fit_length(wanted);
    result.curve.push_back({length, probe_score(*model, task, settings, Split::kTest,
                                                settings.curve_sequences, length, length)});
  }
  take_stock();
  return result;
}

}  // namespace lram::eval::probes
