#include "lram/core/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "lram/core/error.h"
#include "lram/core/json.h"
#include "lram/core/text.h"

namespace lram {
static_assert(std::endian::native == std::endian::little, "safetensors data are little endian");
namespace fs = std::filesystem;
namespace {
using nlohmann::json;

constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;
constexpr std::size_t kLengthBytes = 8;
constexpr std::size_t kMaxRank = 64;

struct DtypeInfo {
  std::string_view name;
  std::size_t size;
};
constexpr DtypeInfo kDtypes[] = {{"BOOL", 1}, {"U8", 1},   {"I8", 1},  {"I16", 2}, {"U16", 2},
                                 {"F16", 2},  {"BF16", 2}, {"I32", 4}, {"U32", 4}, {"F32", 4},
                                 {"F64", 8},  {"I64", 8},  {"U64", 8}};

std::optional<Dtype> dtype_of(std::string_view name) {
  for (std::size_t i = 0; i < std::size(kDtypes); ++i)
    if (kDtypes[i].name == name) return static_cast<Dtype>(i);
  return std::nullopt;
}

struct HeaderEntry {
  TensorEntry tensor;
  std::uint64_t begin = 0, end = 0;
};

/// Takes the header's JSON event by event, so that nothing but the tensors' descriptions is ever
/// held and a key given twice is seen (a parsed document would keep one of them).
class HeaderReader : public nlohmann::json_sax<json> {
 public:
  explicit HeaderReader(std::string file) : file_(std::move(file)) {}

  std::vector<HeaderEntry> entries;
  TensorMetadata metadata;

  bool key(string_t& name) override {
    if (depth_ == 1) {
      if (!names_.insert(name).second) fail("key '{}' is there twice", name);
      in_metadata_ = name == "__metadata__";
      if (!in_metadata_) {
        entries.emplace_back().tensor.name = name;
        seen_ = {};
      }
      name_ = name;
    } else if (in_metadata_) {
      if (metadata.contains(name)) fail("__metadata__: key '{}' is there twice", name);
      field_ = name;
    } else {
      const auto at = std::find(std::begin(kFields), std::end(kFields), name);
      if (at == std::end(kFields))
        fail("tensor '{}': unknown key '{}', wanted dtype, shape and data_offsets", name_, name);
      bool& seen = seen_[static_cast<std::size_t>(at - std::begin(kFields))];
      if (seen) fail("tensor '{}': key '{}' is there twice", name_, name);
      seen = true;
      field_ = name;
    }
    return true;
  }

  bool start_object(std::size_t) override {
    if (depth_ >= 2 || in_array_) unexpected("an object");
    ++depth_;
    return true;
  }
  bool end_object() override {
    --depth_;
    if (depth_ == 1 && !in_metadata_)
      for (std::size_t i = 0; i < std::size(kFields); ++i)
        if (!seen_[i]) fail("tensor '{}': no key '{}'", name_, kFields[i]);
    return true;
  }
  bool start_array(std::size_t) override {
    if (depth_ != 2 || in_array_ || in_metadata_ || field_ == "dtype") unexpected("an array");
    in_array_ = true;
    offsets_ = 0;
    return true;
  }
  bool end_array() override {
    in_array_ = false;
    if (field_ == "data_offsets" && offsets_ != 2)
      fail("tensor '{}': data_offsets has {} numbers, wanted 2", name_, offsets_);
    return true;
  }
  bool string(string_t& text) override {
    if (depth_ == 2 && in_metadata_) {
      metadata[field_] = text;
    } else if (depth_ == 2 && !in_array_ && field_ == "dtype") {
      const auto dtype = dtype_of(text);
      if (!dtype) fail("tensor '{}': dtype '{}' is not known", name_, text);
      entries.back().tensor.dtype = *dtype;
    } else {
      unexpected(fmt::format("the text '{}'", text));
    }
    return true;
  }
  bool number_unsigned(number_unsigned_t value) override {
    if (!in_array_) unexpected(fmt::format("the number {}", value));
    HeaderEntry& entry = entries.back();
    if (field_ == "shape") {
      if (value > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
        fail("tensor '{}': shape has a size of {}", name_, value);
      if (entry.tensor.shape.size() == kMaxRank)
        fail("tensor '{}': shape has more than {} sizes", name_, kMaxRank);
      entry.tensor.shape.push_back(static_cast<std::int64_t>(value));
    } else {
      if (offsets_ < 2) (offsets_ == 0 ? entry.begin : entry.end) = value;
      ++offsets_;
    }
    return true;
  }
  bool number_integer(number_integer_t value) override {
    unexpected(fmt::format("the number {}", value));
  }
  bool number_float(number_float_t, const string_t& text) override {
    unexpected(fmt::format("the number {}", text));
  }
  bool null() override { unexpected("null"); }
  bool boolean(bool value) override { unexpected(value ? "true" : "false"); }
  bool binary(binary_t&) override { unexpected("binary data"); }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    fail("the header is not valid JSON at its byte {}", position);
  }

