#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <tierstream/tiers/budget.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace tierstream {

/// What a process that changes its budgets and one that watches it from outside tell each other, in a file
/// that both have mapped.
class BudgetState {
 public:
  explicit BudgetState(const std::string& path) {
    const int file = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0 || ::ftruncate(file, sizeof(Shared)) != 0) throw std::runtime_error("cannot open " + path);
    void* const mapping = ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    ::close(file);
    if (mapping == MAP_FAILED) throw std::runtime_error("cannot map " + path);
    shared_ = static_cast<Shared*>(mapping);
  }
  BudgetState(const BudgetState&) = delete;
  BudgetState& operator=(const BudgetState&) = delete;
  ~BudgetState() { ::munmap(shared_, sizeof(Shared)); }

  /// From now on no tier holds more.
  void allow(const Budget& budget) {
    ++shared_->changes;
    shared_->gpu = budget.gpu;
    shared_->pinned = budget.pinned;
    shared_->page_cache = budget.page_cache;
    ++shared_->changes;
  }
  Budget allowed() const { return {shared_->gpu, shared_->pinned, shared_->page_cache}; }
  /// Odd while `allow` is under way. What is asked between two calls with the same even answer belongs
  /// together.
  std::uint64_t changes() const { return shared_->changes; }

  void count_sample() { ++shared_->samples; }
  std::uint64_t samples() const { return shared_->samples; }

 private:
  struct Shared {
    std::atomic<std::uint64_t> changes;
    std::atomic<std::uint64_t> gpu;
    std::atomic<std::uint64_t> pinned;
    std::atomic<std::uint64_t> page_cache;
    std::atomic<std::uint64_t> samples;
  };
  Shared* shared_;
};

}  // namespace tierstream
