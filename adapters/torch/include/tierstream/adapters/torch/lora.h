#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

namespace tierstream {

/// A low-rank change of one weight W [out, in]: W + scaling B A.
struct LoraWeight {
  std::string name;  ///< of the weight in the checkpoint, e.g. "model.layers.0.self_attn.q_proj.weight"
  at::Tensor a;      ///< [rank, in]
  at::Tensor b;      ///< [out, rank]
  double scaling = 1;
};

/// A LoRA file set as Hugging Face PEFT writes it: `adapter_config.json` and `adapter_model.safetensors`,
/// whose tensors are called base_model.model.NAME.lora_A.weight and .lora_B.weight. The scaling is lora_alpha
/// / r, or lora_alpha / sqrt(r) with `use_rslora`; `rank_pattern` and `alpha_pattern` are followed. A plain
/// value; its tensors are views of the mapped file.
struct Lora {
  std::vector<LoraWeight> weights;

  /// Throws Error kInvalidArgument for a config that is none, or asks for what is not supported (DoRA,
  /// biases, fan_in_fan_out, modules_to_save, replicated layers, a change from some token on, an
  /// `init_lora_weights` that changes the model's own weights, layouts other than A and B of linear layers),
  /// and what Checkpoint::open throws.
  static Lora open(const std::string& directory);
};

}  // namespace tierstream
