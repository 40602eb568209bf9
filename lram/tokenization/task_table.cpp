#include "lram/tokenization/task_table.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "lram/core/error.h"
#include "lram/core/text.h"

namespace lram::tokenization {
namespace {
using nlohmann::json;

template <typename T>
T field(const json& object, const std::string& id, const char* name) {
  const auto at = object.find(name);
  if (at == object.end()) throw_error(ErrorKind::kInput, "tasks['{}']: no field '{}'", id, name);
  try {
    return at->get<T>();
  } catch (const json::exception&) {
    throw_error(ErrorKind::kInput, "tasks['{}']: field '{}' is {}", id, name, at->dump());
  }
}

double positive(const json& object, const std::string& id, const char* name) {
  const auto value = field<double>(object, id, name);
  if (!(value > 0.0))
    throw_error(ErrorKind::kInput, "tasks['{}']: field '{}' is {}, wanted more than 0", id, name,
                value);
  return value;
}

TaskEntry entry_from_json(const json& in, const std::string& id) {
  if (!in.is_object())
    throw_error(ErrorKind::kInput, "tasks['{}'] is {}, wanted an object", id, in.type_name());
  TaskEntry entry;
  entry.spec = field<json>(in, id, "spec").get<TaskSpec>();
  if (entry.spec.id != id)
    throw_error(ErrorKind::kInput, "tasks['{}']: its spec has the id '{}'", id, entry.spec.id);
  entry.reward_scale = positive(in, id, "reward_scale");
  entry.target_return = field<double>(in, id, "target_return");
  entry.data_mean = field<double>(in, id, "data_mean");
  entry.random_mean = field<double>(in, id, "random_mean");
  entry.obs_mean = field<std::vector<double>>(in, id, "obs_mean");
  entry.obs_std = field<std::vector<double>>(in, id, "obs_std");
  for (const auto* values : {&entry.obs_mean, &entry.obs_std})
    if (!values->empty() && std::ssize(*values) != entry.spec.observation.vector_size)
      throw_error(ErrorKind::kInput, "tasks['{}']: {} has {} entries, observations have {}", id,
                  values == &entry.obs_mean ? "obs_mean" : "obs_std", values->size(),
                  entry.spec.observation.vector_size);
  entry.obs_std_floor = positive(in, id, "obs_std_floor");
  entry.obs_clip = positive(in, id, "obs_clip");
  entry.first_seed = field<std::uint64_t>(in, id, "first_seed");
  entry.last_seed = field<std::uint64_t>(in, id, "last_seed");
  return entry;
}
}  // namespace

void TaskTable::add(TaskEntry entry) {
  LRAM_CHECK(find(entry.spec.id) == nullptr, "task '", entry.spec.id, "' is given twice");
  entries_.push_back(std::move(entry));
}

const TaskEntry* TaskTable::find(const std::string& id) const {
  const auto at = std::find_if(entries_.begin(), entries_.end(),
                               [&](const TaskEntry& entry) { return entry.spec.id == id; });
  return at == entries_.end() ? nullptr : &*at;
}

const TaskEntry& TaskTable::at(const std::string& id) const {
  const TaskEntry* entry = find(id);
  if (entry != nullptr) return *entry;
  std::vector<std::string> ids;
  for (const TaskEntry& known : entries_) ids.push_back(known.spec.id);
  throw_error(ErrorKind::kUsage, "the policy was not trained on task '{}'; it knows: {}", id,
              joined(ids));
}

void to_json(json& out, const TaskTable& table) {
  out = json::object();
  for (const TaskEntry& entry : table.entries())
    out[entry.spec.id] = {{"spec", entry.spec},
                          {"reward_scale", entry.reward_scale},
                          {"target_return", entry.target_return},
                          {"data_mean", entry.data_mean},
                          {"random_mean", entry.random_mean},
                          {"obs_mean", entry.obs_mean},
                          {"obs_std", entry.obs_std},
                          {"obs_std_floor", entry.obs_std_floor},
                          {"obs_clip", entry.obs_clip},
                          {"first_seed", entry.first_seed},
                          {"last_seed", entry.last_seed}};
}

void from_json(const json& in, TaskTable& table) {
  if (!in.is_object())
    throw_error(ErrorKind::kInput, "tasks: is {}, wanted an object", in.type_name());
  TaskTable out;
  for (const auto& [id, entry] : in.items()) out.add(entry_from_json(entry, id));
  table = std::move(out);
}

}  // namespace lram::tokenization
