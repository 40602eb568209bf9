// lram report RUN: one HTML page about a training run.
#include "eval/report.h"

#include <fmt/core.h>

#include "lram/app/verb.h"
#include "lram/core/error.h"
#include "lram/core/file.h"
#include "lram/core/options.h"

namespace lram::app {
int report(const Args& args) {
  std::string run, out;
  CommandLine line(
      "lram report RUN [--out FILE]",
      "Writes one self-contained HTML page about a run folder: learning curves, scores, "
      "latency, configuration.");
  line.options().add_options()("run", po::value(&run), "run folder of 'lram train'")(
      "out", po::value(&out), "the page, default RUN/report.html");
  line.positional("run");
  if (!line.parse(args)) return 0;
  if (run.empty()) throw_error(ErrorKind::kUsage, "no run folder given, wanted lram report RUN");
  const std::string page = eval::render_report(eval::read_run_folder(run));
  const std::filesystem::path path =
      out.empty() ? std::filesystem::path(run) / "report.html" : std::filesystem::path(out);
  write_file_atomically(path, page);
  fmt::print("{}\n", path.string());
  return 0;
}
}  // namespace lram::app