 private:
  static constexpr std::string_view kFields[] = {"dtype", "shape", "data_offsets"};

  template <typename... Args>
  [[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) const {
    throw_error(ErrorKind::kInput, "{}: {}", file_,
                fmt::format(format, std::forward<Args>(args)...));
  }
  [[noreturn]] void unexpected(const std::string& what) const {
    if (depth_ == 0) fail("the header is {}, wanted an object", what);
    if (depth_ == 1) fail("'{}' is {}, wanted an object", name_, what);
    if (in_metadata_) fail("__metadata__: '{}' is {}, wanted a text", field_, what);
    fail("tensor '{}': {} holds {}, wanted {}", name_, field_, what,
         field_ == "dtype" ? "a text" : "an array of whole numbers from 0 on");
  }

  std::string file_;
  int depth_ = 0;  ///< objects open
  bool in_array_ = false, in_metadata_ = false;
  std::string name_, field_;  ///< current keys of depth 1 and 2
  std::set<std::string> names_;
  std::array<bool, 3> seen_{};
  int offsets_ = 0;
};

}  // namespace

std::size_t dtype_size(Dtype dtype) { return kDtypes[static_cast<std::size_t>(dtype)].size; }
std::string_view dtype_name(Dtype dtype) { return kDtypes[static_cast<std::size_t>(dtype)].name; }

bool is_floating(Dtype dtype) {
  return dtype == Dtype::kF16 || dtype == Dtype::kBF16 || dtype == Dtype::kF32 ||
         dtype == Dtype::kF64;
}

std::optional<std::uint64_t> byte_size(Dtype dtype, std::span<const std::int64_t> shape) {
  std::uint64_t bytes = dtype_size(dtype);
  std::uint64_t count = 1;
  for (std::int64_t size : shape)
    if (__builtin_mul_overflow(count, static_cast<std::uint64_t>(size), &count))
      return std::nullopt;
  if (__builtin_mul_overflow(bytes, count, &bytes)) return std::nullopt;
  return bytes;
}

SafetensorsContent parse_safetensors(std::span<const std::byte> bytes, const std::string& where) {
  if (bytes.size() < kLengthBytes)
    throw_error(ErrorKind::kInput, "{}: {} bytes, a safetensors file has at least 8", where,
                bytes.size());
  std::uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, bytes.data(), kLengthBytes);
  if (header_bytes > kMaxHeaderBytes)
    throw_error(ErrorKind::kInput, "{}: header of {} bytes, wanted at most {}", where, header_bytes,
                kMaxHeaderBytes);
  if (header_bytes > bytes.size() - kLengthBytes)
    throw_error(ErrorKind::kInput, "{}: header of {} bytes in a file of {}", where, header_bytes,
                bytes.size());
  const auto* text = reinterpret_cast<const char*>(bytes.data()) + kLengthBytes;
  if (header_bytes == 0 || text[0] != '{')
    throw_error(ErrorKind::kInput, "{}: the header does not begin with '{{'", where);

  // To the parser a NUL is the end of the text, whatever stands behind it.
  if (const void* nul = std::memchr(text, 0, header_bytes))
    throw_error(ErrorKind::kInput, "{}: the header is not valid JSON at its byte {}", where,
                static_cast<const char*>(nul) - text + 1);

  HeaderReader header(where);
  json::sax_parse(text, text + header_bytes, &header);
  SafetensorsContent content;
  content.metadata = std::move(header.metadata);

