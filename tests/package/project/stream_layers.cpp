#include <tierstream/io/checkpoint.h>
#include <tierstream/streamer/streamer.h>

#include <cstdio>

using namespace tierstream;

int main(int, char** argv) {
  Checkpoint checkpoint = Checkpoint::open(argv[1]);
  Streamer streamer(checkpoint.layers("model.layers"), {.budget = Budget::parse("gpu=64MiB,pinned=64MiB")});
  for (Lease layer : streamer.pass({.last = true})) {
    TensorView weight = layer["mlp.up_proj.weight"];
    std::printf("%s: %zu tensors, %zu bytes at %p\n", layer.layer().name.c_str(), layer.size(),
                weight.spec->bytes, static_cast<void*>(weight.data));
  }
}
