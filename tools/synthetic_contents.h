#pragma once

#include <tierstream/io/dtype.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace tierstream {

/// Changes whenever the same seed gives other bytes; stands in a synthetic checkpoint's metadata.
inline constexpr std::uint32_t kSyntheticVersion = 1;

/// The bytes of one synthetic tensor: a function of seed, dtype, full name and byte offset, so that any range
/// can be made, or checked, by itself. Floating-point elements are finite and below 1/4, so that a synthetic
/// checkpoint can be run as a model.
///
/// A value. Threads: any.
class SyntheticContents {
 public:
  SyntheticContents(std::uint64_t seed, DType dtype, std::string_view full_name);

  /// Writes the tensor's bytes from `offset` on.
  void fill(std::uint64_t offset, std::span<std::byte> destination) const noexcept;

  /// Compares `actual`, which should be the tensor's bytes from `offset` on. The byte of the tensor where the
  /// first difference lies; empty when there is none. Makes no copy.
  std::optional<std::uint64_t> first_difference(std::uint64_t offset,
                                                std::span<const std::byte> actual) const noexcept;

 private:
  std::uint64_t word_at(std::uint64_t index) const noexcept;
  std::byte byte_at(std::uint64_t offset) const noexcept;

  std::uint64_t key_;
  std::uint64_t fixed_bits_;
  std::uint64_t random_bits_;  ///< mask
};

}  // namespace tierstream
