#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "lram/core/file.h"
#include "lram/core/json.h"
#include "tests/datasets/fixtures.h"
#include "tests/support/run_command.h"

namespace lram::datasets::data_verbs_test {
namespace {
namespace fs = std::filesystem;
using nlohmann::json;

test::CommandResult data_verb(std::vector<std::string> words) {
  words.insert(words.begin(), {test::program("lram"), "data"});
  return test::run_command(words);
}

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// A folder with a good data set, a bad one, a journal with a torn tail and a text.
class DataVerbs : public testing::Test {
 protected:
  DataVerbs() {
    const TaskSpec spec = test::vector_task();
    auto episodes = test::some_episodes(spec, 4);
    test::write_dataset(good_, spec, episodes);
    episodes[1].actions[1] = 5.0f;
    test::write_dataset(bad_, spec, episodes);
    {
      DatasetWriter writer(folder_.path() / "open.h5", spec, {"test", "1"});
      test::append_all(writer, episodes);
    }
    const std::string whole = read_file(part_);
    test::write_text(part_, whole.substr(0, whole.size() - 1));
    test::write_text(none_, "no data set");
  }

  test::TempFolder folder_;
  const std::string good_ = folder_.path() / "good.h5", bad_ = folder_.path() / "bad.h5",
                    part_ = folder_.path() / "open.h5.part", none_ = folder_.path() / "none.h5";
};

TEST_F(DataVerbs, LsListsDataSetsJournalsAndWhatCannotBeRead) {
  const auto text = data_verb({"ls", folder_.path()});
  EXPECT_EQ(text.exit_code, 3) << text.err;
  EXPECT_TRUE(has(text.out, "good.h5")) << text.out;
  EXPECT_TRUE(has(text.out, none_ + ": 11 bytes that do not begin")) << text.out;
  const auto result = data_verb({"ls", folder_.path(), "--json"});
  const json files = parse_json(result.out).at("files");
  ASSERT_EQ(files.size(), 4u);  // in the order of their names
  EXPECT_EQ(files[0].at("path").get<std::string>(), bad_);
  EXPECT_EQ(files[1].at("task"), "test/vector");
  EXPECT_EQ(files[1].at("episodes"), 4);
  EXPECT_EQ(files[1].at("complete"), true);
  EXPECT_TRUE(files[2].contains("error"));
  EXPECT_EQ(files[3].at("episodes"), 3);
  EXPECT_EQ(files[3].at("complete"), false);
  fs::remove(none_);
  EXPECT_EQ(data_verb({"ls", folder_.path()}).exit_code, 0);
}

TEST_F(DataVerbs, ShowTellsTaskStatisticsAndEpisodes) {
  const auto text = data_verb({"show", good_, "--episodes", "2"});
  EXPECT_EQ(text.exit_code, 0) << text.err;
  EXPECT_TRUE(has(text.out, "test/vector")) << text.out;
  EXPECT_TRUE(has(text.out, "/observations")) << text.out;
  EXPECT_TRUE(has(text.out, "(2 more")) << text.out;
  const json shown = parse_json(data_verb({"show", good_, "--json", "--episodes", "-1"}).out);
  EXPECT_EQ(shown.at("spec").get<TaskSpec>(), test::vector_task());
  EXPECT_EQ(shown.at("episode_table").size(), 4u);
  EXPECT_EQ(shown.at("statistics").at("observation_mean").size(), 3u);
  EXPECT_EQ(shown.at("arrays").size(), 11u);
  const json part = parse_json(data_verb({"show", part_, "--json"}).out);
  EXPECT_EQ(part.at("episodes"), 3);
  EXPECT_GT(part.at("unfinished_bytes"), 0);
  EXPECT_EQ(data_verb({"show", part_}).exit_code, 0);
}

TEST_F(DataVerbs, ValidatePrintsFilePathIndexAndExpectation) {
  const auto clean = data_verb({"validate", good_});
  EXPECT_EQ(clean.exit_code, 0) << clean.out << clean.err;
  EXPECT_TRUE(has(clean.out, good_ + ": clean, 4 episodes")) << clean.out;

  const auto text = data_verb({"validate", good_, bad_, none_, part_});
  EXPECT_EQ(text.exit_code, 3);
  EXPECT_EQ(text.err, "");
  EXPECT_TRUE(has(text.out, bad_ + ": /actions[")) << text.out;
  EXPECT_TRUE(has(text.out, "(episode 1, step 0): 5, wanted -1 to 1")) << text.out;
  EXPECT_TRUE(has(text.out, none_ + ": 11 bytes that do not begin")) << text.out;
  EXPECT_TRUE(has(text.out, part_ + ": byte ")) << text.out;

  const auto as_json = data_verb({"validate", bad_, "--json"});
  EXPECT_EQ(as_json.exit_code, 3);
  const json findings = parse_json(as_json.out).at("files").at(0).at("findings");
  ASSERT_EQ(findings.size(), 1u);
  EXPECT_EQ(findings[0].at("found"), "5");
}

TEST_F(DataVerbs, BadInputGetsOneLineAndItsCode) {
  const auto one_line = [](const test::CommandResult& result, int code, const std::string& text) {
    EXPECT_EQ(result.exit_code, code) << result.err;
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
    EXPECT_TRUE(has(result.err, text)) << result.err;
    EXPECT_EQ(result.out, "");
  };
  const std::string missing = folder_.path() / "missing";
  one_line(data_verb({"ls", missing}), 3, missing + ": does not exist, wanted a folder");
  one_line(data_verb({"ls", good_}), 3, good_ + ": is a file, wanted a folder");
  one_line(data_verb({"show", missing}), 3, missing + ": cannot open: No such file");
  one_line(data_verb({"show"}), 2, "file");
  one_line(data_verb({"validate"}), 2, "file");
  one_line(data_verb({"show", good_, "--episode", "3"}), 2, "episodes");
  const std::string bytes = read_file(good_);
  test::write_text(good_, bytes.substr(0, bytes.size() / 2));
  one_line(data_verb({"show", good_}), 3, "truncated");
  // Damage that HDF5 itself meets stays one line as well.
  std::string damaged = bytes;
  damaged[80] = static_cast<char>(damaged[80] ^ 16);
  test::write_text(good_, damaged);
  one_line(data_verb({"show", good_}), 3, good_);
}
}  // namespace
}  // namespace lram::datasets::data_verbs_test
