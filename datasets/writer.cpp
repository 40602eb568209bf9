#include "datasets/writer.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>

#include "datasets/file_builder.h"
#include "datasets/journal.h"
#include "datasets/reader.h"
#include "lram/core/error.h"
#include "lram/core/file.h"
#include "lram/core/json.h"
#include "lram/core/log.h"

namespace lram::datasets {
namespace fs = std::filesystem;
namespace {
// Throws unless what lies at `path` was collected for the same task by the same generator.
void check_same(const fs::path& path, const TaskSpec& found_spec, const Generator& found,
                const TaskSpec& spec, const Generator& generator) {
  if (found_spec.id != spec.id)
    throw_error(ErrorKind::kInput, "{}: holds task '{}', wanted '{}'", path.string(), found_spec.id,
                spec.id);
  if (found_spec != spec) {
    const nlohmann::json is = found_spec, want = spec;
    const auto field = nlohmann::json::json_pointer(nlohmann::json::diff(is, want)[0]["path"]);
    throw_error(ErrorKind::kInput, "{}: TaskSpec {} is {}, the task '{}' now has {}", path.string(),
                field.to_string(), json_text(is.value(field, nlohmann::json())), spec.id,
                json_text(want.value(field, nlohmann::json())));
  }
  if (found != generator)
    throw_error(ErrorKind::kInput, "{}: collected by '{}' version '{}', now '{}' version '{}'",
                path.string(), found.name, found.version, generator.name, generator.version);
}

// The only writer of a journal, across processes, for as long as this lives.
class JournalLock {
 public:
  explicit JournalLock(const fs::path& path) {
    descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    struct stat ours {
    }, there{};
    // The other writer may have finished, and removed it, between open and lock.
    if (descriptor_ < 0 || ::flock(descriptor_, LOCK_EX | LOCK_NB) != 0 ||
        ::fstat(descriptor_, &ours) != 0 || ::stat(path.c_str(), &there) != 0 ||
        ours.st_ino != there.st_ino) {
      if (descriptor_ >= 0) ::close(descriptor_);
      throw_error(ErrorKind::kResource, "{}: another process is collecting into it", path.string());
    }
  }
  ~JournalLock() { ::close(descriptor_); }
  JournalLock(const JournalLock&) = delete;
  JournalLock& operator=(const JournalLock&) = delete;

 private:
  int descriptor_ = -1;
};
}  // namespace

class DatasetWriter::Impl {
 public:
  Impl(const fs::path& path, const TaskSpec& spec, const Generator& generator)
      : path_(path), part_(journal_path(path)), spec_(spec), generator_(generator) {
    if (const std::string problem = storage_problem(spec); !problem.empty())
      throw_error(ErrorKind::kUsage, "{}: task '{}': {}", path.string(), spec.id, problem);
    if (fs::exists(part_)) {
      open_journal();
    } else if (fs::exists(path_)) {
      finished_.emplace(path_);
      check_same(path_, finished_->spec(), finished_->generator(), spec_, generator_);
      const auto seeds = finished_->seeds();
      seeds_.assign(seeds.begin(), seeds.end());
    } else {
      if (path_.has_parent_path()) make_folder(path_.parent_path());
      create_journal();
      open_journal();
    }
  }

  void append(const EpisodeView& episode) {
    check_shapes(episode, spec_);
    if (!journal_) {
      LRAM_CHECK(finished_, path_.string(), ": append after finish");
      create_journal();
      open_journal();
    }
    const std::uint64_t before = journal_->size();
    try {
      journal_->write(encode_episode(episode));
      journal_->sync();
    } catch (...) {
      // The journal goes on behind the last complete episode, here or in the next process.
      journal_.reset();
      std::error_code ignored;
      fs::resize_file(part_, before, ignored);
      journal_.emplace(part_, OutputFile::Mode::kAppend);
      throw;
    }
    seeds_.push_back(episode.seed);
  }

