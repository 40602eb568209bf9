#include "lram/weights/convert.h"

#include <algorithm>
#include <cctype>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>

#include "lram/core/error.h"
#include "lram/core/file.h"
#include "lram/core/json.h"
#include "lram/core/manifest.h"
#include "lram/core/text.h"

namespace lram::weights {
namespace fs = std::filesystem;
namespace {
constexpr const char* kConfigName = "config.json";

/// "blocks.9" before "blocks.10": numbers inside names count as numbers.
bool natural_less(const std::string& a, const std::string& b) {
  const auto digit = [](char c) { return std::isdigit(static_cast<unsigned char>(c)) != 0; };
  std::size_t i = 0, j = 0;
  while (i < a.size() && j < b.size()) {
    if (digit(a[i]) && digit(b[j])) {
      const std::size_t begin_a = i, begin_b = j;
      while (i < a.size() && digit(a[i])) ++i;
      while (j < b.size() && digit(b[j])) ++j;
      if (i - begin_a != j - begin_b) return i - begin_a < j - begin_b;
      const int order = a.compare(begin_a, i - begin_a, b, begin_b, j - begin_b);
      if (order != 0) return order < 0;
    } else {
      if (a[i] != b[j]) return a[i] < b[j];
      ++i, ++j;
    }
  }
  return a.size() - i < b.size() - j;
}

/// Where a policy keeps its backbone (golden/policy/README.md).
std::string backbone_prefix(const WeightSet& policy, const std::string& where) {
  for (const std::string prefix : {"encoder.layers.", "encoder."}) {
    const auto at = policy.lower_bound(prefix);
    if (at == policy.end() || !at->first.starts_with(prefix)) continue;
    // A Mamba stands at "encoder." and calls its own blocks layers.0, layers.1, ...
    const char next = at->first.size() > prefix.size() ? at->first[prefix.size()] : '.';
    if (std::isdigit(static_cast<unsigned char>(next)) == 0) return prefix;
  }
  throw_error(ErrorKind::kInput, "{}: no tensor 'encoder...', wanted a policy's", where);
}

bool is_policy(const WeightSet& set) {
  return set.contains("action_net.0.weight") && set.contains("embed_ln.weight");
}

WeightSet backbone_of(const WeightSet& policy, const std::string& prefix) {
  WeightSet out;
  for (auto at = policy.lower_bound(prefix); at != policy.end() && at->first.starts_with(prefix);
       ++at)
    out.emplace(at->first.substr(prefix.size()), at->second);
  return out;
}

const WeightFormat& detected(const WeightSet& set, const std::string& where) {
  const WeightFormat* format = detect_format(set);
  if (format == nullptr)
    throw_error(ErrorKind::kInput,
                "{}: tensor names that no known format has (first: '{}'), see lram ckpt convert "
                "--list",
                where, set.empty() ? "" : set.begin()->first);
  return *format;
}

/// The policy's tensors with the backbone's replaced by `backbone`.
WeightSet with_backbone(const WeightSet& policy, const WeightSet& backbone,
                        const std::string& where, const std::string& in) {
  const std::string prefix = backbone_prefix(policy, where);
  WeightSet named;  // as the policy's module names them
  for (const auto& [name, tensor] : backbone) named.emplace(backbone_name(name), tensor);
  WeightSet out = policy;
  for (auto& [name, tensor] : out) {
    if (!name.starts_with(prefix)) continue;
    const auto at = named.find(name.substr(prefix.size()));
    if (at == named.end())
      throw_error(ErrorKind::kInput, "{}: no tensor '{}', which the policy {} has", in,
                  name.substr(prefix.size()), where);
    if (at->second.shape != tensor.shape)
      throw_error(ErrorKind::kInput, "{}: tensor '{}' has shape [{}], the policy {} wants [{}]", in,
                  at->first, joined(at->second.shape), where, joined(tensor.shape));
    tensor = at->second;
  }
  for (const auto& [name, tensor] : named)
    if (!policy.contains(prefix + name) && !is_outside_backbone(name))
      throw_error(ErrorKind::kInput, "{}: tensor '{}' has no place in the policy {}", in, name,
                  where);
  return out;
}

void write_one(const fs::path& path, const WeightSet& set, const std::vector<std::string>& names,
               const TensorMetadata& metadata) {
  std::vector<TensorSource> sources;
  for (const std::string& name : names) {
    const WeightTensor& tensor = set.at(name);
    sources.push_back(
        {name, tensor.dtype, tensor.shape, [&tensor](OutputFile& file) { tensor.write(file); }});
  }
  stream_safetensors(path, std::move(sources), metadata);
}

std::vector<std::string> names_of(const WeightSet& set) {
  std::vector<std::string> names;
  for (const auto& [name, tensor] : set) names.push_back(name);
  std::sort(names.begin(), names.end(), natural_less);
  return names;
}

/// Fills `folder`.new and renames it; what fails leaves nothing.
void make_folder_atomically(const fs::path& folder,
                            const std::function<void(const fs::path&)>& fill) {
  const fs::path beside = folder.string() + ".new";
  if (fs::exists(beside))
    throw_error(ErrorKind::kUsage, "{}: is there already, left by a conversion that was cut off?",
                beside.string());
  std::error_code ignored;
  try {
    make_folder(beside);
    fill(beside);
    sync_path(beside);
    rename_durably(beside, folder);
  } catch (...) {
    fs::remove_all(beside, ignored);
    throw;
  }
}
}  // namespace

FamilyWeights read_weights(const TensorFiles& files, const std::string& format,
                           const FormatOptions& options) {
  const std::string where = files.path().string();
  WeightSet set = weight_set(files);
  if (format == kPolicyFormat || (format.empty() && is_policy(set))) {
    set = family_names(backbone_of(set, backbone_prefix(set, where)));
    const WeightFormat& inside = detected(set, where);
    return {kPolicyFormat, inside.family, inside.read(set, {}, where)};
  }
  const WeightFormat& chosen = format.empty() ? detected(set, where) : weight_format(format);
  return {std::string(chosen.name), chosen.family, chosen.read(set, options, where)};
}

std::vector<std::string> write_shards(const fs::path& folder, const WeightSet& set,
                                      const TensorMetadata& metadata, std::uint64_t max_shard_bytes,
                                      bool numbered) {
  std::vector<std::vector<std::string>> shards(1);
  std::uint64_t filled = 0, total = 0;
  for (const std::string& name : names_of(set)) {
    const std::uint64_t bytes = set.at(name).byte_count();
    if (max_shard_bytes > 0 && !shards.back().empty() && filled + bytes > max_shard_bytes) {
      shards.emplace_back();
      filled = 0;
    }
    shards.back().push_back(name);
    filled += bytes;
    total += bytes;
  }
  if (shards.size() == 1) {
    write_one(folder / kWeightsName, set, shards[0], metadata);
    return {kWeightsName};
  }
  std::vector<std::string> files;
  nlohmann::json map = nlohmann::json::object();
  for (std::size_t i = 0; i < shards.size(); ++i) {
    files.push_back(numbered
                        ? fmt::format("model_{}.safetensors", i)
                        : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size()));
    write_one(folder / files.back(), set, shards[i], metadata);
    for (const std::string& name : shards[i]) map[name] = files.back();
  }
  const nlohmann::json index = {{"metadata", {{"total_size", total}}}, {"weight_map", map}};
  write_file_atomically(folder / kIndexName, json_text(index, 2) + "\n");
  files.emplace_back(kIndexName);
  return files;
}

