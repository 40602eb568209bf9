// Writing: the HDF5 structures of a data set, made in memory.
#include <algorithm>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "datasets/hdf5_file.h"
#include "datasets/hdf5_handle.h"
#include "lram/core/json.h"
#include "lram/core/text.h"

namespace lram::datasets {
namespace {
constexpr std::size_t kMetadataBlock = 64 << 10;  // all structures in front of the arrays

template <typename Result>
Result check(Result result, const char* action) {
  if (result < 0)
    throw_error(ErrorKind::kInternal, "HDF5 cannot {}: {}", action, Hdf5Session::last_error());
  return result;
}

Hdf5Handle type_of(ElementType type, std::int64_t size) {
  const auto copy = [](hid_t id) {
    return Hdf5Handle(check(H5Tcopy(id), "copy a type"), H5Tclose);
  };
  switch (type) {
    case ElementType::kFloat32:
      return copy(H5T_IEEE_F32LE);
    case ElementType::kFloat64:
      return copy(H5T_IEEE_F64LE);
    case ElementType::kInt32:
      return copy(H5T_STD_I32LE);
    case ElementType::kInt64:
      return copy(H5T_STD_I64LE);
    case ElementType::kUint8:
      return copy(H5T_STD_U8LE);
    case ElementType::kUint64:
      return copy(H5T_STD_U64LE);
    case ElementType::kString:
      break;
  }
  Hdf5Handle text = copy(H5T_C_S1);
  check(H5Tset_size(text, static_cast<std::size_t>(size)), "size a string");
  check(H5Tset_strpad(text, H5T_STR_NULLPAD), "pad a string");
  check(H5Tset_cset(text, H5T_CSET_UTF8), "set the encoding of a string");
  return text;
}

void write_attribute(hid_t object, const char* name, hid_t file_type, hid_t memory_type,
                     const void* value) {
  const Hdf5Handle space(check(H5Screate(H5S_SCALAR), "make a scalar"), H5Sclose);
  const Hdf5Handle attribute(
      check(H5Acreate2(object, name, file_type, space, H5P_DEFAULT, H5P_DEFAULT),
            "make an attribute"),
      H5Aclose);
  check(H5Awrite(attribute, memory_type, value), "write an attribute");
}

void write_attribute(hid_t object, const char* name, const std::string& text) {
  const Hdf5Handle type =
      type_of(ElementType::kString, std::max<std::int64_t>(1, std::ssize(text)));
  write_attribute(object, name, type, type, text.c_str());
}

// The memory behind HDF5's "core" file, handed over when the file is closed.
struct CoreMemory {
  std::size_t size = 0;
  std::vector<std::byte> at_close;

