#include "lram/core/manifest.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "lram/core/crc32c.h"
#include "lram/core/error.h"
#include "lram/core/file.h"
#include "lram/core/json.h"

namespace lram {
namespace fs = std::filesystem;
namespace {
struct Entry {
  std::uint64_t size = 0;
  std::string crc32c;  // eight hexadecimal digits
};
using Entries = std::map<std::string, Entry>;  // by path relative to the folder

Entry describe(const fs::path& path) {
  const MappedFile file(path);
  return {file.bytes().size(), fmt::format("{:08x}", crc32c(file.bytes()))};
}

std::string render(const Entries& entries) {
  nlohmann::json files = nlohmann::json::object();
  for (const auto& [path, entry] : entries)
    files[path] = {{"size", entry.size}, {"crc32c", entry.crc32c}};
  return json_text(nlohmann::json{{"format_version", 1}, {"files", files}}, 1) + "\n";
}

Entries parse(const fs::path& path) {
  const std::string text = read_file(path);
  Entries entries;
  try {
    const auto json = parse_json(text);
    if (const int version = json.at("format_version"); version != 1)
      throw_error(ErrorKind::kInput, "{}: format_version is {}, wanted 1", path.string(), version);
    for (const auto& [name, file] : json.at("files").items())
      entries[name] = {file.at("size").get<std::uint64_t>(), file.at("crc32c").get<std::string>()};
  } catch (const nlohmann::json::exception&) {
    throw_error(ErrorKind::kInput, "{}: damaged, wanted a list of files as JSON", path.string());
  }
  if (render(entries) != text)
    throw_error(ErrorKind::kInput, "{}: damaged, wanted the text that its content is written as",
                path.string());
  return entries;
}

void verify_file(const fs::path& folder, const std::string& name, const Entry& wanted) {
  const fs::path path = folder / name;
  const Entry found = describe(path);
  if (found.size != wanted.size)
    throw_error(ErrorKind::kInput, "{}: has {} bytes, {} wants {}", path.string(), found.size,
                kManifestName, wanted.size);
  if (found.crc32c != wanted.crc32c)
    throw_error(ErrorKind::kInput, "{}: damaged, has CRC32C {}, {} wants {}", path.string(),
                found.crc32c, kManifestName, wanted.crc32c);
}
}  // namespace

void write_manifest(const fs::path& folder) {
  Entries entries;
  std::vector<fs::path> folders;
  for (const auto& item : fs::recursive_directory_iterator(folder)) {
    if (item.is_directory()) {
      folders.push_back(item.path());
    } else if (item.path() != folder / kManifestName) {
      sync_path(item.path());
      entries[item.path().lexically_relative(folder).generic_string()] = describe(item.path());
    }
  }
  for (const fs::path& path : folders) sync_path(path);
  write_file_atomically(folder / kManifestName, render(entries));
}

void verify_manifest(const fs::path& folder, std::initializer_list<std::string_view> files) {
  const fs::path path = folder / kManifestName;
  const Entries entries = parse(path);
  for (const std::string_view name : files)
    if (!entries.count(std::string(name)))
      throw_error(ErrorKind::kInput, "{}: does not list '{}'", path.string(), name);
  for (const auto& [name, entry] : entries)
    if (files.size() == 0 || std::find(files.begin(), files.end(), name) != files.end())
      verify_file(folder, name, entry);
}
}  // namespace lram
