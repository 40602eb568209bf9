#include <nlohmann/json.hpp>

#include "lram/core/error.h"
#include "lram/core/file.h"
#include "lram/core/json.h"
#include "lram/core/manifest.h"
#include "lram/model/policy.h"
#include "lram/model/tensor_io.h"

namespace lram::model {
namespace fs = std::filesystem;
namespace {
using nlohmann::json;

constexpr int kFormatVersion = 1;
constexpr const char* kConfigName = "config.json";
constexpr const char* kWeightsName = "model.safetensors";

json read_config(const fs::path& path) {
  const std::string text = read_file(path);
  const json config = parse_json_or_discard(text);
  if (!config.is_object()) throw_error(ErrorKind::kInput, "{}: not a JSON object", path.string());
  const json version = config.value("format_version", json());
  if (version != kFormatVersion)
    throw_error(ErrorKind::kInput, "{}: format_version is {}, this program reads {}", path.string(),
                json_text(version), kFormatVersion);
  for (const char* name : {"model", "tasks"})
    if (!config.contains(name))
      throw_error(ErrorKind::kInput, "{}: no field '{}'", path.string(), name);
  return config;
}

/// A policy with random weights, as config.json describes it.
std::shared_ptr<Policy> build_policy(const fs::path& checkpoint) {
  const fs::path config_path = checkpoint / kConfigName;
  const json config = read_config(config_path);
  std::shared_ptr<Policy> policy;
  try {
    policy = std::make_shared<Policy>(config["model"].get<PolicyConfig>());
    policy->set_tasks(config["tasks"].get<tokenization::TaskTable>());
  } catch (const Error& error) {
    throw_error(ErrorKind::kInput, "{}: {}", config_path.string(), error.what());
  }
  return policy;
}
}  // namespace

std::shared_ptr<Policy> load_policy(const fs::path& checkpoint) {
  if (!fs::is_directory(checkpoint))
    throw_error(ErrorKind::kInput, "{}: not a checkpoint folder", checkpoint.string());
  verify_manifest(checkpoint, {kConfigName, kWeightsName});
  auto policy = build_policy(checkpoint);
  load_tensors(SafetensorsFile(checkpoint / kWeightsName), named_tensors(*policy));
  policy->eval();
  return policy;
}

void check_policy_tensors(const fs::path& checkpoint) {
  check_tensors(SafetensorsFile(checkpoint / kWeightsName),
                named_tensors(*build_policy(checkpoint)));
}

void save_policy_files(const Policy& policy, const fs::path& folder) {
  const json config = {
      {"format_version", kFormatVersion}, {"model", policy.config()}, {"tasks", policy.tasks()}};
  write_file_atomically(folder / kConfigName, json_text(config, 2) + "\n");
  save_tensors(folder / kWeightsName, named_tensors(policy), {{"format", "pt"}});
}

}  // namespace lram::model
