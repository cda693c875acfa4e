#include "source_views.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <tierstream/adapters/torch/tensors.h>
#include <tierstream/io/error.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <string>

namespace tierstream {
namespace {

std::error_code last_error() { return {errno, std::generic_category()}; }

at::Tensor view_of(const void* data, const TensorSpec& spec, at::ScalarType type,
                   std::shared_ptr<SharedMapping> keep_alive) {
  // Read-only memory behind a tensor that torch takes for writable: who writes to it gets a fault.
  return at::from_blob(
      const_cast<void*>(data), spec.shape, [keep_alive = std::move(keep_alive)](void*) {},
      at::TensorOptions(type));
}

}  // namespace

/// A whole file, mapped shared and read-only.
class SharedMapping {
 public:
  explicit SharedMapping(const SourceFile& file) : bytes_(file.info.bytes) {
    const int descriptor = ::open(file.path.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) throw Error(Errc::kOpenFailed, "cannot open", {.file = file.path}, last_error());
    const bool is_same = is_unchanged(file.info, descriptor);
    void* const data = is_same ? ::mmap(nullptr, bytes_, PROT_READ, MAP_SHARED, descriptor, 0) : MAP_FAILED;
    const std::error_code cause = last_error();
    ::close(descriptor);
    if (!is_same) throw Error(Errc::kFileChanged, "the file was changed or replaced", {.file = file.path});
    if (data == MAP_FAILED) throw Error(Errc::kOutOfMemory, "cannot map", {.file = file.path}, cause);
    ::madvise(data, bytes_, MADV_RANDOM);  // a look at one weight reads no others into the page cache
    data_ = static_cast<const std::byte*>(data);
  }
  SharedMapping(const SharedMapping&) = delete;
  SharedMapping& operator=(const SharedMapping&) = delete;
  ~SharedMapping() { ::munmap(const_cast<std::byte*>(data_), bytes_); }

  const std::byte* data() const noexcept { return data_; }

 private:
  const std::byte* data_ = nullptr;
  std::uint64_t bytes_;
};

at::Tensor SourceViews::find(const TensorSpec& spec) {
  const auto type = find_scalar_type(spec.dtype);
  if (!type) return {};
  if (spec.bytes == 0) return at::empty(spec.shape, at::TensorOptions(*type));
  if (const auto* const extent = std::get_if<FileExtent>(&spec.source)) {
    return view_of_file(spec, *extent, *type);
  }
  return view_of(std::get<const std::byte*>(spec.source), spec, *type, nullptr);
}

at::Tensor SourceViews::view_of_file(const TensorSpec& spec, const FileExtent& extent, at::ScalarType type) {
  const SourceFile& file = table_.files[extent.file];
  if (!file.info.is_local_file || extent.offset % c10::elementSize(type) != 0) return {};
  std::shared_ptr<SharedMapping>& mapping = mappings_[extent.file];
  if (!mapping) mapping = std::make_shared<SharedMapping>(file);
  return view_of(mapping->data() + extent.offset, spec, type, mapping);
}

}  // namespace tierstream
