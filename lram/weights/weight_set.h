#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "lram/core/safetensors.h"
#include "lram/weights/tensor_files.h"

namespace lram::weights {

/// A tensor described by where its bytes are: spans of mapped files, one behind the other, and what
/// is to be done to them. Nothing is read before write() or bytes(), so that a model larger than
/// memory passes through tensor by tensor.
class WeightTensor {
 public:
  using Transform = std::function<std::vector<std::byte>(std::vector<std::byte>)>;

  WeightTensor() = default;
  explicit WeightTensor(const TensorEntry& entry)
      : dtype(entry.dtype), shape(entry.shape), pieces_{entry.data} {}

  Dtype dtype = Dtype::kF32;
  std::vector<std::int64_t> shape;

  std::vector<std::byte> bytes() const;
  void write(OutputFile& file) const;
  std::uint64_t byte_count() const { return byte_size(dtype, shape).value_or(0); }

  /// Rows [begin, end) of the first dimension. Not after a transform.
  WeightTensor rows(std::int64_t begin, std::int64_t end) const;
  /// The tensors' rows one behind the other; types and other sizes must agree.
  static WeightTensor stack_rows(const std::vector<WeightTensor>& parts);
  /// The same numbers in the same order under another shape.
  WeightTensor reshaped(std::vector<std::int64_t> to) const;
  /// Axis i of the result is axis `axes[i]` of this one.
  WeightTensor permuted(const std::vector<std::size_t>& axes) const;
  /// [A, R, ...] -> [A, R - 1, ...] without row 0 of each A, and back with a row of zeros.
  WeightTensor without_first_rows() const;
  WeightTensor with_zero_rows_first() const;
  /// Every value times `factor`, rounded to the type; F32 and F64 only.
  WeightTensor scaled(double factor) const;
  /// Zeros.
  static WeightTensor zeros(Dtype dtype, std::vector<std::int64_t> shape);
  bool all_zero() const;  ///< bit for bit, but for the sign
  bool operator==(const WeightTensor& other) const;

 private:
  std::vector<std::span<const std::byte>> pieces_;
  std::vector<Transform> transforms_;
};

/// Tensors by name.
using WeightSet = std::map<std::string, WeightTensor>;

/// The tensors of `files`, which must outlive the set.
WeightSet weight_set(const TensorFiles& files);

/// Adds a tensor. Throws Error(kInput) that begins with `where` if the name is taken.
void add(WeightSet& set, const std::string& name, WeightTensor tensor, const std::string& where);

/// A tensor that a model has.
struct WantedTensor {
  std::string name;
  std::vector<std::int64_t> shape;
  bool required = true;
};

/// The set holds each required tensor, no tensor that is not wanted, and all of them in floating
/// point and the wanted shape. Throws Error(kInput) that begins with `where`. `model` names what
/// the tensors belong to: "an xLSTM v1 model".
void check_tensors(const WeightSet& set, const std::vector<WantedTensor>& wanted,
                   const std::string& model, const std::string& where);

/// Larger sizes than any model's are refused, so that products of a few stay within 64 bits.
inline constexpr std::int64_t kMaxSize = std::int64_t{1} << 28;

/// Size `axis` of a tensor. Throws Error(kInput) when the tensor is absent, has another rank or a
/// size above kMaxSize.
std::int64_t size_of(const WeightSet& set, const std::string& name, std::size_t axis,
                     std::size_t rank, const std::string& where);

/// How many blocks there are: names begin with `prefix`, a number and a dot. Throws Error(kInput)
/// when a number is left out or there is none.
std::int64_t count_blocks(const WeightSet& set, const std::string& prefix,
                          const std::string& where);

}  // namespace lram::weights
