"""Run by another environment's interpreter: OpenAI's file to a folder of transformers, by transformers' own script."""

import json
import sys
from pathlib import Path

from clip.simple_tokenizer import SimpleTokenizer
from transformers import CLIPConfig, CLIPImageProcessor
from transformers.models.clip.convert_clip_original_pytorch_to_hf import convert_clip_checkpoint

source, folder = Path(sys.argv[1]), Path(sys.argv[2])
config, tokenizer = folder / "config", SimpleTokenizer()
text = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "projection_dim": 768}
vision = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "patch_size": 14,
    "projection_dim": 768,
}
CLIPConfig(text_config=text, vision_config=vision, projection_dim=768).save_pretrained(config)
convert_clip_checkpoint(str(source), str(folder), str(config))
CLIPImageProcessor().save_pretrained(folder)
(folder / "vocab.json").write_text(json.dumps(tokenizer.encoder))
merges = [" ".join(pair) for pair, _ in sorted(tokenizer.bpe_ranks.items(), key=lambda each: each[1])]
(folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
names = {"tokenizer_class": "CLIPTokenizer", "pad_token": "<|endoftext|>", "model_max_length": 77}
(folder / "tokenizer_config.json").write_text(json.dumps({**special, **names}))
