#include "lram/weights/weight_set.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <numeric>
#include <set>

#include "lram/core/error.h"
#include "lram/core/text.h"

namespace lram::weights {
namespace {
std::string text(const std::vector<std::int64_t>& shape) {
  return fmt::format("[{}]", joined(shape));
}

/// Gathers elements of `width` bytes: axis i of the result is axis axes[i] of the source.
std::vector<std::byte> permute(const std::vector<std::byte>& in,
                               const std::vector<std::int64_t>& shape,
                               const std::vector<std::size_t>& axes, std::size_t width) {
  std::vector<std::size_t> strides(shape.size(), width);  // bytes, of the source
  for (std::size_t i = shape.size() - 1; i > 0; --i)
    strides[i - 1] = strides[i] * static_cast<std::size_t>(shape[i]);
  std::vector<std::byte> out(in.size());
  std::vector<std::int64_t> at(shape.size(), 0);
  for (std::size_t to = 0; to < out.size(); to += width) {
    std::size_t from = 0;
    for (std::size_t i = 0; i < axes.size(); ++i)
      from += static_cast<std::size_t>(at[i]) * strides[axes[i]];
    std::memcpy(out.data() + to, in.data() + from, width);
    for (std::size_t i = axes.size(); i-- > 0;) {
      if (++at[i] < shape[axes[i]]) break;
      at[i] = 0;
    }
  }
  return out;
}

template <typename Value>
void scale(std::vector<std::byte>& data, double factor) {
  for (std::size_t at = 0; at < data.size(); at += sizeof(Value)) {
    Value value;
    std::memcpy(&value, data.data() + at, sizeof(Value));
    value = static_cast<Value>(static_cast<double>(value) * factor);
    std::memcpy(data.data() + at, &value, sizeof(Value));
  }
}

/// The number behind `prefix` in "prefix12.rest".
std::optional<std::int64_t> block_number(const std::string& name, const std::string& prefix) {
  if (!name.starts_with(prefix)) return std::nullopt;
  std::int64_t number = 0;
  const char* begin = name.data() + prefix.size();
  const char* end = name.data() + name.size();
  const auto [rest, error] = std::from_chars(begin, end, number);
  if (error != std::errc() || rest == end || *rest != '.' || number < 0) return std::nullopt;
  if (fmt::format("{}", number) != std::string(begin, rest)) return std::nullopt;  // "01"
  return number;
}
}  // namespace

std::vector<std::byte> WeightTensor::bytes() const {
  std::vector<std::byte> out;
  out.reserve(byte_count());
  for (const auto& piece : pieces_) out.insert(out.end(), piece.begin(), piece.end());
  for (const Transform& transform : transforms_) out = transform(std::move(out));
  return out;
}

void WeightTensor::write(OutputFile& file) const {
  if (transforms_.empty())
    for (const auto& piece : pieces_) file.write(piece);
  else
    file.write(bytes());
}

WeightTensor WeightTensor::rows(std::int64_t begin, std::int64_t end) const {
  LRAM_CHECK(transforms_.empty() && !shape.empty() && 0 <= begin && begin <= end && end <= shape[0],
             "rows ", begin, " to ", end, " of a tensor of shape ", text(shape));
  WeightTensor out;
  out.dtype = dtype;
  out.shape = shape;
  out.shape[0] = end - begin;
  const std::uint64_t row = shape[0] == 0 ? 0 : byte_count() / static_cast<std::uint64_t>(shape[0]);
  std::uint64_t skip = row * static_cast<std::uint64_t>(begin), take = out.byte_count();
  for (const auto& piece : pieces_) {
    const std::uint64_t from = std::min<std::uint64_t>(skip, piece.size());
    const std::uint64_t count = std::min<std::uint64_t>(take, piece.size() - from);
    if (count > 0) out.pieces_.push_back(piece.subspan(from, count));
    skip -= from;
    take -= count;
  }
  return out;
}

WeightTensor WeightTensor::stack_rows(const std::vector<WeightTensor>& parts) {
  WeightTensor out = parts.at(0);
  for (std::size_t i = 1; i < parts.size(); ++i) {
    LRAM_CHECK(parts[i].dtype == out.dtype && parts[i].transforms_.empty() &&
                   parts[i].shape.size() == out.shape.size() &&
                   std::equal(out.shape.begin() + 1, out.shape.end(), parts[i].shape.begin() + 1),
               "stacking tensors of shapes ", text(out.shape), " and ", text(parts[i].shape));
    out.shape[0] += parts[i].shape[0];
    out.pieces_.insert(out.pieces_.end(), parts[i].pieces_.begin(), parts[i].pieces_.end());
  }
  return out;
}

WeightTensor WeightTensor::reshaped(std::vector<std::int64_t> to) const {
  WeightTensor out = *this;
  out.shape = std::move(to);
  LRAM_CHECK(out.byte_count() == byte_count(), "shape ", text(shape), " as ", text(out.shape));
  return out;
}

WeightTensor WeightTensor::permuted(const std::vector<std::size_t>& axes) const {
  LRAM_CHECK(axes.size() == shape.size(), axes.size(), " axes for shape ", text(shape));
  WeightTensor out = *this;
  for (std::size_t i = 0; i < axes.size(); ++i) out.shape[i] = shape.at(axes[i]);
  out.transforms_.push_back(
      [from = shape, axes, width = dtype_size(dtype)](const std::vector<std::byte>& data) {
        return permute(data, from, axes, width);
      });
  return out;
}

WeightTensor WeightTensor::without_first_rows() const {
  LRAM_CHECK(shape.size() >= 2 && shape[1] >= 1, "shape ", text(shape), " has no second rows");
  WeightTensor out = *this;
  --out.shape[1];
  const std::size_t groups = static_cast<std::size_t>(shape[0]);
  out.transforms_.push_back([groups, keep = out.byte_count()](const std::vector<std::byte>& data) {
    std::vector<std::byte> kept;
    for (std::size_t g = 0; g < groups; ++g) {
      const auto end = data.begin() + static_cast<std::ptrdiff_t>((g + 1) * (data.size() / groups));
      kept.insert(kept.end(), end - static_cast<std::ptrdiff_t>(keep / groups), end);
    }
    return kept;
  });
  return out;
}

WeightTensor WeightTensor::with_zero_rows_first() const {
  LRAM_CHECK(shape.size() >= 2, "shape ", text(shape), " has no second rows");
  WeightTensor out = *this;
  ++out.shape[1];
  const std::size_t groups = static_cast<std::size_t>(shape[0]);
  out.transforms_.push_back([groups, size = out.byte_count()](const std::vector<std::byte>& data) {
    std::vector<std::byte> padded(size);
    for (std::size_t g = 0; g < groups; ++g)
      std::copy_n(data.begin() + static_cast<std::ptrdiff_t>(g * (data.size() / groups)),
                  data.size() / groups,
                  padded.begin() + static_cast<std::ptrdiff_t>((g + 1) * (size / groups) -
                                                               data.size() / groups));
    return padded;
  });
  return out;
}

WeightTensor WeightTensor::scaled(double factor) const {
  LRAM_CHECK(dtype == Dtype::kF32 || dtype == Dtype::kF64, "values of type ", dtype_name(dtype),
             " are not scaled, wanted F32 or F64");
  WeightTensor out = *this;
  out.transforms_.push_back([factor, type = dtype](std::vector<std::byte> data) {
    if (type == Dtype::kF32)
      scale<float>(data, factor);
    else
      scale<double>(data, factor);
    return data;
  });
  return out;
}

WeightTensor WeightTensor::zeros(Dtype type, std::vector<std::int64_t> shape) {
  WeightTensor out;
  out.dtype = type;
  out.shape = std::move(shape);
  out.transforms_.push_back([size = out.byte_count()](const std::vector<std::byte>&) {
    return std::vector<std::byte>(size);
  });
  return out;
}

bool WeightTensor::all_zero() const {
  const std::vector<std::byte> data = bytes();
  const std::size_t width = dtype_size(dtype);
  for (std::size_t i = 0; i < data.size(); ++i) {
    const bool sign_byte = is_floating(dtype) && i % width == width - 1;
    if ((data[i] & std::byte{static_cast<unsigned char>(sign_byte ? 0x7f : 0xff)}) != std::byte{0})
      return false;
  }
  return true;
}

bool WeightTensor::operator==(const WeightTensor& other) const {
  return dtype == other.dtype && shape == other.shape && bytes() == other.bytes();
}

WeightSet weight_set(const TensorFiles& files) {
  WeightSet out;
  for (const auto& [name, entry] : files.tensors())
    out.emplace(std::string(name), WeightTensor(*entry));
  return out;
}

void add(WeightSet& set, const std::string& name, WeightTensor tensor, const std::string& where) {
  if (!set.emplace(name, std::move(tensor)).second)
    throw_error(ErrorKind::kInput, "{}: two tensors stand for '{}'", where, name);
}

void check_tensors(const WeightSet& set, const std::vector<WantedTensor>& wanted,
                   const std::string& model, const std::string& where) {
  std::set<std::string> names;
  for (const WantedTensor& one : wanted) {
    names.insert(one.name);
    const auto at = set.find(one.name);
    if (at == set.end()) {
      if (one.required)
        throw_error(ErrorKind::kInput, "{}: no tensor '{}', wanted one of shape {}", where,
                    one.name, text(one.shape));
      continue;
    }
    if (at->second.shape != one.shape)
      throw_error(ErrorKind::kInput, "{}: tensor '{}' has shape {}, wanted {}", where, one.name,
                  text(at->second.shape), text(one.shape));
    if (!is_floating(at->second.dtype))
      throw_error(ErrorKind::kInput, "{}: tensor '{}' is of type {}, wanted a floating type", where,
                  one.name, dtype_name(at->second.dtype));
  }
  for (const auto& [name, tensor] : set)
    if (!names.contains(name)) {
      const std::string near = nearest_name(name, {names.begin(), names.end()});
      throw_error(ErrorKind::kInput, "{}: tensor '{}' of shape {} is no part of {}{}", where, name,
                  text(tensor.shape), model,
                  near.empty() ? "" : fmt::format(", did you mean '{}'?", near));
    }
}

std::int64_t size_of(const WeightSet& set, const std::string& name, std::size_t axis,
                     std::size_t rank, const std::string& where) {
  const auto at = set.find(name);
  if (at == set.end()) throw_error(ErrorKind::kInput, "{}: no tensor '{}'", where, name);
  if (at->second.shape.size() != rank)
    throw_error(ErrorKind::kInput, "{}: tensor '{}' has shape {}, wanted {} sizes", where, name,
                text(at->second.shape), rank);
  for (const std::int64_t size : at->second.shape)
    if (size > kMaxSize)
      throw_error(ErrorKind::kInput, "{}: tensor '{}' has a size of {}, wanted at most {}", where,
                  name, size, kMaxSize);
  return at->second.shape[axis];
}

std::int64_t count_blocks(const WeightSet& set, const std::string& prefix,
                          const std::string& where) {
  std::set<std::int64_t> numbers;
  for (const auto& [name, tensor] : set)
    if (const auto number = block_number(name, prefix)) numbers.insert(*number);
  if (numbers.empty())
    throw_error(ErrorKind::kInput, "{}: no tensor '{}0...', wanted at least one block", where,
                prefix);
  std::int64_t next = 0;
  for (const std::int64_t number : numbers)
    if (number != next++)
      throw_error(ErrorKind::kInput, "{}: tensors of block {}{}, but none of block {}{}", where,
                  prefix, number, prefix, next - 1);
  return next;
}

}  // namespace lram::weights
