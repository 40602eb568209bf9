#include "datasets/reader.h"

#include <gtest/gtest.h>
#include <hdf5.h>

#include <thread>

#include "datasets/validate.h"
#include "lram/core/crc32c.h"
#include "lram/core/file.h"
#include "tests/datasets/fixtures.h"
#include "tests/support/temp_folder.h"

namespace lram::datasets::reader_test {
namespace {
namespace fs = std::filesystem;
using test::error_of;
using test::some_episodes;

TEST(Dataset, WriteThenReadReturnsTheEpisodes) {
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    SCOPED_TRACE(seed);
    const test::TempFolder folder;
    CounterRng rng(seed);
    const TaskSpec spec = test::random_task(rng);
    const auto episodes = test::random_episodes(spec, 1 + static_cast<int>(rng.below(7)), 30, rng);
    const auto path = folder.path() / "data.h5";
    test::write_dataset(path, spec, episodes);

    test::expect_dataset(path, episodes);
    const Dataset data(path);
    EXPECT_EQ(data.spec(), spec);
    EXPECT_EQ(data.generator(), (Generator{"test", "1"}));
    std::int64_t steps = 0;
    for (std::int64_t e = 0; e < data.num_episodes(); ++e) {
      EXPECT_EQ(data.length(e), data.episode(e).length());
      EXPECT_EQ(data.returns()[static_cast<std::size_t>(e)], data.episode(e).episode_return);
      steps += data.length(e);
    }
    EXPECT_EQ(data.num_steps(), steps);
  }
}

TEST(Dataset, Hdf5ReadsTheBytesThatAreMapped) {
  for (std::uint64_t seed = 0; seed < 10; ++seed) {
    SCOPED_TRACE(seed);
    const test::TempFolder folder;
    CounterRng rng(seed);
    const TaskSpec spec = test::random_task(rng);
    const auto path = folder.path() / "data.h5";
    test::write_dataset(path, spec, test::random_episodes(spec, 3, 30, rng));
    const Dataset data(path);
    const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
    ASSERT_GE(file, 0);
    for (const Dataset::Array& array : data.arrays()) {
      SCOPED_TRACE(array.spec.path);
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(array.bytes.data()) % kAlignment, 0u);
      EXPECT_EQ(crc32c(array.bytes), array.crc32c);
      const hid_t dataset = H5Dopen2(file, array.spec.path.c_str(), H5P_DEFAULT);
      const hid_t type = H5Dget_type(dataset);
      std::vector<std::byte> read(array.bytes.size());
      EXPECT_GE(H5Dread(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, read.data()), 0);
      EXPECT_TRUE(std::ranges::equal(read, array.bytes));
      H5Tclose(type);
      H5Dclose(dataset);
    }
    H5Fclose(file);
  }
}

TEST(Dataset, ManyThreadsReadAndOpen) {
  const test::TempFolder folder;
  const TaskSpec spec = test::vector_task();
  CounterRng rng(5);
  const auto episodes = test::random_episodes(spec, 30, 100, rng);
  const auto path = folder.path() / "data.h5";
  test::write_dataset(path, spec, episodes);
  const Dataset shared(path);
  std::atomic<int> differences{0};
  const auto work = [&](std::uint64_t seed) {
    CounterRng own(seed);
    for (int i = 0; i < 300; ++i) {
      const std::uint64_t e = own.below(episodes.size());
      const EpisodeView got = shared.episode(static_cast<std::int64_t>(e));
      if (!std::ranges::equal(got.observations, episodes[e].observations)) ++differences;
      if (i % 30 == 0) {
        const Dataset fresh(path);
        if (fresh.num_steps() != shared.num_steps()) ++differences;
      }
    }
  };
  std::vector<std::thread> threads;
  for (std::uint64_t seed = 0; seed < 16; ++seed) threads.emplace_back(work, seed);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(differences, 0);
}

TEST(Dataset, ATruncatedFileIsRefused) {
  const test::TempFolder folder;
  const auto path = folder.path() / "data.h5";
  const TaskSpec spec = test::vector_task();
  test::write_dataset(path, spec, some_episodes(spec));
  const std::string whole = read_file(path);
  for (std::size_t size = 0; size < whole.size(); size += 1 + size / 100) {
    SCOPED_TRACE(size);
    test::write_text(path, std::string_view(whole).substr(0, size));
    const std::string text = error_of(ErrorKind::kInput, [&] { Dataset{path}; });
    EXPECT_TRUE(text.starts_with(path.string() + ": ")) << text;
    if (size > 100) {
      EXPECT_EQ(text, fmt::format("{}: {} bytes, its header wants {}: truncated or overwritten",
                                  path.string(), size, whole.size()));
    }
  }
}

