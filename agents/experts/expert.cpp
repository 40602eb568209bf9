#include "agents/experts/expert.h"

#include "agents/experts/controller.h"
#include "agents/experts/planner.h"
#include "agents/experts/q_learning.h"
#include "agents/experts/random.h"
#include "agents/experts/sweep.h"
#include "lram/core/error.h"
#include "lram/core/text.h"

namespace lram::agents::experts {
namespace {
struct Entry {
  const char* name;
  const char* summary;
  std::unique_ptr<Expert> (*make)(std::string_view task, const ExpertOptions& options);
};

void refuse_settings(const char* name, const ExpertOptions& options) {
  if (!options.settings.empty())
    throw_error(ErrorKind::kUsage, "--settings: agent '{}' has none, found '{}'", name,
                options.settings);
}

const std::vector<Entry> kExperts = {
    {"planner", "searches on copies of the simulator's state (continuous actions)",
     [](std::string_view task, const ExpertOptions& options) -> std::unique_ptr<Expert> {
       const std::string id = envs::make(task)->spec().id;
       return std::make_unique<Planner>(id, planner_config(id, options.settings),
                                        options.num_threads);
     }},
    {"controller", "feedback law of control theory (cartpole, pendulum, point mass, reacher)",
     [](std::string_view task, const ExpertOptions& options) -> std::unique_ptr<Expert> {
       refuse_settings("controller", options);
       return std::make_unique<Controller>(task);
     }},
    {"sweep", "visits every cell of a grid world and stays where it is rewarded",
     [](std::string_view task, const ExpertOptions& options) -> std::unique_ptr<Expert> {
       refuse_settings("sweep", options);
       return std::make_unique<Sweep>(task);
     }},
    {"q_learning", "learns a table from scratch; its episodes are one learning history per goal",
     [](std::string_view task, const ExpertOptions& options) -> std::unique_ptr<Expert> {
       return std::make_unique<QLearning>(task, q_learning_config(options.settings));
     }},
    {"random", "uniform actions within the bounds",
     [](std::string_view task, const ExpertOptions& options) -> std::unique_ptr<Expert> {
       refuse_settings("random", options);
       return std::make_unique<Random>(task);
     }},
};
}  // namespace

std::unique_ptr<Expert> make_expert(std::string_view name, std::string_view task,
                                    const ExpertOptions& options) {
  std::vector<std::string> known;
  for (const Entry& entry : kExperts) {
    if (name == entry.name) return entry.make(task, options);
    known.push_back(entry.name);
  }
  const std::string near = nearest_name(std::string(name), known);
  throw_error(ErrorKind::kUsage, "unknown agent '{}', {}", name,
              near.empty() ? fmt::format("known are {}", joined(known))
                           : fmt::format("did you mean '{}'?", near));
}

std::vector<std::pair<std::string, std::string>> expert_names() {
  std::vector<std::pair<std::string, std::string>> names;
  for (const Entry& entry : kExperts) names.emplace_back(entry.name, entry.summary);
  return names;
}

}  // namespace lram::agents::experts
