// lram bench step: time per environment step against context length, xLSTM and Transformer.
#include <torch/utils.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "eval/run_folder.h"
#include "eval/step_latency.h"
#include "eval/svg_plot.h"
#include "lram/app/verb.h"
#include "lram/core/build_info.h"
#include "lram/core/error.h"
#include "lram/core/file.h"
#include "lram/core/json.h"
#include "lram/core/log.h"
#include "lram/core/options.h"
#include "lram/core/text.h"

namespace {
using namespace lram;

// LRAM's xLSTMs (lram.md 2.1) and that of lram/app/recipes/small.ini.
struct Size {
  const char* name;
  std::int64_t num_blocks, embed_dim;
};
constexpr Size kSizes[] = {
    {"0.8M", 4, 128}, {"16M", 8, 512}, {"48M", 12, 768}, {"108M", 16, 1024}, {"206M", 20, 1280}};

model::PolicyConfig config_of_size(const std::string& name) {
  std::vector<std::string> known;
  for (const Size& size : kSizes) {
    known.push_back(size.name);
    if (name != size.name) continue;
    model::PolicyConfig config;
    config.num_blocks = size.num_blocks;
    config.embed_dim = size.embed_dim;
    return config;
  }
  throw_error(ErrorKind::kUsage, "--size is '{}', wanted one of {}", name, joined(known));
}

// As wide as walker's observation and action.
tokenization::TaskTable bench_task() {
  tokenization::TaskEntry entry;
  entry.spec = {.id = "bench/step",
                .observation = {.parts = {{"state", 24}}, .vector_size = 24},
                .action = {.size = 6, .low = std::vector(6, -1.0), .high = std::vector(6, 1.0)}};
  entry.target_return = 1000.0;
  entry.reward_scale = 100.0;
  tokenization::TaskTable table;
  table.add(std::move(entry));
  return table;
}

std::vector<std::int64_t> parse_contexts(const std::string& text) {
  std::vector<std::int64_t> contexts;
  for (const std::string& entry : split_list(text, "--contexts")) {
    std::size_t used = 0;
    try {
      contexts.push_back(std::stoll(entry, &used));
    } catch (const std::logic_error&) {
      used = 0;
    }
    if (used != entry.size() || contexts.back() < 1)
      throw_error(ErrorKind::kUsage, "--contexts: '{}' is no number of steps, wanted 1 or more",
                  entry);
  }
  return contexts;
}

int bench_step(const app::Args& args) {
  std::string checkpoint, size = "0.8M", models = "xlstm,transformer",
                          contexts = "10,50,100,300,1000", svg;
  eval::LatencyOptions options;
  options.show_progress = true;
  bool as_json = false;
  CommandLine line(
      "lram bench step [--checkpoint DIR | --size S]",
      "Times one environment step of the recurrent agent, from the observation in memory to the "
      "action in memory\n(normalising, three tokens through the policy, argmax), against the "
      "number of environment steps that it has seen.\n"
      "The Transformer has as many parameters, random weights, and attends over the whole context "
      "through its cache.\n"
      "The cases take turns in blocks of 10 timed steps, each block behind its context, whose last "
      "three steps are the\nuntimed warm-up. Subnormals are flushed.");
  line.options().add_options()("checkpoint", po::value(&checkpoint),
                               "time this policy; RUN/latency.json is written for the report")(
      "size", po::value(&size)->default_value(size),
      "without a checkpoint: random weights of this size, 0.8M, 16M, 48M, 108M or 206M")(
      "models", po::value(&models)->default_value(models), "which of the two")(
      "contexts", po::value(&contexts)->default_value(contexts), "environment steps seen before")(
      "steps", po::value(&options.steps)->default_value(options.steps), "timed steps of each case")(
      "threads", po::value(&options.threads)->default_value(options.threads),
      "of LibTorch; 0 = one or all cores, whichever is faster")(
      "json", po::bool_switch(&as_json), "print JSON")("svg", po::value(&svg),
                                                       "write the plot here");
  if (!line.parse(args)) return 0;
  if (!checkpoint.empty() && line.given("size"))
    throw_error(ErrorKind::kUsage, "--checkpoint and --size are given, wanted one of them");
  if (options.steps < 1)
    throw_error(ErrorKind::kUsage, "--steps is {}, wanted at least 1", options.steps);
  check_threads(options.threads);
  const std::vector<std::string> chosen = split_list(models, "--models");
  for (const std::string& model : chosen)
    if (model != "xlstm" && model != "transformer")
      throw_error(ErrorKind::kUsage, "--models: unknown model '{}', known: xlstm, transformer",
                  model);
  const auto wants = [&](const char* model) {
    return std::find(chosen.begin(), chosen.end(), model) != chosen.end();
  };
  const std::vector<std::int64_t> lengths = parse_contexts(contexts);

  std::shared_ptr<model::Policy> xlstm;
  if (checkpoint.empty()) {
    torch::manual_seed(0);
    xlstm = std::make_shared<model::Policy>(config_of_size(size));
    xlstm->set_tasks(bench_task());
  } else {
    xlstm = model::load_policy(checkpoint);
    if (xlstm->config().backbone != "xlstm")
      throw_error(ErrorKind::kInput, "{}: its backbone is '{}', wanted 'xlstm'", checkpoint,
                  xlstm->config().backbone);
    if (xlstm->tasks().entries().empty())
      throw_error(ErrorKind::kInput, "{}: the checkpoint names no task", checkpoint);
  }
  const std::string task = xlstm->tasks().entries().front().spec.id;

  std::vector<eval::LatencyCase> cases;
  if (wants("xlstm"))
    for (const std::int64_t length : lengths) cases.push_back({"xlstm", xlstm, task, length});
  if (wants("transformer")) {
    for (const std::int64_t length : lengths) {
      // Its window is the context: the cache is full when the timed steps begin.
      const model::PolicyConfig config = eval::transformer_of_size(
          xlstm->config(), eval::count_parameters(*xlstm), length, length + 100);
      auto transformer = std::make_shared<model::Policy>(config);
      transformer->set_tasks(xlstm->tasks());
      transformer->eval();
      cases.push_back({"transformer", transformer, task, length});
    }
  }

  const eval::LatencyTable table{.hardware = one_line(hardware_info()),
                                 .build = one_line(build_info()),
                                 .rows = eval::measure_step_latency(cases, options)};
  const std::string json = json_text(nlohmann::json(table), 1) + '\n';
  if (!checkpoint.empty()) {
    const auto file = eval::run_of_checkpoint(checkpoint) / "latency.json";
    write_file_atomically(file, json);
    log_info("bench step", "wrote", file.string());
  }
  if (!svg.empty()) write_file_atomically(svg, eval::render_svg(eval::latency_plot(table)));
  fmt::print("{}", as_json ? json : eval::to_table(table));
  return 0;
}
}  // namespace

int main(int argc, char** argv) {
  return lram::app::run_verb("lram bench step", bench_step, lram::app::Args(argv + 1, argv + argc));
}
