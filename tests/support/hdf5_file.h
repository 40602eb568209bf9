#pragma once
#include <gtest/gtest.h>
#include <hdf5.h>

#include <cstddef>
#include <filesystem>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

namespace lram::test {

/// Numbers of any type as float64, row-major.
struct Hdf5Array {
  std::vector<std::size_t> shape;
  std::vector<double> values;

  std::size_t rows() const { return shape.at(0); }
  std::span<const double> row(std::size_t i) const {
    const std::size_t width = rows() == 0 ? 0 : values.size() / rows();
    return std::span(values).subspan(i * width, width);
  }
};

/// A golden HDF5 file, read whole arrays at a time. Throws std::runtime_error with path and name.
class Hdf5File {
 public:
  explicit Hdf5File(const std::filesystem::path& path)
      : path_(path), file_(H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT)) {
    if (file_ < 0) fail("cannot open");
  }
  ~Hdf5File() { H5Fclose(file_); }
  Hdf5File(const Hdf5File&) = delete;
  Hdf5File& operator=(const Hdf5File&) = delete;

  bool has(const std::string& name) const {
    return H5Lexists(file_, name.c_str(), H5P_DEFAULT) > 0;
  }

  Hdf5Array array(const std::string& name) const {
    const hid_t set = H5Dopen2(file_, name.c_str(), H5P_DEFAULT);
    if (set < 0) fail(name);
    Hdf5Array out = sized(H5Dget_space(set));
    const herr_t status =
        H5Dread(set, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, out.values.data());
    H5Dclose(set);
    if (status < 0) fail(name);
    return out;
  }

  /// A numeric attribute of a group or array; "/" is the root.
  Hdf5Array attribute(const std::string& object, const std::string& name) const {
    const hid_t at = H5Aopen_by_name(file_, object.c_str(), name.c_str(), H5P_DEFAULT, H5P_DEFAULT);
    if (at < 0) fail(object + "@" + name);
    Hdf5Array out = sized(H5Aget_space(at));
    const herr_t status = H5Aread(at, H5T_NATIVE_DOUBLE, out.values.data());
    H5Aclose(at);
    if (status < 0) fail(object + "@" + name);
    return out;
  }

  /// Names in a group, sorted.
  std::vector<std::string> names(const std::string& group) const {
    std::vector<std::string> out;
    const auto collect = [](hid_t, const char* name, const H5L_info_t*, void* names) -> herr_t {
      static_cast<std::vector<std::string>*>(names)->emplace_back(name);
      return 0;
    };
    if (H5Literate_by_name(file_, group.c_str(), H5_INDEX_NAME, H5_ITER_INC, nullptr, collect, &out,
                           H5P_DEFAULT) < 0)
      fail(group);
    return out;
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw std::runtime_error(path_.string() + ": " + what);
  }
  static Hdf5Array sized(hid_t space) {
    Hdf5Array out;
    std::vector<hsize_t> shape(static_cast<std::size_t>(H5Sget_simple_extent_ndims(space)));
    H5Sget_simple_extent_dims(space, shape.data(), nullptr);
    out.shape.assign(shape.begin(), shape.end());
    out.values.resize(static_cast<std::size_t>(H5Sget_simple_extent_npoints(space)));
    H5Sclose(space);
    return out;
  }

  std::filesystem::path path_;
  hid_t file_;
};

}  // namespace lram::test
