#include "tools/cut_file_handler.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <tierstream/io/checkpoint.h>
#include <tierstream/streamer/streamer.h>
#include <unistd.h>

#include <csignal>
#include <cstddef>
#include <string>

#include "support/test_files.h"
#include "tools/synthetic_checkpoint.h"

namespace tierstream {
namespace {

/// In processes of their own, which go on to die.
class CutFileHandlerDeathTest : public testing::Test {
 protected:
  CutFileHandlerDeathTest() { GTEST_FLAG_SET(death_test_style, "threadsafe"); }

  static void touch(const std::byte* byte) {
    [[maybe_unused]] const std::byte value = *static_cast<const volatile std::byte*>(byte);
  }

  const TemporaryDirectory directory_;
};

TEST_F(CutFileHandlerDeathTest, EndsTheProcessWithALineThatNamesTheFile) {
  const auto use_a_file_that_is_cut = [this] {
    install_cut_file_handler();
    write_synthetic_checkpoint(directory_.path(), {.layers = 2, .layer_bytes = 1u << 20, .vocabulary = 64});
    const std::string file = directory_.path("model.safetensors");
    Streamer streamer(Checkpoint::open(directory_.path()).layers("model.layers"),
                      {.budget = Budget::parse("gpu=8MiB,pinned=4MiB,page_cache=64MiB")});
    const Lease layer = streamer.acquire(0);
    if (::truncate(file.c_str(), 0) != 0) return;
    touch(layer.tensor(0).data);
  };
  EXPECT_EXIT(
      use_a_file_that_is_cut(), testing::ExitedWithCode(2),
      "tierstream: .*/model.safetensors: the file was cut while the page-cache tier keeps pages of it");
}

TEST_F(CutFileHandlerDeathTest, LeavesOtherMappingsAlone) {
  const std::string path = directory_.write("file", pattern_bytes(1, 4096));
  const auto use_another_file_that_is_cut = [&] {
    install_cut_file_handler();
    const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    const void* const mapping = ::mmap(nullptr, 4096, PROT_READ, MAP_SHARED, file, 0);
    if (mapping == MAP_FAILED || ::truncate(path.c_str(), 0) != 0) return;
    touch(static_cast<const std::byte*>(mapping));
  };
  EXPECT_EXIT(use_another_file_that_is_cut(), testing::KilledBySignal(SIGBUS), "");
}

}  // namespace
}  // namespace tierstream
