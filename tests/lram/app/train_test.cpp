// `lram train` from outside: what a user types, sees and finds in the run folder.
#include <fmt/core.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>

#include <chrono>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "lram/core/file.h"
#include "lram/core/json.h"
#include "lram/core/manifest.h"
#include "tests/lram/training/toy_data.h"
#include "tests/support/run_command.h"

namespace lram::app {
namespace {
namespace fs = std::filesystem;
using lram::test::CommandResult;
using nlohmann::json;

class TrainTest : public testing::Test {
 protected:
  void SetUp() override {
    files_ = training::test::write_toy_data(folder_.path()).files;
    std::ofstream(recipe_) << "[model]\nembed_dim = 16\nnum_blocks = 2\nnum_heads = 2\n"
                              "context_length = 8\nstate_dim = 6\naction_slots = 2\n\n"
                              "[train]\nsteps = 40\nbatch_size = 4\npeak_lr = 3e-3\n"
                              "warmup_steps = 5\nlog_every = 3\nvalidate_every = 20\n"
                              "validation_batches = 2\ncheckpoint_every = 15\n";
  }
  fs::path run_folder(const std::string& name) const { return folder_.path() / name; }
  static std::vector<std::string> train_command(std::vector<std::string> args) {
    args.insert(args.begin(), {lram::test::program("lram"), "train"});
    args.insert(args.end(), {"--threads", "1"});
    return args;
  }
  CommandResult train(const std::vector<std::string>& args) const {
    return lram::test::run_command(train_command(args));
  }
  CommandResult train_new(const std::string& run, std::vector<std::string> more = {}) const {
    more.insert(more.begin(), {"--recipe", recipe_.string(), "--data.files", files_, "--run",
                               run_folder(run).string()});
    return train(more);
  }
  /// Lines of metrics without what the clock says.
  static std::vector<json> metrics(const fs::path& run) {
    std::istringstream lines(read_file(run / "metrics.jsonl"));
    std::vector<json> out;
    for (std::string line; std::getline(lines, line);) {
      json parsed = parse_json(line);
      parsed.erase("time/seconds");
      parsed.erase("time/tokens_per_second");
      out.push_back(parsed);
    }
    return out;
  }
  /// Runs are equal: losses as logged, and every file of the last checkpoint.
  static void expect_same_run(const fs::path& a, const fs::path& b) {
    EXPECT_EQ(metrics(a), metrics(b));
    EXPECT_EQ(read_file(a / "config.ini"), read_file(b / "config.ini"));
    const fs::path last_a = a / "checkpoints/last", last_b = b / "checkpoints/last";
    EXPECT_EQ(fs::read_symlink(last_a), fs::read_symlink(last_b));
    EXPECT_EQ(read_file(last_a / kManifestName), read_file(last_b / kManifestName));
    verify_manifest(last_b);
  }
  static json trainer_state(const fs::path& run) {
    return parse_json(read_file(run / "checkpoints/last/training_state/trainer.json"));
  }

