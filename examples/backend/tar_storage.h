#pragma once

#include <tierstream/io/storage_registry.h>

#include <memory>

/// Reads files where they lie inside an uncompressed .tar archive: /models/x.tar/inner/model.safetensors is
/// the file inner/model.safetensors of the archive /models/x.tar. Add it to a registry as the scheme `tar`:
///
///   tierstream::StorageRegistry registry;
///   registry.add("tar", make_tar_backend);
///   auto checkpoint = tierstream::Checkpoint::open("tar:///models/x.tar/inner", {}, registry);
std::unique_ptr<tierstream::StorageBackend> make_tar_backend(const tierstream::StorageOptions& options);
