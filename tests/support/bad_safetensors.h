#pragma once
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace lram::test {

/// A file that breaks one rule of the safetensors format.
struct BadFile {
  std::string name;
  std::string rule;  ///< what it breaks
  std::string bytes;
  std::string want;  ///< part of the message
};

/// Header length, header and `data_bytes` zeros.
inline std::string safetensors_bytes(const std::string& header, std::size_t data_bytes,
                                     std::uint64_t length) {
  std::string out(8, '\0');
  std::memcpy(out.data(), &length, 8);
  return out + header + std::string(data_bytes, '\0');
}
inline std::string safetensors_bytes(const std::string& header, std::size_t data_bytes = 0) {
  return safetensors_bytes(header, data_bytes, header.size());
}

/// Files that must be refused, each for one reason.
inline std::vector<BadFile> bad_safetensors() {
  std::vector<BadFile> out;
  const auto add = [&](const std::string& name, const std::string& rule, const std::string& bytes,
                       const std::string& want) {
    out.push_back({name, rule, bytes, want});
  };
  const auto header = [&](const std::string& name, const std::string& rule, const std::string& text,
                          std::size_t data_bytes, const std::string& want) {
    add(name, rule, safetensors_bytes(text, data_bytes), want);
  };
  // One tensor 'a' with the given fields.
  const auto tensor = [&](const std::string& name, const std::string& rule,
                          const std::string& fields, std::size_t data_bytes,
                          const std::string& want) {
    header(name, rule, "{\"a\":{" + fields + "}}", data_bytes, want);
  };
  const std::string kDtype = R"("dtype":"F32")", kShape = R"("shape":[1])",
                    kOffsets = R"("data_offsets":[0,4])";
  const std::string kGood = "{\"a\":{" + kDtype + "," + kShape + "," + kOffsets + "}}";

  // The file as a whole.
  const std::string length_rule = "8 bytes of header length, then the header";
  add("empty", length_rule, "", "0 bytes, a safetensors file has at least 8");
  add("seven_bytes", length_rule, "1234567", "7 bytes, a safetensors file has at least 8");
  add("length_alone", "a header follows the length", safetensors_bytes("", 0, 2),
      "header of 2 bytes in a file of 8");
  add("length_zero", "the header begins with {", safetensors_bytes("", 0, 0),
      "does not begin with '{'");
  add("length_past_end", "the header lies in the file", safetensors_bytes(kGood, 0, 500),
      "header of 500 bytes in a file of");
  add("length_over_limit", "header of at most 100,000,000 bytes",
      safetensors_bytes(kGood, 4, 100'000'001), "header of 100000001 bytes, wanted at most");
  add("length_all_ones", "header of at most 100,000,000 bytes",
      safetensors_bytes(kGood, 4, ~std::uint64_t{0}), "header of 18446744073709551615 bytes");
  add("length_wraps_to_small", "length + 8 is not taken modulo 2^64",
      safetensors_bytes(kGood, 4, ~std::uint64_t{0} - 7), "header of 18446744073709551608 bytes");
  add("length_big_endian", "length is little endian",
      std::string("\0\0\0\0\0\0\0\x3c", 8) + kGood + std::string(4, '\0'),
      "header of 4323455642275676160");
  add("length_one_short", "the header is whole", safetensors_bytes(kGood, 4, kGood.size() - 1),
      "not valid JSON");
  add("length_one_long", "nothing but spaces behind the header's JSON",
      safetensors_bytes(kGood, 4, kGood.size() + 1), "not valid JSON");
  add("zip_file", "the file begins with a length", std::string("PK\x03\x04") + std::string(60, 'z'),
      "header of ");
  add("pickle", "the file begins with a length",
      std::string("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.") +
          std::string(40, '\0'),
      "header of ");
  add("trailing_byte", "the last tensor ends at the file's end", safetensors_bytes(kGood, 5),
      "5 bytes of data behind the header, the tensors want 4");
  add("trailing_garbage", "the last tensor ends at the file's end",
      safetensors_bytes(kGood, 4) + "PK\x05\x06", "8 bytes of data behind the header");
  add("data_missing", "the data lie in the file", safetensors_bytes(kGood, 0),
      "0 bytes of data behind the header, the tensors want 4");
  add("data_cut", "the data lie in the file", safetensors_bytes(kGood, 3),
      "3 bytes of data behind the header, the tensors want 4");
  add("data_without_tensors", "all data belong to a tensor", safetensors_bytes("{}", 4),
      "4 bytes of data behind the header, the tensors want 0");

  // The header as JSON.
  const std::string json_rule = "the header is JSON in UTF-8";
  header("leading_space", "the header begins with {", " {}", 0, "does not begin with '{'");
  header("byte_order_mark", "the header begins with {", "\xef\xbb\xbf{}", 0,
         "does not begin with '{'");
  header("array_header", "the header is an object", "[]", 0, "does not begin with '{'");
  header("text_header", "the header is an object", "\"a\"", 0, "does not begin with '{'");
  header("unclosed", json_rule, "{", 0, "not valid JSON at its byte");
  header("closed_twice", json_rule, "{}}", 0, "not valid JSON at its byte 3");
  header("second_object", json_rule, "{}{}", 0, "not valid JSON");
  header("no_value", json_rule, "{\"a\":}", 0, "not valid JSON");
  header("trailing_comma", json_rule,
         std::string("{").append(kGood, 1, kGood.size() - 2).append(",}"), 4, "not valid JSON");
  header("single_quotes", json_rule, "{'a':{}}", 0, "not valid JSON");
  header("comment", json_rule, "{/* */}", 0, "not valid JSON");
  header("nul_padding", "the header is padded with spaces", kGood + std::string(3, '\0'), 4,
         "not valid JSON");
  header("behind_nul", "the header is one JSON text", kGood + std::string(1, '\0') + "garbage", 4,
         "not valid JSON");
  header("not_utf8", json_rule, "{\"\xff\":{}}", 0, "not valid JSON");
  header("overlong_utf8", json_rule, "{\"\xc0\xaf\":{}}", 0, "not valid JSON");
  header("cut_utf8", json_rule, "{\"\xe2\x82\":{}}", 0, "not valid JSON");
  header("lone_surrogate", json_rule, R"({"\ud800":{}})", 0, "not valid JSON");
  header("control_character", json_rule, "{\"a\nb\":{}}", 0, "not valid JSON");
  header("nan_literal", json_rule, "{\"a\":{" + kDtype + "," + kOffsets + ",\"shape\":[NaN]}}", 4,
         "not valid JSON");
  header("infinity_literal", json_rule,
         "{\"a\":{" + kDtype + "," + kOffsets + ",\"shape\":[Infinity]}}", 4, "not valid JSON");
  header("deep_arrays", "no deeper than the format",
         "{\"a\":{\"shape\":" + std::string(100'000, '[') + std::string(100'000, ']') + "}}", 0,
         "shape holds an array");
  header(
      "deep_objects", "no deeper than the format",
      [] {
        std::string text;
        for (int i = 0; i < 50'000; ++i) text += "{\"a\":";
        return text + "1" + std::string(50'000, '}');
      }(),
      0, "unknown key 'a'");

  // Keys.
  const std::string once = "no key twice";
  header("tensor_twice", once,
         R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
         R"("a":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})",
         8, "key 'a' is there twice");
  header("tensor_twice_escaped", once,
         R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
         R"("\u0061":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})",
         8, "key 'a' is there twice");
  header("metadata_twice", once, R"({"__metadata__":{},"__metadata__":{}})", 0,
         "key '__metadata__' is there twice");
  header("metadata_key_twice", once, R"({"__metadata__":{"k":"","k":""}})", 0,
         "key 'k' is there twice");
  tensor("dtype_twice", once, kDtype + "," + kDtype + "," + kShape + "," + kOffsets, 4,
         "key 'dtype' is there twice");
  tensor("shape_twice", once, kDtype + "," + kShape + "," + kShape + "," + kOffsets, 4,
         "key 'shape' is there twice");
  const std::string fields = "a tensor has dtype, shape and data_offsets";
  tensor("no_fields", fields, "", 0, "tensor 'a': no key 'dtype'");
  tensor("no_dtype", fields, kShape + "," + kOffsets, 4, "tensor 'a': no key 'dtype'");
  tensor("no_shape", fields, kDtype + "," + kOffsets, 4, "tensor 'a': no key 'shape'");
  tensor("no_offsets", fields, kDtype + "," + kShape, 4, "tensor 'a': no key 'data_offsets'");
  tensor("unknown_field", fields, kDtype + "," + kShape + "," + kOffsets + R"(,"x":[])", 4,
         "unknown key 'x'");
  header("number_for_tensor", fields, R"({"a":3})", 0, "'a' is the number 3, wanted an object");
  header("null_for_tensor", fields, R"({"a":null})", 0, "'a' is null");
  header("text_for_tensor", fields, R"({"a":"F32"})", 0, "'a' is the text 'F32'");
  header("array_for_tensor", fields, R"({"a":[0,4]})", 0, "'a' is an array");

  // Metadata.
  const std::string texts = "__metadata__ maps texts to texts";
  header("metadata_number", texts, R"({"__metadata__":{"k":1}})", 0, "'k' is the number 1");
  header("metadata_object", texts, R"({"__metadata__":{"k":{}}})", 0, "'k' is an object");
  header("metadata_array", texts, R"({"__metadata__":{"k":["v"]}})", 0, "'k' is an array");
  header("metadata_null", texts, R"({"__metadata__":{"k":null}})", 0, "'k' is null");
  header("metadata_is_text", texts, R"({"__metadata__":"pt"})", 0, "'__metadata__' is the text");

  // Types.
  const std::string types = "dtype is one of the format's names";
  tensor("dtype_unknown", types, R"("dtype":"F31",)" + kShape + "," + kOffsets, 4,
         "dtype 'F31' is not known");
  tensor("dtype_lower_case", types, R"("dtype":"f32",)" + kShape + "," + kOffsets, 4,
         "dtype 'f32' is not known");
  tensor("dtype_of_torch", types, R"("dtype":"torch.float32",)" + kShape + "," + kOffsets, 4,
         "dtype 'torch.float32' is not known");
  tensor("dtype_empty", types, R"("dtype":"",)" + kShape + "," + kOffsets, 4,
         "dtype '' is not known");
  tensor("dtype_number", types, R"("dtype":4,)" + kShape + "," + kOffsets, 4,
         "dtype holds the number 4");
  tensor("dtype_array", types, R"("dtype":["F32"],)" + kShape + "," + kOffsets, 4,
         "dtype holds an array");

  // Shapes.
  const std::string sizes = "sizes are whole numbers from 0 on";
  const auto shape = [&](const std::string& name, const std::string& text,
                         const std::string& want) {
    tensor("shape_" + name, sizes, kDtype + ",\"shape\":" + text + "," + kOffsets, 4, want);
  };
  shape("number", "1", "shape holds the number 1");
  shape("text", "\"1\"", "shape holds the text '1'");
  shape("null", "null", "shape holds null");
  shape("of_null", "[null]", "shape holds null");
  shape("of_text", "[\"1\"]", "shape holds the text '1'");
  shape("of_bool", "[true]", "shape holds true");
  shape("nested", "[[1]]", "shape holds an array");
  shape("negative", "[-1]", "shape holds the number -1");
  shape("two_negatives", "[-1,-1]", "shape holds the number -1");
  shape("float", "[1.0]", "shape holds the number 1.0");
  shape("exponent", "[1e0]", "shape holds the number 1e0");
  shape("over_int64", "[9223372036854775808]", "size of 9223372036854775808");
  shape("max_uint64", "[18446744073709551615]", "size of 18446744073709551615");
  shape("over_uint64", "[18446744073709551617]", "shape holds the number 18446744073709551617");
  shape("leading_zero", "[01]", "not valid JSON");
  shape(
      "too_long",
      [] {
        std::string text = "[1";
        for (int i = 0; i < 64; ++i) text += ",1";
        return text + "]";
      }(),
      "shape has more than 64 sizes");
  const std::string product = "shape x type fits the data";
  tensor("shape_larger_than_data", product, kDtype + R"(,"shape":[2],)" + kOffsets, 4,
         "4 bytes, but shape [2] of F32 wants 8");
  tensor("shape_smaller_than_data", product, R"("dtype":"F16",)" + kShape + "," + kOffsets, 4,
         "4 bytes, but shape [1] of F16 wants 2");
  tensor("scalar_of_eight", product, R"("dtype":"F64","shape":[],)" + kOffsets, 4,
         "4 bytes, but shape [] of F64 wants 8");
  const std::string overflow = "shape x type is multiplied with care";
  tensor("product_overflows", overflow,
         kDtype + R"(,"shape":[4611686018427387904,4],"data_offsets":[0,0])", 0,
         "overflows 64 bits");
  tensor("product_wraps_to_four", overflow,
         kDtype + R"(,"shape":[4294967297,4294967297],)" + kOffsets, 4, "overflows 64 bits");
  tensor("type_size_overflows", overflow,
         R"("dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,0])", 0,
         "overflows 64 bits");

  // Offsets.
  const std::string offsets = "data_offsets is [begin, end]";
  const auto place = [&](const std::string& name, const std::string& rule, const std::string& text,
                         std::size_t data_bytes, const std::string& want) {
    tensor("offsets_" + name, rule, kDtype + "," + kShape + ",\"data_offsets\":" + text, data_bytes,
           want);
  };
  place("number", offsets, "4", 4, "data_offsets holds the number 4");
  place("one", offsets, "[0]", 4, "data_offsets has 1 numbers");
  place("three", offsets, "[0,4,8]", 4, "data_offsets has 3 numbers");
  place("negative", offsets, "[-4,0]", 4, "data_offsets holds the number -4");
  place("float", offsets, "[0,4.0]", 4, "data_offsets holds the number 4.0");
  place("over_uint64", offsets, "[0,18446744073709551620]", 4, "data_offsets holds the number");
  place("reversed", offsets, "[4,0]", 4, "leave a hole");
  place("end_before_begin", "the end does not lie before the begin", "[0,0]", 0,
        "0 bytes, but shape [1] of F32 wants 4");
  place("hole_first", "no hole", "[4,8]", 8, "leave a hole at 0, wanted a begin of 0");
  place("past_end", "the data lie in the file", "[0,8]", 4,
        "8 bytes, but shape [1] of F32 wants 4");
  tensor("offsets_huge_empty", "the data lie in the file",
         kDtype + R"(,"shape":[0],"data_offsets":[0,18446744073709551615])", 0,
         "18446744073709551615 bytes, but shape [0] of F32 wants 0");
  const auto two = [&](const std::string& name, const std::string& rule, const std::string& a,
                       const std::string& b, std::size_t data_bytes, const std::string& want) {
    header(name, rule,
           R"({"a":{"dtype":"U8","shape":[4],"data_offsets":)" + a +
               R"(},"b":{"dtype":"U8","shape":[4],"data_offsets":)" + b + "}}",
           data_bytes, want);
  };
  two("overlap", "no overlap", "[0,4]", "[2,6]", 6,
      "tensor 'b': data_offsets [2, 6] overlap the data at 2, wanted a begin of 4");
  two("same_data", "no overlap", "[0,4]", "[0,4]", 4, "overlap the data at 0");
  two("hole_between", "no hole", "[0,4]", "[5,9]", 9,
      "tensor 'b': data_offsets [5, 9] leave a hole");
  two("swapped_overlap", "no overlap", "[3,7]", "[0,4]", 7,
      "tensor 'a': data_offsets [3, 7] overlap");
  return out;
}

}  // namespace lram::test
