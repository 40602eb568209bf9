#include "lram/training/batch.h"

#include <algorithm>

#include "datasets/return_to_go.h"
#include "lram/core/error.h"

namespace lram::training {
using datasets::Window;
namespace {
constexpr std::int64_t kImageChannels = 3;

// Memory from torch::empty and plain loops: a loader thread must not start torch's thread pool.
template <typename T>
std::span<T> zeros(torch::Tensor& tensor, at::IntArrayRef sizes, torch::ScalarType type) {
  tensor = torch::empty(sizes, type);
  const std::span<T> values(tensor.mutable_data_ptr<T>(), static_cast<std::size_t>(tensor.numel()));
  std::ranges::fill(values, T{});
  return values;
}

template <typename T>
torch::Tensor to_tensor(const std::vector<T>& values, torch::ScalarType type) {
  torch::Tensor tensor = torch::empty({std::ssize(values)}, type);
  std::ranges::copy(values, tensor.mutable_data_ptr<T>());
  return tensor;
}

template <typename T>
std::span<T> row_of(const torch::Tensor& tensor, std::int64_t row, std::int64_t step,
                    std::int64_t width) {
  const std::int64_t steps = tensor.size(1);
  return {tensor.mutable_data_ptr<T>() + (row * steps + step) * width,
          static_cast<std::size_t>(width)};
}

template <typename T>
std::span<const T> part(std::span<const T> values, std::int64_t begin, std::int64_t count) {
  return values.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(count));
}

// HWC -> CHW
void transpose_image(std::span<const std::uint8_t> from, std::int64_t pixels,
                     std::span<std::uint8_t> to) {
  for (std::int64_t c = 0; c < kImageChannels; ++c)
    for (std::int64_t p = 0; p < pixels; ++p)
      to[static_cast<std::size_t>(c * pixels + p)] =
          from[static_cast<std::size_t>(p * kImageChannels + c)];
}

void check_images(const TaskSpec& spec, const model::PolicyConfig& model) {
  const ObservationSpec& seen = spec.observation;
  if (seen.has_image() &&
      (seen.image_height != model.image_size || seen.image_width != model.image_size ||
       seen.image_channels != kImageChannels))
    throw_error(ErrorKind::kUsage,
                "task '{}' has images of {} x {} x {}, the model wants {} x {} x {} "
                "(model.image_size)",
                spec.id, seen.image_height, seen.image_width, seen.image_channels, model.image_size,
                model.image_size, kImageChannels);
}
}  // namespace

MicroBatch MicroBatch::to(torch::Device device) const {
  MicroBatch out = *this;
  for (torch::Tensor* tensor :
       {&out.inputs.state, &out.inputs.image, &out.inputs.return_to_go, &out.inputs.reward,
        &out.inputs.begin, &out.inputs.end, &out.inputs.first_step, &out.slot, &out.target,
        &out.legal_row, &out.fresh_rows})
    if (tensor->defined()) *tensor = tensor->to(device);
  return out;
}

BatchBuilder::BatchBuilder(const TrainingData& data, const model::PolicyConfig& model,
                           std::int64_t window_steps)
    : data_(data), model_(model), window_steps_(window_steps) {
  const tokenization::ActionLayout layout{model.action_slots, model.discrete_ids, model.num_bins};
  const std::int64_t num_tasks = std::ssize(data.tasks()), classes = layout.num_classes();
  const auto legal =
      zeros<std::uint8_t>(legal_classes_, {num_tasks * layout.slots, classes}, torch::kUInt8);
  const auto mask_size = static_cast<std::size_t>(layout.slots * classes);
  for (const TrainingTask& task : data.tasks()) {
    check_images(task.entry.spec, model);
    encoders_.push_back({{task.entry.spec, layout}, {task.entry, model.state_dim}});
    encoders_.back().action.legal_mask(
        legal.subspan((encoders_.size() - 1) * mask_size, mask_size));
  }
  legal_classes_ = legal_classes_.to(torch::kBool);
  for (const TrainingDomain& domain : data.domains())
    for (const std::size_t task : domain.tasks)
      if (data.tasks()[task].entry.spec.observation.has_image() !=
          data.tasks()[domain.tasks.front()].entry.spec.observation.has_image())
        throw_error(ErrorKind::kUsage,
                    "domain '{}' mixes tasks with images and without ('{}'), wanted one kind",
                    domain.name, data.tasks()[task].entry.spec.id);
}

