#include "lram/weights/tensor_files.h"

#include <nlohmann/json.hpp>
#include <set>

#include "lram/core/error.h"

namespace lram::weights {
namespace fs = std::filesystem;
namespace {
using nlohmann::json;

constexpr std::size_t kMaxIndexBytes = 100'000'000;

/// Takes the index event by event: a key given twice is seen, nothing but names is held.
class IndexReader : public nlohmann::json_sax<json> {
 public:
  explicit IndexReader(std::string where) : where_(std::move(where)) {}
  ShardIndex index;
  bool has_map = false;

  bool key(string_t& name) override {
    if (depth_ == 1) {
      if (!sections_.insert(name).second) fail("key '{}' is there twice", name);
      section_ = name;
    }
    key_ = name;
    return true;
  }
  bool start_object(std::size_t) override {
    if (depth_ == 1 && section_ == "weight_map") has_map = true;
    if (depth_ == 2 && section_ == "weight_map") unexpected("an object");
    ++depth_;
    return true;
  }
  bool end_object() override {
    --depth_;
    return true;
  }
  bool start_array(std::size_t) override {
    unexpected("an array");
    ++depth_;
    return true;
  }
  bool end_array() override {
    --depth_;
    return true;
  }
  bool string(string_t& text) override {
    unexpected(fmt::format("the text '{}'", text));
    if (!in_map()) return true;
    const fs::path path = text;
    if (path.filename() != path || path.stem().empty() || path.extension() != ".safetensors")
      fail("tensor '{}': shard '{}' is not a file name that ends in .safetensors", key_, text);
    if (!index.files.emplace(key_, text).second)
      fail("weight_map: tensor '{}' is there twice", key_);
    return true;
  }
  bool number_unsigned(number_unsigned_t value) override {
    unexpected(fmt::format("the number {}", value));
    if (depth_ == 2 && section_ == "metadata" && key_ == "total_size") index.total_size = value;
    return true;
  }
  bool number_integer(number_integer_t value) override {
    unexpected(fmt::format("the number {}", value));
    return true;
  }
  bool number_float(number_float_t, const string_t& text) override {
    unexpected(fmt::format("the number {}", text));
    return true;
  }
  bool null() override {
    unexpected("null");
    return true;
  }
  bool boolean(bool value) override {
    unexpected(value ? "true" : "false");
    return true;
  }
  bool binary(binary_t&) override { return true; }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    fail("not valid JSON at its byte {}", position);
  }

 private:
  bool in_map() const { return depth_ == 2 && section_ == "weight_map"; }
  template <typename... Args>
  [[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) const {
    throw_error(ErrorKind::kInput, "{}: {}", where_,
                fmt::format(format, std::forward<Args>(args)...));
  }
  /// Refuses a value where the rules want another; metadata may hold anything.
  void unexpected(const std::string& what) const {
    if (depth_ == 0) fail("is {}, wanted an object", what);
    if (depth_ == 1 && section_ == "weight_map") fail("weight_map is {}, wanted an object", what);
    if (in_map() && !what.starts_with("the text"))
      fail("weight_map: tensor '{}' is {}, wanted a file name", key_, what);
  }

  std::string where_;
  int depth_ = 0;  ///< objects and arrays open
  std::string section_, key_;
  std::set<std::string> sections_;
};
}  // namespace

ShardIndex parse_shard_index(std::string_view text, const std::string& where) {
  if (text.size() > kMaxIndexBytes)
    throw_error(ErrorKind::kInput, "{}: {} bytes, wanted at most {}", where, text.size(),
                kMaxIndexBytes);
  // To the parser a NUL is the end of the text, whatever stands behind it.
  if (const auto nul = text.find('\0'); nul != std::string_view::npos)
    throw_error(ErrorKind::kInput, "{}: not valid JSON at its byte {}", where, nul + 1);
  IndexReader reader(where);
  json::sax_parse(text.begin(), text.end(), &reader);
  if (!reader.has_map) throw_error(ErrorKind::kInput, "{}: no key 'weight_map'", where);
  if (reader.index.files.empty())
    throw_error(ErrorKind::kInput, "{}: weight_map lists no tensor", where);
  return std::move(reader.index);
}

TensorFiles::TensorFiles(const fs::path& path) : path_(path) {
  if (!fs::is_directory(path)) {
    if (path.filename().string().ends_with(".index.json"))
      throw_error(ErrorKind::kInput, "{}: an index, wanted its folder", path.string());
    add_file(path);
    return;
  }
  const fs::path index_path = path / kIndexName;
  if (fs::exists(path / kWeightsName)) {
    add_file(path / kWeightsName);
  } else if (fs::exists(index_path)) {
    const MappedFile text(index_path);
    index_ =
        parse_shard_index({reinterpret_cast<const char*>(text.bytes().data()), text.bytes().size()},
                          index_path.string());
    std::set<std::string> names;
    for (const auto& [tensor, file] : index_->files) names.insert(file);
    for (const std::string& name : names) {
      if (!fs::exists(path / name))
        throw_error(ErrorKind::kInput, "{}: shard '{}' is missing", index_path.string(), name);
      add_file(path / name);
    }
    for (const SafetensorsFile& file : files_)
      for (const TensorEntry& tensor : file.tensors()) {
        const auto at = index_->files.find(tensor.name);
        if (at == index_->files.end())
          throw_error(ErrorKind::kInput, "{}: tensor '{}' is not listed in {}",
                      file.path().string(), tensor.name, kIndexName);
        if (at->second != file.path().filename())
          throw_error(ErrorKind::kInput, "{}: tensor '{}' is here, {} wants it in '{}'",
                      file.path().string(), tensor.name, kIndexName, at->second);
      }
    for (const auto& [tensor, file] : index_->files)
      if (!tensors_.contains(tensor))
        throw_error(ErrorKind::kInput, "{}: no tensor '{}', which {} lists", (path / file).string(),
                    tensor, kIndexName);
  } else {
    for (int n = 0;; ++n) {
      const fs::path shard = path / fmt::format("model_{}.safetensors", n);
      if (!fs::exists(shard)) break;
      add_file(shard);
    }
  }
  if (files_.empty())
    throw_error(ErrorKind::kInput, "{}: no {}, no {} and no model_0.safetensors", path.string(),
                kWeightsName, kIndexName);
}

void TensorFiles::add_file(const fs::path& path) {
  const SafetensorsFile& file = files_.emplace_back(path);
  for (const TensorEntry& tensor : file.tensors())
    if (const auto [at, is_new] = tensors_.emplace(tensor.name, &tensor); !is_new) {
      for (const SafetensorsFile& other : files_)
        if (other.find(tensor.name) == at->second)
          throw_error(ErrorKind::kInput, "{}: tensor '{}' is in '{}' too", path.string(),
                      tensor.name, other.path().filename().string());
    }
  metadata_.insert(file.metadata().begin(), file.metadata().end());
}

}  // namespace lram::weights
