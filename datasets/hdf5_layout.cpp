// Reading: where the arrays of a data set lie, believed only after it was checked.
#include <algorithm>
#include <array>
#include <cstring>
#include <nlohmann/json.hpp>

#include "datasets/hdf5_file.h"
#include "datasets/hdf5_handle.h"
#include "lram/core/json.h"
#include "lram/core/text.h"

#if defined(__SANITIZE_ADDRESS__)
// Version 1.10 leaks some hundred bytes where a checksum of a damaged file does not fit.
extern "C" const char* __lsan_default_suppressions() { return "leak:libhdf5"; }
extern "C" const char* __lsan_default_options() { return "print_suppressions=0"; }
#endif

namespace lram::datasets {
namespace {
constexpr std::size_t kMaxText = 1 << 24;  // of an attribute, bytes

// Everything about one file that is being read; its failures name the file.
class Reader {
 public:
  Reader(const std::filesystem::path& path, std::size_t size) : path_(path), size_(size) {
    const Hdf5Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
    // Read-only file systems and some network ones refuse locks.
    H5Pset_file_locking(access, /*use_file_locking=*/false, /*ignore_when_disabled=*/true);
    file_ = H5Fopen(path.c_str(), H5F_ACC_RDONLY, access);
    if (file_ < 0) fail("HDF5 cannot open it: {}", Hdf5Session::last_error());
  }
  ~Reader() {
    if (file_ >= 0) H5Fclose(file_);
  }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;

