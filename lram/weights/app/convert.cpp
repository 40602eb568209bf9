#include "lram/weights/convert.h"

#include <fmt/core.h>

#include <nlohmann/json.hpp>

#include "lram/app/verb.h"
#include "lram/core/error.h"
#include "lram/core/json.h"
#include "lram/core/options.h"
#include "lram/core/table.h"

namespace lram::app {
namespace {
void print_formats(bool as_json) {
  nlohmann::json formats = nlohmann::json::array();
  Table table({"format", "what"});
  const auto add = [&](std::string_view name, std::string_view summary) {
    formats.push_back({{"name", name}, {"summary", summary}});
    table.add({std::string(name), std::string(summary)});
  };
  add(weights::kPolicyFormat,
      "checkpoint of a policy of ours: its backbone, out of it or (--into) in");
  for (const weights::WeightFormat& format : weights::weight_formats())
    add(format.name, format.summary);
  if (as_json)
    fmt::print("{}\n", json_text(nlohmann::json{{"formats", formats}}, 2));
  else
    fmt::print("{}", table.text());
}
}  // namespace

int ckpt_convert(const Args& args) {
  std::string in, out, into, drop;
  bool list = false, as_json = false;
  weights::ConvertOptions options;
  CommandLine line(
      "lram ckpt convert --from FORMAT --to FORMAT IN OUT",
      "Rewrites weights under the names and layouts of another package. IN is a safetensors file, "
      "a "
      "folder\nwith model.safetensors or shards, or a checkpoint; OUT a file where its name ends "
      "in "
      ".safetensors,\nelse a folder; it must not be there yet and appears whole or not at all. "
      "Tensors pass one by one from\nmapped files; where only names change, their bytes stay as "
      "they are. Only weights are converted:\na config.json of the other package is yours to "
      "write.");
  line.options().add_options()("from", po::value(&options.from),
                               "format of IN; without it the one that its names show")(
      "to", po::value(&options.to), "format of OUT")("in", po::value(&in), "bare argument 1")(
      "out", po::value(&out), "bare argument 2")("list", po::bool_switch(&list),
                                                 "list the formats")(
      "max-shard-bytes", po::value(&options.max_shard_bytes)->default_value(0),
      "tensor bytes per file of a folder, with model.safetensors.index.json; 0 = one file")(
      "drop", po::value(&drop), "tensors to leave out, by the family's own names: A,B")(
      "slstm-bias", po::value(&options.format.slstm_bias),
      "layout of the sLSTM's biases in IN, vanilla or cuda, where it is not that of --from: their "
      "shape does not tell")("into", po::value(&into),
                             "--to lram: the checkpoint whose backbone is replaced")(
      "json", po::bool_switch(&as_json), "print JSON");
  line.positional("in");
  line.positional("out");
  if (!line.parse(args)) return 0;
  if (list) {
    print_formats(as_json);
    return 0;
  }
  if (in.empty() || out.empty())
    throw_error(ErrorKind::kUsage, "wanted IN and OUT, see lram ckpt convert --help");
  if (options.to.empty()) throw_error(ErrorKind::kUsage, "no --to, see lram ckpt convert --list");
  if (!drop.empty()) options.drop = split_list(drop, "drop");
  options.into = into;

  const weights::ConvertResult result = weights::convert(in, out, options);
  if (as_json)
    fmt::print("{}\n", json_text(nlohmann::json{{"from", result.from},
                                                {"to", result.to},
                                                {"out", out},
                                                {"tensors", result.num_tensors},
                                                {"bytes", result.bytes},
                                                {"files", result.files}},
                                 2));
  else
    fmt::print("{}: {} tensors, {}, {} to {}, {} file{}\n", out, result.num_tensors,
               format_bytes(result.bytes), result.from, result.to, result.files.size(),
               result.files.size() == 1 ? "" : "s");
  return 0;
}
}  // namespace lram::app
