#include "datasets/writer.h"

#include <gtest/gtest.h>

#include "datasets/journal.h"
#include "datasets/reader.h"
#include "lram/core/file.h"
#include "tests/datasets/fixtures.h"
#include "tests/support/temp_folder.h"

namespace lram::datasets::writer_test {
namespace {
namespace fs = std::filesystem;
using test::append_all;
using test::error_of;
using test::expect_dataset;
using test::names_in;
using test::some_episodes;
using test::write_text;

const Generator kGenerator{"test", "1"};

TEST(DatasetWriter, GoesOnFromItsJournal) {
  const test::TempFolder folder;
  const fs::path path = folder.path() / "sub/data.h5";
  const TaskSpec spec = test::vector_task();
  const auto episodes = some_episodes(spec, 6);
  for (std::int64_t e = 0; e < 6; ++e) {
    DatasetWriter writer(path, spec, kGenerator);
    ASSERT_EQ(writer.num_episodes(), e);
    writer.append(episodes[static_cast<std::size_t>(e)]);
    EXPECT_FALSE(fs::exists(path));
  }
  DatasetWriter writer(path, spec, kGenerator);
  writer.finish();
  expect_dataset(path, episodes);
  EXPECT_EQ(names_in(path.parent_path()), std::vector<std::string>{"data.h5"});
}

TEST(DatasetWriter, AppendsToAFinishedFile) {
  const test::TempFolder folder;
  const fs::path path = folder.path() / "data.h5";
  const TaskSpec spec = test::vector_task();
  const auto episodes = some_episodes(spec, 5);
  test::write_dataset(path, spec, {episodes.begin(), episodes.begin() + 2});
  {
    DatasetWriter writer(path, spec, kGenerator);
    EXPECT_EQ(writer.num_episodes(), 2);
    writer.finish();  // nothing to do
    EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"data.h5"});
  }
  {
    DatasetWriter writer(path, spec, kGenerator);
    writer.append(episodes[2]);
    expect_dataset(path, {episodes.begin(), episodes.begin() + 2});
  }
  DatasetWriter writer(path, spec, kGenerator);
  EXPECT_EQ(writer.num_episodes(), 3);
  append_all(writer, episodes);
  writer.finish();
  expect_dataset(path, episodes);
}

TEST(DatasetWriter, SameEpisodesGiveTheSameBytes) {
  const test::TempFolder folder;
  const TaskSpec spec = test::vector_task();
  test::write_dataset(folder.path() / "a.h5", spec, some_episodes(spec));
  test::write_dataset(folder.path() / "b.h5", spec, some_episodes(spec));
  EXPECT_EQ(read_file(folder.path() / "a.h5"), read_file(folder.path() / "b.h5"));
}

TEST(DatasetWriter, SaysWhyItCannotGoOn) {
  const test::TempFolder folder;
  const fs::path path = folder.path() / "data.h5", part = journal_path(path);
  const TaskSpec spec = test::vector_task();
  const auto episodes = some_episodes(spec);
  const auto message = [&](const TaskSpec& other, const Generator& generator) {
    return error_of(ErrorKind::kInput, [&] { DatasetWriter(path, other, generator); });
  };
  TaskSpec other_task = spec, other_spec = spec;
  other_task.id = "test/other";
  other_spec.reward_scale = 5.0;
  for (const bool finished : {false, true}) {
    const std::string name = finished ? path.string() : part.string();
    {
      DatasetWriter writer(path, spec, kGenerator);
      append_all(writer, episodes);
      if (finished) writer.finish();
    }
    EXPECT_EQ(message(other_task, kGenerator),
              name + ": holds task 'test/vector', wanted 'test/other'");
    EXPECT_EQ(message(other_spec, kGenerator),
              name + ": TaskSpec /reward_scale is 1.0, the task 'test/vector' now has 5.0");
    EXPECT_EQ(message(spec, {"planner", "2"}),
              name + ": collected by 'test' version '1', now 'planner' version '2'");
  }
  {
    DatasetWriter writer(path, spec, kGenerator);
    writer.append(episodes[0]);
    EXPECT_EQ(error_of(ErrorKind::kResource, [&] { DatasetWriter(path, spec, kGenerator); }),
              part.string() + ": another process is collecting into it");
  }
  fs::remove(part);
  fs::rename(path, folder.path() / "aside.h5");
  { DatasetWriter writer(path, spec, kGenerator); }
  fs::rename(folder.path() / "aside.h5", path);
  EXPECT_EQ(message(spec, kGenerator), path.string() + ": has 3 episodes, its journal " +
                                           part.string() +
                                           " only 0: remove the one that is not wanted");
}

