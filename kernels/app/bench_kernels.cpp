// lram bench kernels: our CUDA kernels beside causal attention by cuDNN and beside their own floor.
#include <ATen/cuda/CUDAContextLight.h>
#include <c10/util/Exception.h>
#include <torch/cuda.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

#include "kernels/app/crossing.h"
#include "kernels/app/graph_timer.h"
#include "kernels/app/op_case.h"
#include "lram/app/verb.h"
#include "lram/core/build_info.h"
#include "lram/core/error.h"
#include "lram/core/log.h"
#include "lram/core/options.h"
#include "lram/core/table.h"
#include "lram/core/text.h"

namespace {
using namespace lram;
using kernels::CaseOptions;
using kernels::Shape;

struct Row {
  const char* kernel;
  CaseOptions options;
};

// The shapes that issue 5's bars are about, by B, T, H, K, V.
std::vector<Row> default_rows() {
  std::vector<Row> rows;
  const auto add = [&](const char* kernel, Shape shape, bool sigmoid) {
    rows.push_back({kernel, {.shape = shape, .sigmoid = sigmoid}});
  };
  for (const Shape& shape :
       {Shape{8, 8192, 16, 128, 256}, Shape{128, 512, 16, 128, 256}, Shape{32, 2048, 16, 128, 256},
        Shape{1, 65536, 16, 128, 256}, Shape{64, 1024, 4, 256, 256}})
    for (const bool sigmoid : {true, false}) add("mlstm", shape, sigmoid);
  add("mlstm", {64, 150, 8, 128, 128}, false);
  for (const int dim : {256, 384, 512, 640}) add("mlstm", {64, 150, 4, dim, dim}, false);
  for (const int dim : {256, 384, 512, 640}) add("head_norm_gate", {64, 150, 4, dim, dim}, false);
  add("head_norm_gate", {8, 8192, 16, 256, 256}, true);
  return rows;
}

Shape parse_shape(const std::string& text) {
  std::vector<int> numbers;
  for (const std::string& entry : split_list(text, "--shape")) {
    std::size_t used = 0;
    try {
      numbers.push_back(std::stoi(entry, &used));
    } catch (const std::logic_error&) {
      used = 0;
    }
    if (used != entry.size() || numbers.back() < 1)
      throw_error(ErrorKind::kUsage, "--shape: '{}' is no size, wanted 1 or more", entry);
  }
  if (numbers.size() != 5)
    throw_error(ErrorKind::kUsage, "--shape has {} numbers, wanted B,T,H,K,V", numbers.size());
  return {numbers[0], numbers[1], numbers[2], numbers[3], numbers[4]};
}

/// The entry of `known` whose name is `text`.
template <typename Value>
Value choose(const char* option, const std::string& text,
             const std::vector<std::pair<std::string, Value>>& known) {
  std::vector<std::string> names;
  for (const auto& [name, value] : known) {
    if (name == text) return value;
    names.push_back(name);
  }
  throw_error(ErrorKind::kUsage, "{} is '{}', wanted one of {}", option, text, joined(names));
}

double floor_ms(const kernels::OpCase::Work& work, const kernels::Ceilings& ceilings) {
  return std::max(work.bytes / ceilings.copy_gbps / 1e6,
                  work.flops / ceilings.product_tflops / 1e9);
}

nlohmann::json json_of(const kernels::Timing& timing) {
  return {{"median_ms", timing.median_ms}, {"p99_ms", timing.p99_ms}};
}

/// Times (unless `repeats` is 0) and checks one row.
nlohmann::json measure(const Row& row, bool check, kernels::GraphTimer* timer,
                       const kernels::Ceilings& ceilings) {
  const Shape& s = row.options.shape;
  const bool mlstm = std::string(row.kernel) == "mlstm";
  const auto op = mlstm ? make_mlstm_case(row.options) : make_head_norm_gate_case(row.options);
  nlohmann::json out = {{"kernel", row.kernel},
                        {"shape", {s.batch, s.tokens, s.heads, s.key_dim, s.value_dim}},
                        {"gate", row.options.sigmoid ? "sig" : "exp"},
                        {"dtype", row.options.dtype == kernels::DType::kBFloat16 ? "bf16" : "fp32"},
                        {"implementation", op->implementation()},
                        {"memory_bytes", op->memory_bytes()}};
  if (check) {
    nlohmann::json errors;
    bool passed = true;
    for (const kernels::Check& item : op->check()) {
      errors[item.name] = {{"error", item.error}, {"allowed", item.allowed}};
      if (!std::isnan(item.plain)) errors[item.name]["plain"] = item.plain;
      passed = passed && item.error <= item.allowed;
    }
    out["errors"] = errors;
    out["passed"] = passed;
  }
  if (timer == nullptr) return out;
  // What stands beside Triton's kernels is timed as they are; what stands beside a copy, alone.
  const auto flush = mlstm ? kernels::Flush::kWritten : kernels::Flush::kRead;
  const auto enqueue_forward = [&] { op->forward(); };
  const auto enqueue_both = [&] {
    op->forward();
    op->backward();
  };
  const auto forward = timer->time(enqueue_forward, flush);
  const auto both = timer->time(enqueue_both, flush);
  const auto work = op->forward_work(), back = op->backward_work();
  const double forward_floor = floor_ms(work, ceilings);
  const double both_floor = forward_floor + floor_ms(back, ceilings);
  out["forward"] = json_of(forward);
  out["both"] = json_of(both);
  out["forward_gbps"] = work.bytes / forward.median_ms / 1e6;
  out["both_gbps"] = (work.bytes + back.bytes) / both.median_ms / 1e6;
  out["forward_floor_ms"] = forward_floor;
  out["both_floor_ms"] = both_floor;
  if (!mlstm) {
    const auto dirty = kernels::Flush::kWritten;
    out["forward_after_writes"] = json_of(timer->time(enqueue_forward, dirty));
    out["both_after_writes"] = json_of(timer->time(enqueue_both, dirty));
    out["forward_copy_ms"] = time_copy(*timer, {work.bytes}, flush).median_ms;
    out["both_copy_ms"] = time_copy(*timer, {work.bytes, back.bytes}, flush).median_ms;
    return out;
  }
  // Attention as wide as the values: heads of K units.
  const int heads = std::max(1, s.heads * s.value_dim / s.key_dim);
  try {
    const auto attention = kernels::time_attention(*timer, s.batch, heads, s.tokens, s.key_dim);
    out["attention"] = {{"heads", heads},
                        {"dim", s.key_dim},
                        {"forward", json_of(attention.forward)},
                        {"both", json_of(attention.both)},
                        {"memory_bytes", attention.memory_bytes}};
  } catch (const c10::Error& error) {  // a head too wide for cuDNN
    const std::string why = error.what_without_backtrace();
    out["attention"] = {{"refused", why.substr(0, why.find('\n'))}};
  }
  return out;
}

std::string percent(double part) { return fmt::format("{:.0f} %", 100.0 * part); }

void print_table(const nlohmann::json& rows) {
  Table table({"kernel", "B,T,H,K,V", "gate", "path", "fw ms", "p99", "fw+bw", "p99", "GB/s",
               "GB/s", "of floor", "of floor", "of copy", "of copy", "cuDNN fw", "fw+bw", "ratio",
               "ratio", "MiB"});
  const auto ms = [](const nlohmann::json& value) {
    return fmt::format("{:.4f}", value.get<double>());
  };
  for (const auto& row : rows) {
    if (!row.contains("forward")) continue;
    const auto& shape = row["shape"];
    const double fw = row["forward"]["median_ms"], both = row["both"]["median_ms"];
    std::vector<std::string> cells = {row["kernel"],
                                      joined(shape.get<std::vector<int>>(), ","),
                                      row["gate"],
                                      row["implementation"],
                                      ms(row["forward"]["median_ms"]),
                                      ms(row["forward"]["p99_ms"]),
                                      ms(row["both"]["median_ms"]),
                                      ms(row["both"]["p99_ms"]),
                                      fmt::format("{:.0f}", row["forward_gbps"].get<double>()),
                                      fmt::format("{:.0f}", row["both_gbps"].get<double>()),
                                      percent(row["forward_floor_ms"].get<double>() / fw),
                                      percent(row["both_floor_ms"].get<double>() / both)};
    for (const auto& [key, time] : {std::pair("forward_copy_ms", fw), {"both_copy_ms", both}})
      cells.push_back(row.contains(key) ? percent(row[key].get<double>() / time) : "-");
    if (row.contains("attention") && row["attention"].contains("forward")) {
      const double theirs = row["attention"]["forward"]["median_ms"],
                   theirs_both = row["attention"]["both"]["median_ms"];
      for (const std::string& cell :
           {fmt::format("{:.4f}", theirs), fmt::format("{:.4f}", theirs_both),
            fmt::format("{:.2f}", fw / theirs), fmt::format("{:.2f}", both / theirs_both)})
        cells.push_back(cell);
    } else {
      cells.insert(cells.end(), 4, "-");
    }
    cells.push_back(fmt::format("{:.0f}", row["memory_bytes"].get<double>() / (1 << 20)));
    table.add(std::move(cells));
  }
  fmt::print("{}", table.text());
}

void print_errors(const nlohmann::json& rows) {
  for (const auto& row : rows) {
    if (!row.contains("errors")) continue;
    std::string line = fmt::format("{} {} {} {}:", row["passed"].get<bool>() ? "ok  " : "FAIL",
                                   row["kernel"].get<std::string>(), row["shape"].dump(),
                                   row["gate"].get<std::string>());
    for (const auto& [name, item] : row["errors"].items()) {
      line += fmt::format(" {} {:.1e}", name, item["error"].get<double>());
      if (item.contains("plain"))
        line += fmt::format(" (plain {:.1e})", item["plain"].get<double>());
      line += fmt::format(" of {:.1e}", item["allowed"].get<double>());
    }
    fmt::print("{}\n", line);
  }
}

int bench_kernels(const app::Args& args) {
  std::string kernel = "mlstm", shape, gate = "exp", dtype = "bf16", form = "auto", path = "auto";
  CaseOptions one;
  int repeats = 40;
  bool check = false, no_time = false, as_json = false, crossing = false;
  CommandLine line(
      "lram bench kernels [--kernel K --shape B,T,H,K,V [--gate G]]",
      "Times our CUDA kernels, replayed from CUDA graphs with the L2 cache flushed before each "
      "replay, beside\ncausal attention of as many units by cuDNN (LibTorch's SDPA, timed the same "
      "way; heads of K units) and beside\nthe floor that this GPU's copy rate and bf16 product "
      "rate set, measured first. Without --shape: the shapes\nwhose speed is promised. "
      "B batch, T tokens, H heads, K units of a query or key, V of a value.\n"
      "head_norm_gate stands beside a copy of as many bytes as well, a kernel for each pass. "
      "Before "
      "the mLSTM the\ncache is overwritten, as Triton's do_bench does for its peers; before "
      "head_norm_gate and its copies it is read\nfull after that, else they would pay for the 50 "
      "MB "
      "that lie unwritten in it (--json has those times too).\n"
      "--check compares with float64 and makes the exit code 1 where an error is above its bar. An "
      "error is\n||x - ref|| / max(||ref||, ||ref without the normaliser's part||), of df at least "
      "of 1e-2 ||di sigmoid(-f)||.\nPlain: what a plain run with the same roundings loses (16 "
      "heads, "
      "512 tokens); an error may be 1.5 times that.");
  line.options().add_options()("kernel", po::value(&kernel)->default_value(kernel),
                               "mlstm or head_norm_gate")(
      "shape", po::value(&shape), "B,T,H,K,V; head_norm_gate reads V as the head's width")(
      "gate", po::value(&gate)->default_value(gate),
      "exp or sig (without normaliser); of head_norm_gate: SiLU and skip, or sigmoid")(
      "normalize", po::bool_switch(&one.normalize), "--gate sig with its normaliser")(
      "dtype", po::value(&dtype)->default_value(dtype), "bf16 or fp32")(
      "resets", po::value(&one.resets)->default_value(one.resets), "resets at random places")(
      "states", po::bool_switch(&one.states), "with a state in and out and its gradients")(
      "norm", po::bool_switch(&one.norm), "with a norm behind: dh . h is given")(
      "form", po::value(&form)->default_value(form), "auto, short, tiled or long")(
      "path", po::value(&path)->default_value(path), "auto, sm90 or portable")(
      "seed", po::value(&one.seed)->default_value(one.seed), "of the random inputs")(
      "repeats", po::value(&repeats)->default_value(repeats), "timed replays")(
      "check", po::bool_switch(&check), "compare with float64 first")(
      "crossing", po::bool_switch(&crossing),
      "instead: every form of the mLSTM over lengths and head dims, and which wins up to where")(
      "no-time", po::bool_switch(&no_time), "check only")("json", po::bool_switch(&as_json),
                                                          "print JSON");
  if (!line.parse(args)) return 0;
  if (repeats < 1 || one.resets < 0)
    throw_error(ErrorKind::kUsage, "--repeats is {} and --resets {}, wanted at least 1 and 0",
                repeats, one.resets);
  if (no_time && !check)
    throw_error(ErrorKind::kUsage, "--no-time without --check leaves nothing to do");
  choose<bool>("--kernel", kernel, {{"mlstm", true}, {"head_norm_gate", true}});
  one.sigmoid = choose<bool>("--gate", gate, {{"exp", false}, {"sig", true}});
  one.dtype = choose<kernels::DType>(
      "--dtype", dtype, {{"bf16", kernels::DType::kBFloat16}, {"fp32", kernels::DType::kFloat32}});
  one.form = choose<kernels::MlstmForm>("--form", form,
                                        {{"auto", kernels::MlstmForm::kAuto},
                                         {"short", kernels::MlstmForm::kShort},
                                         {"tiled", kernels::MlstmForm::kTiled},
                                         {"long", kernels::MlstmForm::kLong}});
  one.path = choose<kernels::KernelPath>("--path", path,
                                         {{"auto", kernels::KernelPath::kAuto},
                                          {"sm90", kernels::KernelPath::kSm90},
                                          {"portable", kernels::KernelPath::kPortable}});
  std::vector<Row> rows;
  if (shape.empty()) {
    for (Row row : default_rows()) {
      if (line.given("kernel") && kernel != row.kernel) continue;
      if (line.given("gate") && one.sigmoid != row.options.sigmoid) continue;
      const Shape wanted = row.options.shape;
      const bool sigmoid = row.options.sigmoid;
      row.options = one;
      row.options.shape = wanted;
      row.options.sigmoid = sigmoid;
      rows.push_back(row);
    }
  } else {
    one.shape = parse_shape(shape);
    rows.push_back({kernel == "mlstm" ? "mlstm" : "head_norm_gate", one});
  }
  if (crossing && (!shape.empty() || check || no_time || form != "auto" || kernel != "mlstm"))
    throw_error(ErrorKind::kUsage,
                "--crossing has its own shapes and forms, wanted no --shape, --form, --kernel, "
                "--check, --no-time");
  if (!torch::cuda::is_available())
    throw_error(ErrorKind::kResource, "lram bench kernels: no NVIDIA GPU that LibTorch can use");
  if (crossing) {
    kernels::GraphTimer few(line.given("repeats") ? repeats : 15);
    const nlohmann::json times = kernels::time_crossing(few, one);
    if (as_json) {
      fmt::print("{}\n", times.dump(1));
    } else {
      fmt::print("{}\n{}", at::cuda::getCurrentDeviceProperties()->name,
                 kernels::crossing_text(times));
    }
    return 0;
  }

  const std::string gpu = at::cuda::getCurrentDeviceProperties()->name;
  nlohmann::json result = {{"gpu", gpu}, {"build", one_line(build_info())}};
  std::optional<kernels::GraphTimer> timer;
  kernels::Ceilings ceilings;
  if (!no_time) {
    ceilings = measure_ceilings(timer.emplace(repeats));
    result["copy_gbps"] = ceilings.copy_gbps;
    result["product_tflops"] = ceilings.product_tflops;
  }
  bool passed = true;
  result["rows"] = nlohmann::json::array();
  for (const Row& row : rows) {
    result["rows"].push_back(measure(row, check, no_time ? nullptr : &*timer, ceilings));
    passed = passed && result["rows"].back().value("passed", true);
    log_info("bench kernels", "kernel", row.kernel, "done", result["rows"].size(), "of",
             rows.size());
  }
  if (as_json) {
    fmt::print("{}\n", result.dump(1));
  } else {
    if (!no_time)
      fmt::print("{}: copy {:.0f} GB/s, bf16 product {:.0f} TFLOP/s\n", gpu, ceilings.copy_gbps,
                 ceilings.product_tflops);
    print_errors(result["rows"]);
    if (!no_time) print_table(result["rows"]);
  }
  return passed ? 0 : static_cast<int>(ErrorKind::kCheckFailed);
}
}  // namespace

int main(int argc, char** argv) {
  return lram::app::run_verb("lram bench kernels", bench_kernels,
                             lram::app::Args(argv + 1, argv + argc));
}