  lram::test::TempFolder folder_;
  fs::path recipe_ = folder_.path() / "tiny.ini";
  std::string files_;
};

TEST_F(TrainTest, LeavesARunThatItsConfigRepeats) {
  const CommandResult first = train_new("first", {"--train.seed", "4"});
  ASSERT_EQ(first.exit_code, 0) << first.err;
  EXPECT_NE(first.out.find("finished at step 40 of 40"), std::string::npos) << first.out;
  EXPECT_NE(first.err.find("batch    8 windows over 2 domains, up to 192 tokens per step"),
            std::string::npos)
      << first.err;
  const fs::path run = run_folder("first");
  EXPECT_EQ(fs::read_symlink(run / "checkpoints/last"), "000000040");
  EXPECT_EQ(metrics(run).front().at("step"), 3);
  for (const char* name : {"train/loss", "train/loss/toy", "train/loss/toy/reach",
                           "train/accuracy/grid", "train/learning_rate", "train/grad_norm"})
    EXPECT_TRUE(metrics(run).front().contains(name)) << name;
  EXPECT_TRUE(metrics(run).back().contains("valid/loss/grid/turn"));
  bool events = false;
  for (const auto& item : fs::directory_iterator(run))
    events = events || item.path().filename().string().starts_with("events.out.tfevents.");
  EXPECT_TRUE(events);

  const CommandResult second = train({"--recipe", (run / "config.ini").string(), "--run",
                                      run_folder("second").string(), "--json"});
  ASSERT_EQ(second.exit_code, 0) << second.err;
  EXPECT_EQ(parse_json(second.out).at("step"), 40);
  expect_same_run(run, run_folder("second"));
}

TEST_F(TrainTest, StoppedBySignalOrKilledItGoesOnAsIfNothingHadHappened) {
  ASSERT_EQ(train_new("straight").exit_code, 0);
  for (const int signal : {SIGINT, SIGTERM, SIGKILL}) {
    SCOPED_TRACE(strsignal(signal));
    const std::string name = fmt::format("signal_{}", signal);
    const fs::path run = run_folder(name);
    const pid_t child = fork();
    if (child == 0) {
      const auto command = train_command(
          {"--recipe", recipe_.string(), "--data.files", files_, "--run", run.string()});
      std::vector<char*> argv;
      for (const std::string& word : command) argv.push_back(const_cast<char*>(word.c_str()));
      argv.push_back(nullptr);
      execv(argv[0], argv.data());
      _exit(127);
    }
    // The first checkpoint is there: training is under way.
    for (int wait = 0; wait < 6000 && !fs::exists(run / "checkpoints/last"); ++wait)
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    ASSERT_TRUE(fs::exists(run / "checkpoints/last"));
    kill(child, signal);
    int status = 0;
    waitpid(child, &status, 0);
    if (signal == SIGKILL) {
      EXPECT_TRUE(WIFSIGNALED(status));
    } else if (WEXITSTATUS(status) != 0) {  // 0: it had finished already
      EXPECT_EQ(WEXITSTATUS(status), 128 + signal);
    }
    EXPECT_GE(trainer_state(run).at("step"), 15);
    const CommandResult resumed = train({"--resume", run.string()});
    ASSERT_EQ(resumed.exit_code, 0) << resumed.err;
    expect_same_run(run_folder("straight"), run);
  }
}

TEST_F(TrainTest, ABrokenLastCheckpointIsPassedOver) {
  ASSERT_EQ(train_new("straight").exit_code, 0);
  ASSERT_EQ(train_new("broken").exit_code, 0);
  const fs::path run = run_folder("broken");
  const fs::path weights = run / "checkpoints/000000040/model.safetensors";
  std::string bytes = read_file(weights);
  bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 4);
  std::ofstream(weights, std::ios::binary) << bytes;
  const CommandResult resumed = train({"--resume", run.string()});
  ASSERT_EQ(resumed.exit_code, 0) << resumed.err;
  EXPECT_NE(resumed.err.find("checkpoint 000000040 is broken"), std::string::npos);
  EXPECT_NE(resumed.err.find("from step 30"), std::string::npos) << resumed.err;
  expect_same_run(run_folder("straight"), run);
}

TEST_F(TrainTest, AFullDiskStopsItAndLosesNothing) {
  ASSERT_EQ(train_new("straight").exit_code, 0);
  ASSERT_EQ(train_new("full").exit_code, 0);
  const fs::path run = run_folder("full");
  fs::remove_all(run / "checkpoints/000000040");
  std::string limited = "ulimit -f 100; exec";  // 100 KiB a file
  for (const std::string& word : train_command({"--resume", run.string()})) limited += " " + word;
  const CommandResult failed = lram::test::run_command({"/bin/bash", "-c", limited});
  EXPECT_EQ(failed.exit_code, 4) << failed.err;
  EXPECT_NE(failed.err.find("optimizer.safetensors"), std::string::npos) << failed.err;
  EXPECT_NE(failed.err.find("File too large"), std::string::npos) << failed.err;
  for (const auto& item : fs::directory_iterator(run / "checkpoints"))
    EXPECT_NE(item.path().extension(), ".new");
  verify_manifest(run / "checkpoints/000000030");
  const CommandResult resumed = train({"--resume", run.string()});
  ASSERT_EQ(resumed.exit_code, 0) << resumed.err;
  expect_same_run(run_folder("straight"), run);
}

TEST_F(TrainTest, DivergenceStopsAndNamesStepAndDomain) {
  const CommandResult result =
      train_new("diverged", {"--train.peak_lr", "1e30", "--train.max_grad_norm", "0"});
  EXPECT_EQ(result.exit_code, 1) << result.err;
  EXPECT_NE(result.err.find("the loss of domain '"), std::string::npos) << result.err;
  EXPECT_NE(result.err.find("lram train: step "), std::string::npos) << result.err;
}

TEST_F(TrainTest, TimeLimitStopsWithACheckpointAndExitsWell) {
  const CommandResult result = train_new("timed", {"--train.max_seconds", "1e-6"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_NE(result.out.find("out of time at step"), std::string::npos) << result.out;
  const CommandResult rest =
      train({"--resume", run_folder("timed").string(), "--train.max_seconds", "0"});
  ASSERT_EQ(rest.exit_code, 0) << rest.err;
  EXPECT_EQ(trainer_state(run_folder("timed")).at("step"), 40);
}

TEST_F(TrainTest, DryRunKeepsNothing) {
  const CommandResult result = train_new("dry", {"--dry-run"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_NE(result.out.find("one step: loss "), std::string::npos);
  const CommandResult transformer = train_new("dry", {"--dry-run", "--model.backbone", "gpt2"});
  EXPECT_EQ(transformer.exit_code, 0) << transformer.err;
  EXPECT_FALSE(fs::exists(run_folder("dry")));
}

TEST_F(TrainTest, BadInputGetsItsExitCodeAndOneLine) {
  ASSERT_EQ(train_new("done", {"--train.steps", "6"}).exit_code, 0);
  const std::string done = run_folder("done");
  struct Case {
    std::vector<std::string> args;
    int code;
    std::string text;
  };
  const std::vector<std::string> base = {"--recipe", recipe_.string(), "--data.files", files_};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.begin(), base.begin(), base.end());
    return more;
  };
  const std::string fresh = run_folder("fresh");
  const std::vector<Case> cases = {
      {with({"--run", done}), 2, "exists already; go on with it by --resume"},
      {with({"--run", fresh, "--train.pek_lr", "1"}), 2, "did you mean '--train.peak_lr'?"},
      {with({"--run", fresh, "--train.steps", "many"}), 2, "train.steps"},
      {with({"--run", fresh, "--model.num_heads", "3"}), 2, "model.num_heads"},
      {with({"--run", fresh, "--train.device", "tpu"}), 2, "wanted cpu, cuda or cuda:N"},
      {{"--recipe", "/absent.ini"}, 3, "/absent.ini"},
      {{"--recipe", recipe_.string(), "--data.files", "/absent.h5"}, 3, "/absent.h5"},
      {{"--recipe", recipe_.string()}, 2, "data.files is empty"},
      {{"--resume", fresh}, 3, "wanted a run of 'lram train' to resume"},
      {{"--resume", done, "--train.steps", "9"},
       2,
       "train.steps is '9', but " + done + " was started with '6'"},
      {{"--resume", done, "--model.embed_dim", "32"}, 2, "model.embed_dim is '32'"},
  };
  for (const Case& one : cases) {
    const CommandResult result = train(one.args);
    EXPECT_EQ(result.exit_code, one.code) << one.text << "\n" << result.err;
    EXPECT_NE(result.err.find(one.text), std::string::npos) << one.text << "\n" << result.err;
    EXPECT_FALSE(fs::exists(fresh)) << one.text;
  }
  std::ofstream(recipe_) << "[train]\npeak_lrr = 1\n";
  const CommandResult bad_key = train(with({"--run", fresh}));
  EXPECT_EQ(bad_key.exit_code, 2);
  EXPECT_NE(bad_key.err.find("did you mean 'train.peak_lr'?"), std::string::npos) << bad_key.err;
}
}  // namespace
}  // namespace lram::app