// Whatever single byte is wrong, the file is refused, or validate finds it, or it held nothing.
TEST(Dataset, AFlippedBitNeverGoesUnnoticed) {
  const test::TempFolder folder;
  const auto path = folder.path() / "data.h5";
  const TaskSpec spec = test::vector_task();
  const auto episodes = some_episodes(spec);
  test::write_dataset(path, spec, episodes);
  const std::string whole = read_file(path);
  int refused = 0, found = 0;
  for (std::size_t at = 0; at < whole.size(); ++at) {
    if (whole[at] == '\0' && at % 101 != 0) continue;
    SCOPED_TRACE(at);
    std::string damaged = whole;
    damaged[at] = static_cast<char>(damaged[at] ^ 1 << at % 8);
    test::write_text(path, damaged);
    try {
      const EpisodeFile file(path);
      if (validate(file).empty())
        test::expect_dataset(path, episodes);
      else
        ++found;
    } catch (const Error& error) {
      ASSERT_EQ(error.kind(), ErrorKind::kInput) << error.what();
      ++refused;
    }
  }
  EXPECT_GT(refused, 1000);
  EXPECT_GT(found, 100);
}

// A good file with episodes of 4, 2 and 3 steps, D = 3, A = 2, after `edit` has changed it through
// HDF5; returns what the reader says, less the path.
template <typename Edit>
std::string message_after(Edit edit) {
  const test::TempFolder folder;
  const auto path = folder.path() / "data.h5";
  const TaskSpec spec = test::vector_task();
  CounterRng rng(1);
  test::write_dataset(path, spec,
                      {test::random_episode(spec, 4, rng), test::random_episode(spec, 2, rng),
                       test::random_episode(spec, 3, rng)});
  const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
  edit(file);
  H5Fclose(file);
  const std::string text = error_of(ErrorKind::kInput, [&] { Dataset{path}; });
  EXPECT_TRUE(text.starts_with(path.string() + ": ")) << text;
  return text.substr(path.string().size() + 2);
}

struct NewArray {
  hid_t type = H5T_IEEE_F32LE;
  std::vector<hsize_t> shape;
  std::vector<hsize_t> chunks = {};
};

// Puts another array in the place of `name`.
void replace_array(hid_t file, const char* name, const NewArray& array) {
  H5Ldelete(file, name, H5P_DEFAULT);
  const hid_t space =
      H5Screate_simple(static_cast<int>(array.shape.size()), array.shape.data(), nullptr);
  const hid_t create = H5Pcreate(H5P_DATASET_CREATE);
  if (array.chunks.empty())
    H5Pset_alloc_time(create, H5D_ALLOC_TIME_EARLY);
  else
    H5Pset_chunk(create, static_cast<int>(array.chunks.size()), array.chunks.data());
  H5Dclose(H5Dcreate2(file, name, array.type, space, H5P_DEFAULT, create, H5P_DEFAULT));
  H5Pclose(create);
  H5Sclose(space);
}

void set_number(hid_t object, const char* name, std::int64_t value) {
  H5Adelete(object, name);
  const hid_t space = H5Screate(H5S_SCALAR);
  const hid_t attribute = H5Acreate2(object, name, H5T_STD_I64LE, space, H5P_DEFAULT, H5P_DEFAULT);
  H5Awrite(attribute, H5T_NATIVE_INT64, &value);
  H5Aclose(attribute);
  H5Sclose(space);
}

void set_text(hid_t object, const char* name, const std::string& value) {
  H5Adelete(object, name);
  const hid_t type = H5Tcopy(H5T_C_S1);
  H5Tset_size(type, value.size());
  const hid_t space = H5Screate(H5S_SCALAR);
  const hid_t attribute = H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
  H5Awrite(attribute, type, value.data());
  H5Aclose(attribute);
  H5Sclose(space);
  H5Tclose(type);
}

void set_table_entry(hid_t file, const char* name, std::size_t index, std::int64_t value) {
  const hid_t dataset = H5Dopen2(file, name, H5P_DEFAULT);
  std::vector<std::int64_t> column(3);
  H5Dread(dataset, H5T_NATIVE_INT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, column.data());
  column[index] = value;
  H5Dwrite(dataset, H5T_NATIVE_INT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, column.data());
  H5Dclose(dataset);
}

TEST(Dataset, SaysWhichAttributeIsWrong) {
  EXPECT_EQ(message_after([](hid_t file) { H5Adelete(file, "format_version"); }),
            "no attribute format_version: not a data set of LRAM");
  EXPECT_EQ(message_after([](hid_t file) { set_number(file, "format_version", 2); }),
            "format_version is 2, this program reads 1");
  EXPECT_EQ(message_after([](hid_t file) { set_text(file, "format_version", "1"); }),
            "attribute format_version of the file is no single integer");
  EXPECT_EQ(message_after([](hid_t file) { H5Adelete(file, "generator"); }),
            "no attribute generator");
  EXPECT_EQ(message_after([](hid_t file) { set_number(file, "task", 1); }),
            "attribute task is no single string of fixed size");
  EXPECT_EQ(message_after([](hid_t file) { set_text(file, "task", "test/other"); }),
            "attribute task is 'test/other', attribute spec is that of 'test/vector'");
  EXPECT_EQ(message_after([](hid_t file) { set_text(file, "spec", "{}"); }),
            "attribute spec: TaskSpec: no field 'id'");
  EXPECT_TRUE(message_after([](hid_t file) {
                set_text(file, "spec", "{");
              }).starts_with("attribute spec: [json.exception.parse_error"));
}

