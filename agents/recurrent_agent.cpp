#include "agents/recurrent_agent.h"

#include <c10/core/InferenceMode.h>
#include <torch/utils.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "lram/core/error.h"
#include "lram/core/thread_pool.h"
#include "lram/tokenization/action_codec.h"
#include "lram/tokenization/observation_encoder.h"

namespace lram::agents {
// R rows of a group, S window_steps, A action slots, C classes.

struct RecurrentAgent::Task {
  tokenization::TaskEntry entry;
  tokenization::ObservationEncoder encoder;
  tokenization::ActionCodec codec;
};

struct RecurrentAgent::Row {
  const Task* task = nullptr;
  double target_return = 0.0;  // task units
  double return_to_go = 0.0;   // divided by reward_scale
  bool fresh = true;           // nothing seen, whatever the input says
  std::int64_t steps = 0;      // acted on since the episode's start
};

// Rows that share one call of the policy. Buffers are made once.
struct RecurrentAgent::Group {
  std::size_t first_row = 0, rows = 0;
  model::StepInput step;              // carried
  model::BackboneState state;         // carried
  model::WindowBatch window;          // window, left-padded to S
  std::vector<std::int64_t> classes;  // [A]
};

class RecurrentAgent::Memory {
 public:
  std::vector<Row> rows;
  std::vector<model::BackboneState> states;  // per group
  std::vector<model::WindowBatch> windows;   // per group
};

namespace {
model::StepInput make_step_input(std::int64_t rows, std::int64_t state_dim) {
  return {.state = torch::zeros({rows, state_dim}),
          .image = {},
          .return_to_go = torch::zeros({rows}),
          .previous_reward = torch::zeros({rows}),
          .first = torch::ones({rows}, torch::kBool)};
}

model::WindowBatch make_window(std::int64_t rows, std::int64_t steps, std::int64_t state_dim) {
  return {.state = torch::zeros({rows, steps, state_dim}),
          .image = {},
          .return_to_go = torch::zeros({rows, steps}),
          .reward = torch::zeros({rows, steps}),
          .begin = torch::zeros({rows}, torch::kInt32),
          .end = torch::full({rows}, steps, torch::kInt32),
          .first_step = torch::zeros({rows}, torch::kInt64)};
}

model::WindowBatch clone(const model::WindowBatch& window) {
  const auto copy = [](const torch::Tensor& tensor) {
    return tensor.defined() ? tensor.clone() : tensor;
  };
  return {.state = copy(window.state),
          .image = {},
          .return_to_go = copy(window.return_to_go),
          .reward = copy(window.reward),
          .begin = copy(window.begin),
          .end = copy(window.end),
          .first_step = copy(window.first_step)};
}

// Moves a row of `steps` entries of `width` floats one entry to the left.
float* shift(torch::Tensor& tensor, std::int64_t row, std::int64_t steps, std::int64_t width) {
  float* begin = tensor.data_ptr<float>() + row * steps * width;
  std::copy(begin + width, begin + steps * width, begin);
  return begin + (steps - 1) * width;
}
}  // namespace

RecurrentAgent::RecurrentAgent(std::shared_ptr<model::Policy> policy,
                               std::span<const TaskSpec> specs, AgentOptions options)
    : policy_(std::move(policy)), options_(std::move(options)) {
  const std::int64_t size = options_.rows_per_call;
  LRAM_CHECK(!specs.empty(), "no task specs, wanted one per environment");
  LRAM_CHECK(size >= 1, "rows_per_call is ", size, ", wanted at least 1");
  LRAM_CHECK(options_.target_returns.empty() || options_.target_returns.size() == specs.size(),
             options_.target_returns.size(), " target returns for ", specs.size(), " rows");
  const model::PolicyConfig& config = policy_->config();
  LRAM_CHECK(options_.window_steps >= 0, "window_steps is ", options_.window_steps,
             ", wanted 0 or more");
  if (options_.window_steps == 0) options_.window_steps = config.context_length;
  const tokenization::ActionLayout layout = {config.action_slots, config.discrete_ids,
                                             config.num_bins};
  rows_.resize(specs.size());
  for (std::size_t i = 0; i < specs.size(); ++i) {
    const TaskSpec& spec = specs[i];
    auto task = std::find_if(tasks_.begin(), tasks_.end(),
                             [&](const auto& known) { return known->entry.spec.id == spec.id; });
    if (task == tasks_.end()) {
      const tokenization::TaskEntry& entry = policy_->tasks().at(spec.id);
      if (entry.spec.observation != spec.observation || entry.spec.action != spec.action)
        throw_error(ErrorKind::kInput,
                    "task '{}': the checkpoint knows {} observation and {} action entries, the "
                    "environment has {} and {}, or their parts or bounds differ",
                    spec.id, entry.spec.observation.vector_size, entry.spec.action.size,
                    spec.observation.vector_size, spec.action.size);
      if (spec.observation.has_image())
        throw_error(ErrorKind::kUsage, "task '{}' shows images, the agent takes vectors", spec.id);
      tasks_.push_back(
          std::make_unique<Task>(Task{entry, {entry, config.state_dim}, {entry.spec, layout}}));
      task = tasks_.end() - 1;
    }
    rows_[i].task = task->get();
    rows_[i].target_return =
        options_.target_returns.empty() ? (*task)->entry.target_return : options_.target_returns[i];
  }

  const c10::InferenceMode inference;
  for (std::size_t first = 0; first < rows_.size(); first += static_cast<std::size_t>(size)) {
    Group group;
    group.first_row = first;
    group.rows = std::min(static_cast<std::size_t>(size), rows_.size() - first);
    group.classes.resize(static_cast<std::size_t>(config.action_slots));
    if (options_.mode == AgentOptions::Mode::kCarried) {
      group.step = make_step_input(size, config.state_dim);
      group.state = policy_->initial_state(size);
    } else {
      group.window = make_window(size, options_.window_steps, config.state_dim);
    }
    groups_.push_back(std::move(group));
  }
  pool_ = std::make_unique<ThreadPool>(
      options_.num_threads == 0 ? 0 : std::min(options_.num_threads, groups_.size()));
}

RecurrentAgent::~RecurrentAgent() = default;
RecurrentAgent::RecurrentAgent(RecurrentAgent&&) noexcept = default;

std::size_t RecurrentAgent::num_rows() const { return rows_.size(); }

double RecurrentAgent::target_return(std::size_t row) const { return rows_.at(row).target_return; }

void RecurrentAgent::act(std::span<const AgentInput> inputs,
                         std::span<const std::span<float>> actions) {
  LRAM_CHECK(inputs.size() == rows_.size() && actions.size() == rows_.size(), inputs.size(),
             " inputs and ", actions.size(), " actions for ", rows_.size(), " rows");
  const auto body = [&](std::size_t i, std::size_t) { act_group(groups_[i], inputs, actions); };
  pool_->for_each(groups_.size(), std::ref(body));  // a reference: nothing is allocated
}

void RecurrentAgent::act_group(Group& group, std::span<const AgentInput> inputs,
                               std::span<const std::span<float>> actions) {
  const c10::InferenceMode inference;
  bool any = false;
  for (std::size_t r = 0; r < group.rows; ++r) {
    const AgentInput& input = inputs[group.first_row + r];
    Row& row = rows_[group.first_row + r];
    any = any || input.active;
    if (!input.active || input.first || row.fresh) {
      row.return_to_go = row.target_return / row.task->entry.reward_scale;
      row.steps = 0;
    } else {
      row.return_to_go -= static_cast<double>(input.reward) / row.task->entry.reward_scale;
    }
    row.fresh = !input.active;
    fill(group, static_cast<std::int64_t>(r), input, row);
    row.steps += input.active;
  }
  if (!any) return;

  torch::Tensor logits;  // [R, A, C]
  if (options_.mode == AgentOptions::Mode::kCarried) {
    logits = policy_->step(group.step, group.state);
  } else {
    logits = policy_->forward(group.window, {}, model::FinalState::kDropped).logits.select(1, -1);
  }
  logits = logits.to(torch::kCPU, torch::kFloat32).contiguous();
  const std::int64_t classes = logits.size(2), row_size = logits.size(1) * classes;
  for (std::size_t r = 0; r < group.rows; ++r) {
    if (!inputs[group.first_row + r].active) continue;
    const Task& task = *rows_[group.first_row + r].task;
    const float* slot = logits.data_ptr<float>() + static_cast<std::int64_t>(r) * row_size;
    for (std::int64_t a = 0; a < task.codec.slots(); ++a, slot += classes) {
      const float* best =
          std::max_element(slot + task.codec.first_class(), slot + task.codec.end_class());
      if (!std::isfinite(*best))
        throw_error(ErrorKind::kInput, "task '{}': the policy gives {} for action dimension {}",
                    task.entry.spec.id, *best, a);
      group.classes[static_cast<std::size_t>(a)] = best - slot;
    }
    task.codec.decode(group.classes, actions[group.first_row + r]);
  }
}

// The row's tokens of this step: what step() takes, or the newest entry of its window.
void RecurrentAgent::fill(Group& group, std::int64_t r, const AgentInput& input, const Row& row) {
  const auto state_dim = static_cast<std::size_t>(policy_->config().state_dim);
  const bool first = row.steps == 0;
  const double scale = row.task->entry.reward_scale;
  const float reward = first ? 0.0f : static_cast<float>(input.reward / scale);
  const auto return_to_go = static_cast<float>(row.return_to_go);
  float* state = nullptr;
  if (options_.mode == AgentOptions::Mode::kCarried) {
    state = group.step.state.data_ptr<float>() + r * static_cast<std::int64_t>(state_dim);
    group.step.return_to_go.data_ptr<float>()[r] = return_to_go;
    group.step.previous_reward.data_ptr<float>()[r] = reward;
    group.step.first.data_ptr<bool>()[r] = first;
  } else {
    const std::int64_t steps = options_.window_steps;
    // Behind the newest step stands no reward yet; the action is read before that token.
    *shift(group.window.reward, r, steps, 1) = 0.0f;
    if (steps > 1) group.window.reward.data_ptr<float>()[(r + 1) * steps - 2] = reward;
    *shift(group.window.return_to_go, r, steps, 1) = return_to_go;
    state = shift(group.window.state, r, steps, static_cast<std::int64_t>(state_dim));
    const std::int64_t seen = std::min(row.steps + 1, steps);
    group.window.begin.data_ptr<std::int32_t>()[r] = static_cast<std::int32_t>(steps - seen);
    group.window.first_step.data_ptr<std::int64_t>()[r] = row.steps + 1 - seen;
  }
  if (input.active) {
    LRAM_CHECK(static_cast<std::int64_t>(input.vector.size()) ==
                   row.task->entry.spec.observation.vector_size,
               row.task->entry.spec.id, ": observation of ", input.vector.size(), ", wanted ",
               row.task->entry.spec.observation.vector_size);
    row.task->encoder.encode(input.vector, {state, state_dim});
  } else {
    std::fill_n(state, state_dim, 0.0f);
  }
}

std::shared_ptr<const RecurrentAgent::Memory> RecurrentAgent::save() const {
  const c10::InferenceMode inference;
  auto memory = std::make_shared<Memory>();
  memory->rows = rows_;
  for (const Group& group : groups_) {
    memory->states.push_back(group.state.clone());
    memory->windows.push_back(clone(group.window));
  }
  return memory;
}

void RecurrentAgent::restore(const Memory& memory) {
  const c10::InferenceMode inference;
  LRAM_CHECK(memory.rows.size() == rows_.size() && memory.states.size() == groups_.size(),
             "a memory of ", memory.rows.size(), " rows for an agent of ", rows_.size());
  rows_ = memory.rows;
  for (std::size_t i = 0; i < groups_.size(); ++i) {
    groups_[i].state = memory.states[i].clone();
    groups_[i].window = clone(memory.windows[i]);
  }
}

std::int64_t RecurrentAgent::state_bytes() const {
  std::int64_t bytes = 0;
  for (const Group& group : groups_) {
    bytes += group.state.bytes();
    for (const torch::Tensor* tensor :
         {&group.window.state, &group.window.return_to_go, &group.window.reward})
      if (tensor->defined()) bytes += static_cast<std::int64_t>(tensor->nbytes());
  }
  return bytes;
}
}  // namespace lram::agents