  template <typename... Args>
  [[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) const {
    throw Error(ErrorKind::kInput, fmt::format("{}: {}", path_.string(),
                                               fmt::format(format, std::forward<Args>(args)...)));
  }

  std::string text_attribute(const char* name) const;
  template <typename Value>
  Value number_attribute(hid_t object, const std::string& place, const char* name,
                         hid_t memory_type) const;
  std::int64_t format_version() const;

  Hdf5Handle open_array(const std::string& array) const;
  std::vector<hsize_t> shape(const std::string& array) const;
  /// Size of the one dimension of `array`.
  std::int64_t count(const std::string& array) const;
  std::int64_t string_size(const std::string& array) const;
  /// Checks type, shape and place; returns the offset in the file.
  std::uint64_t locate(const ArraySpec& wanted, std::uint32_t& crc) const;

 private:
  bool has_attribute(hid_t object, const char* name) const;
  bool has_type(hid_t type, const ArraySpec& wanted) const;

  const std::filesystem::path& path_;
  std::uint64_t size_;
  hid_t file_ = H5I_INVALID_HID;
};

bool Reader::has_attribute(hid_t object, const char* name) const {
  const htri_t exists = H5Aexists(object, name);
  if (exists < 0) fail("cannot look for attribute {}: {}", name, Hdf5Session::last_error());
  return exists > 0;
}

std::int64_t Reader::format_version() const {
  if (!has_attribute(file_, "format_version"))
    fail("no attribute format_version: not a data set of LRAM");
  return number_attribute<std::int64_t>(file_, "the file", "format_version", H5T_NATIVE_INT64);
}

std::string Reader::text_attribute(const char* name) const {
  if (!has_attribute(file_, name)) fail("no attribute {}", name);
  const Hdf5Handle attribute(H5Aopen(file_, name, H5P_DEFAULT), H5Aclose);
  const Hdf5Handle type(H5Aget_type(attribute), H5Tclose);
  const Hdf5Handle space(H5Aget_space(attribute), H5Sclose);
  const std::size_t size = H5Tget_size(type);
  if (!attribute.valid() || H5Tget_class(type) != H5T_STRING || H5Tis_variable_str(type) != 0 ||
      H5Sget_simple_extent_npoints(space) != 1 || size == 0 || size > kMaxText)
    fail("attribute {} is no single string of fixed size", name);
  std::string text(size, '\0');
  if (H5Aread(attribute, type, text.data()) < 0)
    fail("attribute {}: {}", name, Hdf5Session::last_error());
  text.resize(std::min(size, text.find('\0')));
  return text;
}

template <typename Value>
Value Reader::number_attribute(hid_t object, const std::string& place, const char* name,
                               hid_t memory_type) const {
  if (!has_attribute(object, name)) fail("{} has no attribute {}", place, name);
  const Hdf5Handle attribute(H5Aopen(object, name, H5P_DEFAULT), H5Aclose);
  const Hdf5Handle type(H5Aget_type(attribute), H5Tclose);
  const Hdf5Handle space(H5Aget_space(attribute), H5Sclose);
  Value value{};
  if (!attribute.valid() || H5Tget_class(type) != H5T_INTEGER ||
      H5Sget_simple_extent_npoints(space) != 1 || H5Aread(attribute, memory_type, &value) < 0)
    fail("attribute {} of {} is no single integer", name, place);
  return value;
}

Hdf5Handle Reader::open_array(const std::string& array) const {
  Hdf5Handle dataset(H5Dopen2(file_, array.c_str(), H5P_DEFAULT), H5Dclose);
  if (!dataset.valid()) fail("cannot open {}: {}", array, Hdf5Session::last_error());
  return dataset;
}

std::vector<hsize_t> Reader::shape(const std::string& array) const {
  const Hdf5Handle dataset = open_array(array);
  const Hdf5Handle space(H5Dget_space(dataset), H5Sclose);
  const int rank = H5Sget_simple_extent_ndims(space);
  std::vector<hsize_t> dims(static_cast<std::size_t>(std::max(rank, 0)));
  if (rank > 0) H5Sget_simple_extent_dims(space, dims.data(), nullptr);
  return dims;
}

std::int64_t Reader::count(const std::string& array) const {
  const std::vector<hsize_t> dims = shape(array);
  if (dims.size() != 1 || dims[0] < 1 || dims[0] > size_)
    fail("{} has shape [{}], wanted one dimension of at least 1 and at most what the file holds",
         array, joined(dims));
  return static_cast<std::int64_t>(dims[0]);
}

std::int64_t Reader::string_size(const std::string& array) const {
  const Hdf5Handle dataset = open_array(array);
  const Hdf5Handle type(H5Dget_type(dataset), H5Tclose);
  if (H5Tget_class(type) != H5T_STRING || H5Tis_variable_str(type) != 0)
    fail("{} holds no strings of fixed size", array);
  return static_cast<std::int64_t>(H5Tget_size(type));
}

const char* type_name(ElementType type) {
  switch (type) {
    case ElementType::kFloat32:
      return "float32";
    case ElementType::kFloat64:
      return "float64";
    case ElementType::kInt32:
      return "int32";
    case ElementType::kInt64:
      return "int64";
    case ElementType::kUint8:
      return "uint8";
    case ElementType::kUint64:
      return "uint64";
    case ElementType::kString:
      return "string";
  }
  return "";
}

std::string describe_type(hid_t type) {
  const auto bits = 8 * H5Tget_size(type);
  const char* order = H5Tget_order(type) == H5T_ORDER_BE ? " big-endian" : "";
  switch (H5Tget_class(type)) {
    case H5T_FLOAT:
      return fmt::format("float{}{}", bits, order);
    case H5T_INTEGER:
      return fmt::format("{}int{}{}", H5Tget_sign(type) == H5T_SGN_NONE ? "u" : "", bits, order);
    case H5T_STRING:
      return "string";
    default:
      return "something else";
  }
}

bool Reader::has_type(hid_t type, const ArraySpec& wanted) const {
  switch (wanted.type) {
    case ElementType::kFloat32:
      return H5Tequal(type, H5T_IEEE_F32LE) > 0;
    case ElementType::kFloat64:
      return H5Tequal(type, H5T_IEEE_F64LE) > 0;
    case ElementType::kInt32:
      return H5Tequal(type, H5T_STD_I32LE) > 0;
    case ElementType::kInt64:
      return H5Tequal(type, H5T_STD_I64LE) > 0;
    case ElementType::kUint8:
      return H5Tequal(type, H5T_STD_U8LE) > 0;
    case ElementType::kUint64:
      return H5Tequal(type, H5T_STD_U64LE) > 0;
    case ElementType::kString:
      return H5Tget_class(type) == H5T_STRING && H5Tis_variable_str(type) == 0;
  }
  return false;
}

std::uint64_t Reader::locate(const ArraySpec& wanted, std::uint32_t& crc) const {
  const Hdf5Handle dataset = open_array(wanted.path);
  const Hdf5Handle type(H5Dget_type(dataset), H5Tclose);
  if (!has_type(type, wanted))
    fail("{} is {}, wanted {}", wanted.path, describe_type(type), type_name(wanted.type));
  const std::vector<hsize_t> dims = shape(wanted.path);
  if (!std::ranges::equal(dims, wanted.shape, [](hsize_t found, std::int64_t want) {
        return want >= 0 && found == static_cast<hsize_t>(want);
      }))
    fail("{} has shape [{}], wanted [{}]", wanted.path, joined(dims), joined(wanted.shape));
  const Hdf5Handle create(H5Dget_create_plist(dataset), H5Pclose);
  if (H5Pget_layout(create) != H5D_CONTIGUOUS || H5Pget_external_count(create) != 0)
    fail("{} is {}, wanted one contiguous piece of this file", wanted.path,
         H5Pget_layout(create) == H5D_CHUNKED ? "chunked" : "not stored in one piece");
  const haddr_t offset = H5Dget_offset(dataset);
  const auto bytes = static_cast<std::uint64_t>(wanted.num_bytes());
  if (offset == HADDR_UNDEF) fail("{} has no place in the file", wanted.path);
  if (offset % kAlignment != 0)
    fail("{} lies at byte {}, wanted a multiple of {}", wanted.path, offset, kAlignment);
  if (offset > size_ || bytes > size_ - offset)
    fail("{} is at byte {} with {} bytes, the file has {}", wanted.path, offset, bytes, size_);
  crc = number_attribute<std::uint32_t>(dataset, wanted.path, "crc32c", H5T_NATIVE_UINT32);
  return offset;
}

TaskSpec parse_spec(const Reader& reader, const std::string& text, const std::string& task) {
  TaskSpec spec;
  try {
    spec = parse_json(text).get<TaskSpec>();
  } catch (const std::exception& error) {
    reader.fail("attribute spec: {}", error.what());
  }
  if (spec.id != task)
    reader.fail("attribute task is '{}', attribute spec is that of '{}'", task, spec.id);
  if (const std::string problem = storage_problem(spec); !problem.empty())
    reader.fail("attribute spec: {}", problem);
  return spec;
}
}  // namespace

std::uint64_t superblock_end(std::span<const std::byte> bytes) {
  constexpr std::array<unsigned char, 9> kStart = {0x89, 'H', 'D', 'F', '\r', '\n', 0x1a, '\n', 2};
  constexpr std::size_t kAt = 28;  // HDF5 file format specification 3.0, II.A
  std::uint64_t end = 0;
  if (bytes.size() < kAt + sizeof end) return 0;
  if (std::memcmp(bytes.data(), kStart.data(), kStart.size()) != 0) return 0;
  std::memcpy(&end, bytes.data() + kAt, sizeof end);
  return end;
}

FileLayout read_file_layout(const std::filesystem::path& path, std::span<const std::byte> mapped) {
  const std::uint64_t end = superblock_end(mapped);
  if (end == 0)
    throw_error(ErrorKind::kInput,
                "{}: {} bytes that do not begin as an HDF5 data set of LRAM does", path.string(),
                mapped.size());
  if (end != mapped.size())
    throw_error(ErrorKind::kInput, "{}: {} bytes, its header wants {}: truncated or overwritten",
                path.string(), mapped.size(), end);
  const Hdf5Session session;
  const Reader reader(path, mapped.size());
  if (const std::int64_t version = reader.format_version(); version != kFormatVersion)
    reader.fail("format_version is {}, this program reads {}", version, kFormatVersion);
  FileLayout layout;
  layout.spec = parse_spec(reader, reader.text_attribute("spec"), reader.text_attribute("task"));
  layout.generator = {reader.text_attribute("generator"),
                      reader.text_attribute("generator_version")};
  layout.arrays = array_specs(layout.spec, reader.count("/episodes/length"),
                              reader.count("/rewards"), reader.string_size("/episodes/variant"));
  for (const ArraySpec& array : layout.arrays) {
    layout.crcs.push_back(0);
    layout.offsets.push_back(reader.locate(array, layout.crcs.back()));
  }
  return layout;
}
}  // namespace lram::datasets