  auto& entries = header.entries;
  std::stable_sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  const auto data = bytes.subspan(kLengthBytes + header_bytes);
  std::uint64_t position = 0;
  for (const HeaderEntry& entry : entries) {
    const TensorEntry& tensor = entry.tensor;
    const auto found = fmt::format("{}: tensor '{}': data_offsets [{}, {}]", where, tensor.name,
                                   entry.begin, entry.end);
    if (entry.begin != position)
      throw_error(ErrorKind::kInput, "{} {} at {}, wanted a begin of {}", found,
                  entry.begin < position ? "overlap the data" : "leave a hole",
                  std::min(entry.begin, position), position);
    if (entry.end < entry.begin)
      throw_error(ErrorKind::kInput, "{}: the end lies before the begin", found);
    const auto want = byte_size(tensor.dtype, tensor.shape);
    if (!want)
      throw_error(ErrorKind::kInput, "{}: tensor '{}': shape [{}] of {} overflows 64 bits", where,
                  tensor.name, joined(tensor.shape), dtype_name(tensor.dtype));
    if (entry.end - entry.begin != *want)
      throw_error(ErrorKind::kInput, "{}: {} bytes, but shape [{}] of {} wants {}", found,
                  entry.end - entry.begin, joined(tensor.shape), dtype_name(tensor.dtype), *want);
    position = entry.end;
  }
  if (position != data.size())
    throw_error(ErrorKind::kInput, "{}: {} bytes of data behind the header, the tensors want {}",
                where, data.size(), position);

  for (HeaderEntry& entry : entries) {
    entry.tensor.data = data.subspan(entry.begin, entry.end - entry.begin);
    content.tensors.push_back(std::move(entry.tensor));
  }
  return content;
}

SafetensorsFile::SafetensorsFile(const fs::path& path)
    : file_(path), content_(parse_safetensors(file_.bytes(), path.string())) {
  for (std::size_t i = 0; i < tensors().size(); ++i) index_.emplace(tensors()[i].name, i);
}

const TensorEntry* SafetensorsFile::find(std::string_view name) const {
  const auto at = index_.find(name);
  return at == index_.end() ? nullptr : &tensors()[at->second];
}

const TensorEntry& SafetensorsFile::at(std::string_view name) const {
  const TensorEntry* tensor = find(name);
  if (tensor == nullptr)
    throw_error(ErrorKind::kInput, "{}: no tensor '{}'", path().string(), name);
  return *tensor;
}

void write_safetensors(const fs::path& path, std::vector<TensorEntry> tensors,
                       const TensorMetadata& metadata) {
  std::vector<TensorSource> sources;
  for (TensorEntry& tensor : tensors) {
    LRAM_CHECK(byte_size(tensor.dtype, tensor.shape) == tensor.data.size(), path.string(),
               ": tensor '", tensor.name, "' has ", tensor.data.size(),
               " bytes, which its shape does not want");
    sources.push_back({std::move(tensor.name), tensor.dtype, std::move(tensor.shape),
                       [data = tensor.data](OutputFile& file) { file.write(data); }});
  }
  stream_safetensors(path, std::move(sources), metadata);
}

void stream_safetensors(const fs::path& path, std::vector<TensorSource> tensors,
                        const TensorMetadata& metadata) {
  std::sort(tensors.begin(), tensors.end(), [](const TensorSource& a, const TensorSource& b) {
    return a.dtype != b.dtype ? a.dtype > b.dtype : a.name < b.name;
  });
  std::string header = "{";
  if (!metadata.empty()) header += "\"__metadata__\":" + json_text(json(metadata));
  std::set<std::string_view> names;
  std::vector<std::uint64_t> ends;
  for (const TensorSource& tensor : tensors) {
    LRAM_CHECK(names.insert(tensor.name).second, path.string(), ": tensor '", tensor.name,
               "' is given twice");
    LRAM_CHECK(tensor.name != "__metadata__", path.string(), ": no tensor can be called so");
    const std::uint64_t begin = ends.empty() ? 0 : ends.back();
    const auto bytes = byte_size(tensor.dtype, tensor.shape);
    LRAM_CHECK(bytes.has_value(), path.string(), ": tensor '", tensor.name, "' is too large");
    ends.push_back(begin + *bytes);
    if (header.size() > 1) header += ',';
    header += fmt::format("{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}",
                          json_text(json(tensor.name)), dtype_name(tensor.dtype),
                          joined(tensor.shape, ","), begin, ends.back());
  }
  header += '}';
  header.append((8 - header.size() % 8) % 8, ' ');
  LRAM_CHECK(header.size() <= kMaxHeaderBytes, path.string(), ": header of ", header.size(),
             " bytes, wanted at most ", kMaxHeaderBytes);

  write_file_atomically(path, [&](OutputFile& file) {
    const std::uint64_t header_bytes = header.size();
    file.write(std::as_bytes(std::span(&header_bytes, 1)));
    file.write(header);
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      tensors[i].write(file);
      LRAM_CHECK(file.size() == kLengthBytes + header_bytes + ends[i], path.string(), ": tensor '",
                 tensors[i].name, "' wrote another number of bytes than its shape wants");
    }
  });
}

}  // namespace lram