  std::int64_t num_episodes() const { return std::ssize(seeds_); }
  const std::vector<std::uint64_t>& seeds() const { return seeds_; }

  void finish(EpisodeOrder order) {
    if (!journal_) return;
    LRAM_CHECK(!seeds_.empty(), path_.string(), ": finish without an episode");
    const Journal journal(part_);
    std::vector<EpisodeView> episodes = journal.episodes();
    if (order == EpisodeOrder::kSeeds) std::ranges::stable_sort(episodes, {}, &EpisodeView::seed);
    build_file(path_, journal.spec(), journal.generator(), episodes);
    journal_.reset();
    finished_.reset();
    if (::unlink(part_.c_str()) != 0)
      throw_error(ErrorKind::kResource, "{}: cannot remove: {}", part_.string(),
                  std::strerror(errno));
    lock_.reset();
  }

 private:
  // Makes a journal with the episodes of the finished file, if there is one. It appears under its
  // name whole, and only where none is.
  void create_journal() {
    const fs::path beside = part_.string() + fmt::format(".{}.new", ::getpid());
    try {
      OutputFile file(beside, OutputFile::Mode::kTruncate);
      file.write(encode_journal_header(spec_, generator_));
      for (std::int64_t e = 0; e < num_episodes(); ++e)
        file.write(encode_episode(finished_->episode(e)));
      file.sync();
      file.close();
      if (::link(beside.c_str(), part_.c_str()) != 0)
        throw_error(ErrorKind::kResource, "{}: cannot make: {}", part_.string(),
                    std::strerror(errno));
      ::unlink(beside.c_str());
      sync_path(part_.has_parent_path() ? part_.parent_path() : fs::path("."));
    } catch (...) {
      ::unlink(beside.c_str());
      throw;
    }
  }

  void open_journal() {
    lock_.emplace(part_);
    const Journal found(part_);
    check_same(part_, found.spec(), found.generator(), spec_, generator_);
    seeds_.clear();
    for (const EpisodeView& episode : found.episodes()) seeds_.push_back(episode.seed);
    if (fs::exists(path_)) {
      const Dataset finished(path_);
      if (finished.num_episodes() > num_episodes())
        throw_error(
            ErrorKind::kInput,
            "{}: has {} episodes, its journal {} only {}: remove the one that is not wanted",
            path_.string(), finished.num_episodes(), part_.string(), num_episodes());
    }
    if (found.tail_bytes() > 0) {
      log_warning("{}: cut {} bytes of an unfinished episode, {} complete ones stay",
                  part_.string(), found.tail_bytes(), num_episodes());
      std::error_code code;
      fs::resize_file(part_, found.complete_bytes(), code);
      if (code)
        throw_error(ErrorKind::kResource, "{}: cannot cut: {}", part_.string(), code.message());
      sync_path(part_);
    }
    journal_.emplace(part_, OutputFile::Mode::kAppend);
  }

  fs::path path_, part_;
  TaskSpec spec_;
  Generator generator_;
  std::optional<Dataset> finished_;    // before the first append to a finished file
  std::optional<JournalLock> lock_;    // with journal_
  std::optional<OutputFile> journal_;  // open for appending
  std::vector<std::uint64_t> seeds_;   // of the complete episodes
};

DatasetWriter::DatasetWriter(const fs::path& path, const TaskSpec& spec, const Generator& generator)
    : impl_(std::make_unique<Impl>(path, spec, generator)) {}
DatasetWriter::~DatasetWriter() = default;
void DatasetWriter::append(const EpisodeView& episode) { impl_->append(episode); }
std::int64_t DatasetWriter::num_episodes() const { return impl_->num_episodes(); }
const std::vector<std::uint64_t>& DatasetWriter::seeds() const { return impl_->seeds(); }
void DatasetWriter::finish(EpisodeOrder order) { impl_->finish(order); }
}  // namespace lram::datasets