  static void* resize(void* memory, std::size_t size, H5FD_file_image_op_t, void* self) {
    static_cast<CoreMemory*>(self)->size = size;
    return std::realloc(memory, size);
  }
  static herr_t release(void* memory, H5FD_file_image_op_t operation, void* self) {
    auto& core = *static_cast<CoreMemory*>(self);
    const auto* bytes = static_cast<const std::byte*>(memory);
    if (operation == H5FD_FILE_IMAGE_OP_FILE_CLOSE) core.at_close.assign(bytes, bytes + core.size);
    std::free(memory);
    return 0;
  }
  static void* share(void* self) { return self; }
  static herr_t unshare(void*) { return 0; }
};

Hdf5Handle access_properties(CoreMemory& memory) {
  Hdf5Handle access(check(H5Pcreate(H5P_FILE_ACCESS), "make access properties"), H5Pclose);
  check(H5Pset_fapl_core(access, kMetadataBlock, /*backing_store=*/false), "choose memory");
  H5FD_file_image_callbacks_t callbacks{
      [](std::size_t size, H5FD_file_image_op_t operation, void* self) {
        return CoreMemory::resize(nullptr, size, operation, self);
      },
      nullptr,
      CoreMemory::resize,
      CoreMemory::release,
      CoreMemory::share,
      CoreMemory::unshare,
      &memory};
  check(H5Pset_file_image_callbacks(access, &callbacks), "watch its memory");
  // Version 1.8 of the structures: they carry checksums, and every h5py reads them.
  check(H5Pset_libver_bounds(access, H5F_LIBVER_V18, H5F_LIBVER_V18), "choose a version");
  check(H5Pset_alignment(access, 1, kAlignment), "align");
  check(H5Pset_meta_block_size(access, kMetadataBlock), "size the metadata block");
  check(H5Pset_small_data_block_size(access, 0), "place small arrays");
  return access;
}

// Without dates, equal episodes make equal files.
Hdf5Handle undated_properties(hid_t kind) {
  Hdf5Handle create(check(H5Pcreate(kind), "make properties"), H5Pclose);
  check(H5Pset_obj_track_times(create, false), "leave the date out");
  return create;
}

std::uint64_t create_array(hid_t file, const ArraySpec& array, std::uint32_t crc) {
  const std::vector<hsize_t> shape(array.shape.begin(), array.shape.end());
  const Hdf5Handle space(
      check(H5Screate_simple(static_cast<int>(shape.size()), shape.data(), nullptr),
            "make a shape"),
      H5Sclose);
  const Hdf5Handle create = undated_properties(H5P_DATASET_CREATE);
  check(H5Pset_layout(create, H5D_CONTIGUOUS), "lay out an array");
  check(H5Pset_alloc_time(create, H5D_ALLOC_TIME_EARLY), "allocate an array");
  check(H5Pset_fill_time(create, H5D_FILL_TIME_NEVER), "leave an array unfilled");
  const Hdf5Handle type = type_of(array.type, array.element_size);
  const Hdf5Handle dataset(
      check(H5Dcreate2(file, array.path.c_str(), type, space, H5P_DEFAULT, create, H5P_DEFAULT),
            "make an array"),
      H5Dclose);
  write_attribute(dataset, "crc32c", H5T_STD_U32LE, H5T_NATIVE_UINT32, &crc);
  const haddr_t offset = H5Dget_offset(dataset);
  if (offset == HADDR_UNDEF || offset % kAlignment != 0)
    throw_error(ErrorKind::kInternal, "HDF5 placed {} at {}, wanted a multiple of {}", array.path,
                offset, kAlignment);
  return offset;
}
}  // namespace

FileImage make_file_image(const TaskSpec& spec, const Generator& generator,
                          std::span<const ArraySpec> arrays, std::span<const std::uint32_t> crcs) {
  const Hdf5Session session;
  CoreMemory memory;
  const Hdf5Handle access = access_properties(memory);
  const Hdf5Handle in_file = undated_properties(H5P_FILE_CREATE);
  Hdf5Handle file(check(H5Fcreate("image", H5F_ACC_TRUNC, in_file, access), "make a file"),
                  H5Fclose);
  const std::int64_t version = kFormatVersion;
  write_attribute(file, "format_version", H5T_STD_I64LE, H5T_NATIVE_INT64, &version);
  write_attribute(file, "task", spec.id);
  write_attribute(file, "spec", json_text(nlohmann::json(spec)));
  write_attribute(file, "generator", generator.name);
  write_attribute(file, "generator_version", generator.version);
  const Hdf5Handle in_group = undated_properties(H5P_GROUP_CREATE);
  Hdf5Handle(
      check(H5Gcreate2(file, "/episodes", H5P_DEFAULT, in_group, H5P_DEFAULT), "make a group"),
      H5Gclose);
  FileImage image;
  for (std::size_t i = 0; i < arrays.size(); ++i)
    image.offsets.push_back(create_array(file, arrays[i], crcs[i]));
  if (!std::ranges::is_sorted(image.offsets))
    throw_error(ErrorKind::kInternal, "HDF5 placed the arrays at {}, wanted their own order",
                joined(image.offsets));
  check(file.close(), "close a file");
  image.bytes = std::move(memory.at_close);
  image.size = superblock_end(image.bytes);
  return image;
}
}  // namespace lram::datasets
