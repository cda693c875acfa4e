#include <fmt/format.h>
#include <tierstream/tiers/ram_weights.h>

#include <algorithm>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>
#include <utility>

namespace tierstream {
namespace {

constexpr std::uintptr_t kPageBytes = 4096;

std::uintptr_t first_page(std::span<const std::byte> memory) {
  return reinterpret_cast<std::uintptr_t>(memory.data()) / kPageBytes * kPageBytes;
}
std::uintptr_t end_page(std::span<const std::byte> memory) {
  const auto end = reinterpret_cast<std::uintptr_t>(memory.data()) + memory.size();
  return (end + kPageBytes - 1) / kPageBytes * kPageBytes;
}
std::span<const std::byte> pages_of(std::uintptr_t begin, std::uintptr_t end) {
  return {reinterpret_cast<const std::byte*>(begin), end - begin};
}
/// From `begin` to `end`, less the pages of which only a part lies there: empty where there are no others.
std::span<const std::byte> whole_pages(std::uintptr_t begin, std::uintptr_t end) {
  const std::uintptr_t first = (begin + kPageBytes - 1) / kPageBytes * kPageBytes;
  return pages_of(first, std::max(first, end / kPageBytes * kPageBytes));
}
std::uintptr_t begin_of(std::span<const std::byte> memory) {
  return reinterpret_cast<std::uintptr_t>(memory.data());
}
std::uintptr_t end_of(std::span<const std::byte> memory) { return begin_of(memory) + memory.size(); }

}  // namespace

std::vector<PageRange> page_ranges(std::vector<std::span<const std::byte>> tensors) {
  std::ranges::sort(tensors, {}, [](std::span<const std::byte> tensor) { return tensor.data(); });
  std::vector<PageRange> ranges;
  std::uintptr_t end = 0;
  for (const std::span<const std::byte> tensor : tensors) {
    if (ranges.empty() || first_page(tensor) > (end + kPageBytes - 1) / kPageBytes * kPageBytes) {
      ranges.emplace_back();
      end = 0;
    }
    end = std::max(end, end_of(tensor));
    PageRange& range = ranges.back();
    range.tensors.push_back(tensor);
    range.pages = whole_pages(begin_of(range.tensors.front()), end);
  }
  std::erase_if(ranges, [](const PageRange& range) { return range.pages.empty(); });
  return ranges;
}

std::vector<std::span<const std::byte>> private_file_mappings() {
  std::vector<std::span<const std::byte>> mappings;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    // "7f00-7f10 rw-p 00000000 fd:00 1234 /path": addresses in hexadecimal; inode 0 is no file.
    std::istringstream fields(line);
    std::uintptr_t begin = 0;
    std::uintptr_t end = 0;
    char dash = 0;
    std::string permissions;
    std::string offset;
    std::string device;
    std::uint64_t inode = 0;
    fields >> std::hex >> begin >> dash >> end >> permissions >> offset >> device >> std::dec >> inode;
    if (fields && permissions.ends_with('p') && inode != 0) mappings.push_back(pages_of(begin, end));
  }
  return mappings;
}

RamWeights::RamWeights(const LayerTable& table, const TensorHomes& homes, Device& device,
                       TierBudget& pinned) {
  const SortedTensors tensors(table);
  if (std::ranges::none_of(tensors.all(), &SortedTensor::in_memory)) return;
  const std::vector<std::span<const std::byte>> files = private_file_mappings();
  const auto overlaps = [](std::span<const std::byte> a, std::span<const std::byte> b) {
    return a.data() < b.data() + b.size() && b.data() < a.data() + a.size();
  };
  std::vector<std::span<const std::byte>> chosen;
  for (const ResidentCandidate tied : resident_order(tensors)) {
    const SortedTensor& tensor = tied.front();
    if (!tensor.in_memory() || homes[tensor.layer][tensor.tensor] != TensorHome::kSlot) continue;
    const std::span memory(tensor.address(), tensor.bytes);
    if (std::ranges::any_of(files, [&](const auto& file) { return overlaps(file, memory); })) {
      if (refusal_.empty()) refusal_ = "some lie in a private mapping of a file";
      continue;
    }
    // Pages shared with a neighbour are counted for both: from above.
    std::optional<Reservation> reservation = pinned.try_reserve(end_page(memory) - first_page(memory));
    if (!reservation) {
      refusal_ = fmt::format("the pinned budget of {} holds no more of the weights in RAM",
                             format_bytes(pinned.limit_bytes()));
      break;
    }
    reservations_.push_back(std::move(*reservation));
    chosen.push_back(memory);
  }
  for (const PageRange& range : page_ranges(std::move(chosen))) add(device, range);
  std::ranges::sort(edges_);
}

void RamWeights::split_at_edges(std::vector<MemoryCopy>& copies) const {
  if (edges_.empty()) return;
  std::vector<MemoryCopy> split;
  split.reserve(copies.size());
  for (const MemoryCopy& copy : copies) {
    const std::byte* const end = copy.source + copy.bytes;
    for (const std::byte* from = copy.source; from < end;) {
      const auto edge = std::ranges::upper_bound(edges_, from);
      const std::byte* const to = edge == edges_.end() ? end : std::min(end, *edge);
      split.push_back({from, copy.slot_offset + static_cast<std::uint64_t>(from - copy.source),
                       static_cast<std::uint64_t>(to - from)});
      from = to;
    }
  }
  copies = std::move(split);
}

void RamWeights::abandon() noexcept {
  for (HostRegistration& registration : registrations_) registration.abandon();
}

std::uint64_t RamWeights::reserved_bytes() const noexcept {
  std::uint64_t sum = 0;
  for (const Reservation& reservation : reservations_) sum += reservation.bytes();
  return sum;
}

/// A range that is refused is tried again in parts: some other part of the program may have registered one.
void RamWeights::add(Device& device, const PageRange& range) {
  if (try_register(device, range.pages)) return;
  if (range.tensors.size() == 1) return;
  std::uintptr_t end = 0;
  for (const std::span<const std::byte> tensor : range.tensors) {
    const std::span<const std::byte> pages = whole_pages(std::max(begin_of(tensor), end), end_of(tensor));
    if (!pages.empty() && try_register(device, pages)) end = end_of(pages);
  }
}

bool RamWeights::try_register(Device& device, std::span<const std::byte> pages) {
  std::string refusal;
  HostRegistration registration =
      device.register_host({const_cast<std::byte*>(pages.data()), pages.size()}, refusal);
  if (!registration) {
    if (refusal_.empty()) refusal_ = std::move(refusal);
    return false;
  }
  registrations_.push_back(std::move(registration));
  edges_.push_back(pages.data());
  edges_.push_back(pages.data() + pages.size());
  registered_bytes_ += pages.size();
  return true;
}

}  // namespace tierstream