ConvertResult convert(const fs::path& in, const fs::path& out, const ConvertOptions& options) {
  ConvertResult result;
  result.to = options.to;
  const bool to_policy = options.to == kPolicyFormat;
  const WeightFormat* target = to_policy ? nullptr : &weight_format(options.to);
  const bool to_file = !to_policy && out.extension() == ".safetensors";
  if (to_policy != !options.into.empty())
    throw_error(ErrorKind::kUsage, "{}",
                to_policy ? "--to lram wants --into: the checkpoint whose backbone is replaced"
                          : "--into is for --to lram");
  if (to_file && options.max_shard_bytes > 0)
    throw_error(ErrorKind::kUsage, "{}: shards want a folder, not a name that ends in .safetensors",
                out.string());
  if (fs::exists(out)) throw_error(ErrorKind::kUsage, "{}: is there already", out.string());

  const TensorFiles files(in);
  FamilyWeights given = read_weights(files, options.from, options.format);
  result.from = given.format;
  WeightSet set = std::move(given.tensors);
  for (const std::string& name : options.drop)
    if (set.erase(name) == 0)
      throw_error(ErrorKind::kUsage, "--drop {}: {} has no such tensor", name, in.string());

  std::unique_ptr<TensorFiles> base;
  if (to_policy) {
    base = std::make_unique<TensorFiles>(options.into);
    set = with_backbone(weight_set(*base), set, options.into.string(), in.string());
  } else {
    if (given.family != target->family)
      throw_error(ErrorKind::kUsage, "{}: {} holds another architecture than {}", in.string(),
                  result.from, options.to);
    set = target->write(set, in.string());
  }
  result.num_tensors = set.size();
  for (const auto& [name, tensor] : set) result.bytes += tensor.byte_count();
  const TensorMetadata& metadata = to_policy ? base->metadata() : files.metadata();
  if (to_file) {
    write_one(out, set, names_of(set), metadata);
    result.files = {out.filename().string()};
    return result;
  }
  make_folder_atomically(out, [&](const fs::path& folder) {
    const bool numbered = options.to == "xlstm_large" || options.to == "xlstm_large_fused";
    result.files = write_shards(folder, set, metadata, options.max_shard_bytes, numbered);
    if (!to_policy) return;
    write_file_atomically(folder / kConfigName, read_file(options.into / kConfigName));
    write_manifest(folder);
    result.files.insert(result.files.end(), {kConfigName, kManifestName});
  });
  return result;
}

}  // namespace lram::weights