MicroBatch BatchBuilder::build(const TrainingDomain& domain,
                               std::span<const Window> windows) const {
  const std::int64_t rows = std::ssize(windows), steps = window_steps_;
  const bool images = data_.tasks()[domain.tasks.front()].entry.spec.observation.has_image();
  MicroBatch batch;
  if (images) {
    zeros<std::uint8_t>(batch.inputs.image,
                        {rows, steps, kImageChannels, model_.image_size, model_.image_size},
                        torch::kUInt8);
  } else {
    zeros<float>(batch.inputs.state, {rows, steps, model_.state_dim}, torch::kFloat32);
  }
  zeros<float>(batch.inputs.return_to_go, {rows, steps}, torch::kFloat32);
  zeros<float>(batch.inputs.reward, {rows, steps}, torch::kFloat32);
  std::vector<std::int32_t> begin, end(windows.size(), static_cast<std::int32_t>(steps));
  std::vector<std::int64_t> first_step, fresh;
  Counted counted;
  for (std::int64_t row = 0; row < rows; ++row) {
    const Window& window = windows[static_cast<std::size_t>(row)];
    LRAM_CHECK(window.length() >= 1 && window.length() <= steps, "a window of ", window.length(),
               " steps, wanted 1 to ", steps);
    const std::size_t index = domain.task_of(window);
    begin.push_back(static_cast<std::int32_t>(steps - window.length()));
    first_step.push_back(window.start);
    if (!window.carries_state) fresh.push_back(row);
    fill_inputs(index, window, row, batch.inputs);
    fill_targets(index, window, row, counted);
    batch.real_steps += window.length();
  }
  batch.inputs.begin = to_tensor(begin, torch::kInt32);
  batch.inputs.end = to_tensor(end, torch::kInt32);
  batch.inputs.first_step = to_tensor(first_step, torch::kInt64);
  batch.fresh_rows = to_tensor(fresh, torch::kInt64);
  batch.slot = to_tensor(counted.slot, torch::kInt64);
  batch.target = to_tensor(counted.target, torch::kInt64);
  batch.legal_row = to_tensor(counted.legal_row, torch::kInt64);
  return batch;
}

void BatchBuilder::fill_inputs(std::size_t index, const Window& window, std::int64_t row,
                               model::WindowBatch& inputs) const {
  const TrainingTask& task = data_.tasks()[index];
  const datasets::EpisodeView episode = task.data.episode(window.episode);
  const ObservationSpec& seen = task.entry.spec.observation;
  const std::int64_t pads = window_steps_ - window.length();
  const auto scale = static_cast<float>(task.entry.reward_scale);
  std::vector<float> returns(static_cast<std::size_t>(episode.length() - window.start));
  datasets::return_to_go(episode.rewards.subspan(static_cast<std::size_t>(window.start)), returns);
  for (std::int64_t t = window.start; t < window.end; ++t) {
    const std::int64_t at = pads + t - window.start;
    if (inputs.image.defined()) {
      const std::int64_t pixels = seen.image_height * seen.image_width;
      transpose_image(part(episode.images, t * seen.image_size(), seen.image_size()), pixels,
                      row_of<std::uint8_t>(inputs.image, row, at, seen.image_size()));
    } else {
      encoders_[index].observation.encode(
          part(episode.observations, t * seen.vector_size, seen.vector_size),
          row_of<float>(inputs.state, row, at, model_.state_dim));
    }
    row_of<float>(inputs.return_to_go, row, at, 1)[0] =
        returns[static_cast<std::size_t>(t - window.start)] / scale;
    row_of<float>(inputs.reward, row, at, 1)[0] =
        episode.rewards[static_cast<std::size_t>(t)] / scale;
  }
}

void BatchBuilder::fill_targets(std::size_t index, const Window& window, std::int64_t row,
                                Counted& counted) const {
  const TrainingTask& task = data_.tasks()[index];
  const tokenization::ActionCodec& codec = encoders_[index].action;
  const datasets::EpisodeView episode = task.data.episode(window.episode);
  const ActionSpec& spec = task.entry.spec.action;
  const std::int64_t slots = model_.action_slots;
  const std::int64_t pads = window_steps_ - window.length();
  std::vector<std::int64_t> target(static_cast<std::size_t>(slots));
  for (std::int64_t t = window.start; t < window.end; ++t) {
    if (spec.discrete) {
      codec.encode_index(episode.discrete_actions[static_cast<std::size_t>(t)], target);
    } else {
      codec.encode(part(episode.actions, t * spec.size, spec.size), target);
    }
    for (std::int64_t a = 0; a < codec.slots(); ++a) {
      counted.slot.push_back((row * window_steps_ + pads + t - window.start) * slots + a);
      counted.target.push_back(target[static_cast<std::size_t>(a)]);
      counted.legal_row.push_back(static_cast<std::int64_t>(index) * slots + a);
    }
  }
}

WindowStream::WindowStream(std::vector<datasets::Source> sources, std::int64_t window_steps,
                           std::int64_t batch_size, bool carry_state, std::uint64_t seed,
                           std::uint64_t stream, std::uint64_t next)
    : batch_size_(batch_size), next_(next) {
  if (!carry_state) {
    sampler_.emplace_back(std::move(sources), window_steps, seed, stream);
    return;
  }
  for (std::int64_t row = 0; row < batch_size; ++row)
    walks_.emplace_back(sources, window_steps, seed, stream << 32 | static_cast<std::uint64_t>(row),
                        next);
}

std::vector<Window> WindowStream::next() {
  std::vector<Window> windows;
  const auto rows = static_cast<std::uint64_t>(batch_size_);
  for (std::uint64_t row = 0; row < rows; ++row)
    windows.push_back(walks_.empty() ? sampler_.front().draw(next_ * rows + row)
                                     : walks_[row].next());
  ++next_;
  return windows;
}
}  // namespace lram::training