TEST(DatasetWriter, RefusesWhatCannotBeStored) {
  const test::TempFolder folder;
  const fs::path path = folder.path() / "data.h5";
  const TaskSpec spec = test::vector_task();
  DatasetWriter writer(path, spec, kGenerator);
  const Episode good = some_episodes(spec)[0];
  const auto message = [&](auto damage) {
    Episode episode = good;
    damage(episode);
    return error_of(ErrorKind::kUsage, [&] { writer.append(episode); });
  };
  const std::int64_t steps = good.length();
  EXPECT_EQ(message([](Episode& e) { e = {}; }),
            "episode of 'test/vector': 0 steps, wanted at least 1");
  EXPECT_EQ(message([](Episode& e) { e.observations.pop_back(); }),
            fmt::format("episode of 'test/vector': observations has {} values, {} steps want {}",
                        3 * (steps + 1) - 1, steps, 3 * (steps + 1)));
  EXPECT_EQ(message([](Episode& e) { e.images.push_back(0); }),
            fmt::format("episode of 'test/vector': images has 1 values, {} steps want 0", steps));
  EXPECT_EQ(message([](Episode& e) { e.actions.push_back(0); }),
            fmt::format("episode of 'test/vector': actions has {} values, {} steps want {}",
                        2 * steps + 1, steps, 2 * steps));
  EXPECT_EQ(message([](Episode& e) { e.discrete_actions.push_back(0); }),
            fmt::format("episode of 'test/vector': discrete_actions has 1 values, {} steps want 0",
                        steps));
  EXPECT_EQ(message([](Episode& e) { e.terminated.pop_back(); }),
            fmt::format("episode of 'test/vector': terminated has {} values, {} steps want {}",
                        steps - 1, steps, steps));
  EXPECT_EQ(message([](Episode& e) { e.truncated.pop_back(); }),
            fmt::format("episode of 'test/vector': truncated has {} values, {} steps want {}",
                        steps - 1, steps, steps));
  EXPECT_EQ(message([](Episode& e) { e.variant = std::string("a\0b", 3); }),
            "episode of 'test/vector': the variant holds a null byte");
  EXPECT_EQ(writer.num_episodes(), 0);
  error_of(ErrorKind::kUsage, [&] { writer.finish(); });
  writer.append(good);
  writer.finish();
  error_of(ErrorKind::kUsage, [&] { writer.append(good); });

  const auto refusal = [&](auto damage) {
    TaskSpec bad = spec;
    damage(bad);
    const std::string text = error_of(
        ErrorKind::kUsage, [&] { DatasetWriter(folder.path() / "b.h5", bad, kGenerator); });
    return text.substr(text.rfind("': ") + 3);
  };
  EXPECT_EQ(refusal([](TaskSpec& s) { s.observation.vector_size = 0; }),
            "neither a vector nor an image to observe");
  EXPECT_EQ(refusal([](TaskSpec& s) { s.observation.image_width = 4; }),
            "observation of 3 values and an image of 0 x 4 x 0");
  EXPECT_EQ(refusal([](TaskSpec& s) { s.action.size = 0; }), "0 action entries, wanted at least 1");
  EXPECT_EQ(refusal([](TaskSpec& s) { s.action.discrete = true; }),
            "0 discrete actions, wanted at least 1");
  EXPECT_EQ(refusal([](TaskSpec& s) { s.id.clear(); }), "the task has no id");
}

TEST(DatasetWriter, NamesAFolderItCannotWrite) {
  const test::TempFolder folder;
  write_text(folder.path() / "file", "");
  const fs::path path = folder.path() / "file/data.h5";
  const std::string text =
      error_of(ErrorKind::kResource, [&] { DatasetWriter(path, test::vector_task(), kGenerator); });
  EXPECT_NE(text.find((folder.path() / "file").string()), std::string::npos) << text;
}

TEST(Journal, SaysWhatIsWrongWithItsHeader) {
  const test::TempFolder folder;
  const fs::path path = folder.path() / "data.h5.part";
  const std::string header = encode_journal_header(test::vector_task(), kGenerator);
  const auto message = [&](std::string_view text) {
    write_text(path, text);
    const std::string what = error_of(ErrorKind::kInput, [&] { Journal{path}; });
    return what.substr(path.string().size());
  };
  EXPECT_EQ(message(""), ": does not begin as a journal of LRAM does");
  EXPECT_EQ(message(std::string("LRAMPART\7\0\0\0\0\0\0\0", 16)),
            ": journal version is 7, this program reads 1");
  const std::string cut = message(header.substr(0, header.size() - 1));
  EXPECT_NE(cut.find(fmt::format("the file has {}", header.size() - 1)), std::string::npos) << cut;
  for (std::size_t at = 8; at < header.size(); at += 5) {
    std::string damaged = header;
    damaged[at] = static_cast<char>(damaged[at] ^ 1);
    write_text(path, damaged);
    try {
      const Journal journal(path);
      EXPECT_EQ(header[at], '\0') << at;  // padding
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kInput) << at;
    }
  }
}
}  // namespace
}  // namespace lram::datasets::writer_test
