#!/usr/bin/env python3
"""Writes random weights in the shape of TinyLlama 1.1B as a GGUF file that llama.cpp and jupiter both read.

make-gguf.py q4_0|q4_1|q4_k_m FILE    needs PyPI's gguf and numpy; speed does not depend on the weights' values
"""
import sys

import gguf
import numpy as np

DIM, HIDDEN, LAYERS, HEADS, KV_HEADS, VOCABULARY, CONTEXT = 2048, 5632, 22, 32, 4, 32000, 2048
KV_DIM = DIM // HEADS * KV_HEADS
Type = gguf.GGMLQuantizationType

FileType = gguf.LlamaFileType
# The type of most matrices, and what the file is called.
KINDS = {"q4_0": (Type.Q4_0, FileType.MOSTLY_Q4_0), "q4_1": (Type.Q4_1, FileType.MOSTLY_Q4_1),
         "q4_k_m": (Type.Q4_K, FileType.MOSTLY_Q4_K_M)}


def f16(value):
    return np.frombuffer(np.float16(value).tobytes(), np.uint8)


# Scales at fixed places of a block, so that weights have a standard deviation of about 0.02: (offset, f16 value).
SCALES = {Type.Q4_0: [(0, 0.035 / 8)], Type.Q4_1: [(0, 0.035 / 8), (2, -0.035 * 7.5 / 8)], Type.Q4_K: [(0, 7.6e-5), (2, 6.1e-4)], Type.Q6_K: [(208, 1.46e-5)]}


def random_blocks(rng, kind, rows, cols):
    """Bytes of a tensor, [rows][row bytes]."""
    block_size, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (rows * cols // block_size, block_bytes), dtype=np.uint8)
    for offset, scale in SCALES[kind]:
        blocks[:, offset:offset + 2] = f16(scale)
    return blocks.reshape(rows, cols // block_size * block_bytes)


def use_more_bits(layer):
    """llama.cpp's choice of layers that Q4_K_M gives 6 bits: the first and last eighth, and every third between."""
    return layer < LAYERS // 8 or layer >= 7 * LAYERS // 8 or (layer - LAYERS // 8) % 3 == 2


def tensors(kind):
    """(name, type, rows, cols) of every matrix."""
    base, _ = KINDS[kind]
    mixed = kind == "q4_k_m"
    yield "token_embd", base, VOCABULARY, DIM
    yield "output", Type.Q6_K if mixed else base, VOCABULARY, DIM
    for layer in range(LAYERS):
        best = Type.Q6_K if mixed and use_more_bits(layer) else base
        for name, chosen, rows, cols in (("attn_q", base, DIM, DIM), ("attn_k", base, KV_DIM, DIM),
                                         ("attn_v", best, KV_DIM, DIM), ("attn_output", base, DIM, DIM),
                                         ("ffn_gate", base, HIDDEN, DIM), ("ffn_up", base, HIDDEN, DIM),
                                         ("ffn_down", best, DIM, HIDDEN)):
            yield f"blk.{layer}.{name}", chosen, rows, cols


def add_tokenizer(writer):
    """The least that both programs accept as a SentencePiece vocabulary: control tokens, bytes, and names."""
    types = gguf.TokenType
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    kinds = [types.UNKNOWN, types.CONTROL, types.CONTROL] + [types.BYTE] * 256
    tokens += [f"t{i}" for i in range(len(tokens), VOCABULARY)]
    kinds += [types.NORMAL] * (VOCABULARY - len(kinds))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(i) for i in range(VOCABULARY)])
    writer.add_token_types(kinds)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def main():
    if len(sys.argv) != 3 or sys.argv[1] not in KINDS:
        sys.exit(__doc__)
    kind, path = sys.argv[1:]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("random 1.1B")
    writer.add_file_type(KINDS[kind][1])
    writer.add_block_count(LAYERS)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(DIM)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(DIM // HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(VOCABULARY)
    add_tokenizer(writer)
    rng = np.random.default_rng(1)
    for name, chosen, rows, cols in tensors(kind):
        writer.add_tensor(f"{name}.weight", random_blocks(rng, chosen, rows, cols), raw_dtype=chosen)
    norms = ["output_norm"] + [f"blk.{i}.{n}" for i in range(LAYERS) for n in ("attn_norm", "ffn_norm")]
    for name in norms:
        writer.add_tensor(f"{name}.weight", np.ones(DIM, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
