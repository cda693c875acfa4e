#include <tierstream/io/error.h>
#include <tierstream/io/file_backends.h>
#include <tierstream/io/layer_table.h>

#include <utility>

namespace tierstream {

std::unique_ptr<StorageBackend> open_files(const LayerTable& table) {
  if (table.files.empty())
    return make_memory_backend(std::make_shared<MemoryFiles>());  // never asked to read
  if (!table.open_storage) {
    throw Error(Errc::kInvalidArgument, "the layer table names files but no storage to open them");
  }
  std::unique_ptr<StorageBackend> storage = table.open_storage();
  for (const SourceFile& file : table.files) {
    const FileInfo& info = storage->info(storage->open(file.path));
    if (info.bytes == file.info.bytes && info.version == file.info.version) continue;
    ErrorPlace place{.file = file.path};
    if (info.bytes != file.info.bytes) {
      place.expected_bytes = file.info.bytes;
      place.actual_bytes = info.bytes;
    }
    throw Error(Errc::kFileChanged, "the file was changed or replaced after the checkpoint was opened",
                std::move(place));
  }
  return storage;
}

}  // namespace tierstream