TEST(Dataset, SaysWhichArrayIsWrong) {
  EXPECT_TRUE(message_after([](hid_t file) {
                H5Ldelete(file, "/actions", H5P_DEFAULT);
              }).starts_with("cannot open /actions: "));
  EXPECT_EQ(message_after([](hid_t file) {
              replace_array(file, "/actions", {.shape = {9, 6}});
            }),
            "/actions has shape [9, 6], wanted [9, 2]");
  EXPECT_EQ(message_after([](hid_t file) { replace_array(file, "/actions", {.shape = {18}}); }),
            "/actions has shape [18], wanted [9, 2]");
  EXPECT_EQ(message_after([](hid_t file) {
              replace_array(file, "/observations", {.shape = {9, 3}});
            }),
            "/observations has shape [9, 3], wanted [12, 3]");
  EXPECT_EQ(message_after([](hid_t file) {
              replace_array(file, "/actions", {.shape = {9, 2}, .chunks = {3, 2}});
            }),
            "/actions is chunked, wanted one contiguous piece of this file");
  EXPECT_EQ(message_after([](hid_t file) {
              replace_array(file, "/actions", {.type = H5T_IEEE_F64LE, .shape = {9, 2}});
            }),
            "/actions is float64, wanted float32");
  EXPECT_EQ(message_after([](hid_t file) {
              replace_array(file, "/actions", {.type = H5T_IEEE_F32BE, .shape = {9, 2}});
            }),
            "/actions is float32 big-endian, wanted float32");
  EXPECT_EQ(message_after([](hid_t file) {
              replace_array(file, "/terminated", {.type = H5T_STD_I8LE, .shape = {9}});
            }),
            "/terminated is int8, wanted uint8");
  EXPECT_EQ(message_after([](hid_t file) {
              replace_array(file, "/episodes/variant", {.type = H5T_STD_I8LE, .shape = {3}});
            }),
            "/episodes/variant holds no strings of fixed size");
  EXPECT_EQ(message_after([](hid_t file) {
              replace_array(file, "/rewards", {.shape = {9, 1}});
            }),
            "/rewards has shape [9, 1], wanted one dimension of at least 1 and at most what the "
            "file holds");
  const std::string misplaced = message_after([](hid_t file) {
    replace_array(file, "/actions", {.shape = {9, 2}});
  });
  EXPECT_TRUE(misplaced.starts_with("/actions lies at byte ") ||
              misplaced == "/actions has no attribute crc32c")
      << misplaced;
  EXPECT_EQ(message_after([](hid_t file) {
              const hid_t dataset = H5Dopen2(file, "/truncated", H5P_DEFAULT);
              H5Adelete(dataset, "crc32c");
              H5Dclose(dataset);
            }),
            "/truncated has no attribute crc32c");
}

TEST(Dataset, SaysWhatIsWrongWithTheEpisodeTable) {
  EXPECT_EQ(message_after([](hid_t file) { set_table_entry(file, "/episodes/offset", 1, 5); }),
            "/episodes/offset[1] is 5, wanted 4");
  EXPECT_EQ(message_after(
                [](hid_t file) { set_table_entry(file, "/episodes/observation_offset", 2, 6); }),
            "/episodes/observation_offset[2] is 6, wanted 8");
  EXPECT_EQ(message_after([](hid_t file) { set_table_entry(file, "/episodes/length", 0, 0); }),
            "/episodes/length[0] is 0, wanted 1 to 9, the steps that are left");
  EXPECT_EQ(message_after([](hid_t file) { set_table_entry(file, "/episodes/length", 2, 4); }),
            "/episodes/length[2] is 4, wanted 1 to 3, the steps that are left");
  EXPECT_EQ(message_after([](hid_t file) { set_table_entry(file, "/episodes/length", 2, 2); }),
            "/episodes/length adds up to 8, /rewards has 9");
}

TEST(Dataset, NamesAFileThatIsNone) {
  const test::TempFolder folder;
  const auto path = folder.path() / "data.h5";
  EXPECT_EQ(error_of(ErrorKind::kInput, [&] { Dataset{path}; }),
            path.string() + ": cannot open: No such file or directory");
  EXPECT_EQ(error_of(ErrorKind::kInput, [&] { Dataset{folder.path()}; }),
            folder.path().string() + ": cannot read: Is a directory");
  test::write_text(path, "a text, and no data set of any kind");
  EXPECT_EQ(error_of(ErrorKind::kInput, [&] { Dataset{path}; }),
            path.string() + ": 35 bytes that do not begin as an HDF5 data set of LRAM does");
}
}  // namespace
}  // namespace lram::datasets::reader_test
