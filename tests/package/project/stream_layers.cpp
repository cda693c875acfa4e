#include <tierstream/io/checkpoint.h>
#include <tierstream/streamer/streamer.h>

#include <cstdio>

using namespace tierstream;

int main(int, char** argv) {
  Checkpoint checkpoint = Checkpoint::open(argv[1]);
  Streamer streamer(checkpoint.layers("model.layers"), {.budget = Budget::parse("gpu=64MiB,pinned=64MiB")});
  std::size_t layers = 0;
  for (Lease layer : streamer.pass({.last = true})) {
    TensorView weight = layer["mlp.up_proj.weight"];
    std::printf("%s: %zu bytes, the first is %d\n", layer.layer().name.c_str(), weight.spec->bytes,
                std::to_integer<int>(*weight.data));
    ++layers;
  }
  return layers == checkpoint.layer_lists().front().count ? 0 : 1;
}
