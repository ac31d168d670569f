"""Writes the folders clip_text*, clip_tokenizer* and clip_text_defaults.json.

clip_text is a text encoder as the package saves it; clip_text_former has the layout of folders from before its
version 5: `pytorch_model.bin`, with a prefix and a buffer that have gone since. io.safetensors has the input
`ids`, the outputs `last_hidden_state` and `pooled`, and gradients of mean(last_hidden_state²) + mean(pooled²).

clip_tokenizer is a folder of the files that Stable Diffusion 1 has, with a vocabulary of the same format that
is trained here on a few sentences; clip_tokenizer_saved is one that the package has saved, and pads with "!"
as Stable Diffusion 2 does. prompts.json holds texts, the length they are padded to, and their ids.

    pip install torch transformers
    python clip_text.py [FOLDER]
"""

import json
import re
from collections import Counter

import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from golden import destination, emptied, gradients, save_io, shake, write_json

START, END = "<|startoftext|>", "<|endoftext|>"

TINY = {
    "vocab_size": 40,
    "hidden_size": 12,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 10,
    "bos_token_id": 36,
}

CORPUS = """
a photo of a cat. a photo of the dog, a painting of the old castle by the sea at night.
the astronaut's horse wasn't riding; they're painting what i'd seen, we've said and you'll see i'm here.
a photograph of an airplane, automobile, bird, cat, deer, dog, frog, horse, ship and truck.
highly detailed portrait of a woman, digital painting, trending, sharp focus, 4k 8k 1999 2024.
café naïve straße œuvre über ångström
"""

PROMPTS = [
    "a photo of a cat",
    "",
    " ",
    "A PHOTO of the DOG",
    "  a   photo \t of\n\na  cat  ",
    "a photo of a cat.",
    "the astronaut's horse",
    "They're here, I'm here, we'd've said: it wasn't YOU'LL",
    "'s 't 'quoted' ''double''",
    "4k 8k 1999, 3.14159 2nd",
    "x²+½=⅓ ٣ Ⅷ 一二三",
    "café",
    "cafe\u0301",
    "Ångström ÅNGSTRÖM A\u030angstro\u0308m",
    "naïve STRASSE straße İstanbul ΣΊΣΥΦΟΣ",
    "写真の猫 고양이 사진",
    "кошка на фото",
    "صورة قطة नमस्ते",
    "a 🐈 and 👩‍🚀🏽 on 🌙",
    "non\u00a0breaking\u2003space\u3000here\u200bzero\ufeffbom",
    "a_snake_case-word/path@example.com #tag $5 100%",
    "!!! ... ?!? (((masterpiece)))",
    "hello! world!",
    f"a {END} cat",
    f"{START}a cat{END}",
    "<|ENDOFTEXT|> <|startoftext>",
    "control\x00\x07\x1f\x85chars\r\nline",
    "ﬁne ﬀ ｆｕｌｌｗｉｄｔｈ",
    "\u0301 combining first",
    "private \ue000 \U0010ffff \ufffd",
    "word" * 60,
    "a photo of a cat and a dog, " * 12,
    ("cat " * 75).strip(),
    ("cat " * 76).strip(),
]


def shaken(**settings):
    """A model whose weights are all away from zero."""
    model = CLIPTextModel(CLIPTextConfig(**{**TINY, **settings})).eval()
    shake(model, unit=["embedding"])
    return model


def run(model, ids, folder):
    out = model(input_ids=ids)
    graded = ["embeddings.token_embedding.weight", "embeddings.position_embedding.weight", "final_layer_norm.weight"]
    for layer in range(model.config.num_hidden_layers):
        graded += [
            f"encoder.layers.{layer}.{part}.weight"
            for part in ("layer_norm1", "self_attn.q_proj", "self_attn.v_proj", "mlp.fc1", "mlp.fc2")
        ]
    loss = out.last_hidden_state.square().mean() + out.pooler_output.square().mean()
    io = {"ids": ids.int(), "last_hidden_state": out.last_hidden_state, "pooled": out.pooler_output}
    save_io(folder, io | gradients(model, loss, graded))


def models(root):
    torch.manual_seed(0)
    ids = torch.tensor(
        [
            [36, 5, 9, 3, 37, 37, 37, 37, 37, 37],
            [36, 37, 1, 1, 1, 1, 1, 1, 1, 1],
            # With tokens beyond the one that ends the text.
            [36, 0, 11, 12, 39, 14, 2, 2, 16, 37],
        ]
    )
    folder = emptied(root / "clip_text")
    model = shaken(hidden_act="gelu", eos_token_id=37, pad_token_id=1, projection_dim=12)
    model.save_pretrained(folder)
    run(model, ids, folder)

    folder = emptied(root / "clip_text_former")
    model = shaken(hidden_act="quick_gelu", eos_token_id=2, layer_norm_eps=1e-3, num_attention_heads=3)
    state = {f"text_model.{name}": tensor.clone() for name, tensor in model.state_dict().items()}
    state["text_model.embeddings.position_ids"] = torch.arange(TINY["max_position_embeddings"]).unsqueeze(0)
    torch.save(state, folder / "pytorch_model.bin")
    settings = json.loads(model.config.to_json_string())
    del settings["projection_dim"]
    former = {"_name_or_path": "somewhere", "dropout": 0.0, "torch_dtype": "float32", "transformers_version": "4.22.0"}
    settings = {"architectures": ["CLIPTextModel"]} | settings | former
    write_json(folder / "config.json", settings, indent=2, sort_keys=True)
    # Shorter than the network could take.
    run(model, ids[:, :8], folder)

    defaults = CLIPTextConfig().to_diff_dict()
    defaults |= {key: getattr(CLIPTextConfig(), key) for key in CLIPTextConfig.__annotations__}
    write_json(root / "clip_text_defaults.json", defaults, indent=2, sort_keys=True)


def alphabet():
    """A visible character for each byte, the printable ones first, in the order of CLIP's vocabulary."""
    printable = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or 174 <= b]
    others = [b for b in range(256) if b not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}


def train(merges):
    """Byte pair encoding: the pair that is most frequent becomes a symbol, again and again."""
    letters = alphabet()
    words = Counter()
    for word in re.findall(r"'(?:s|t|re|ve|m|ll|d)|[^\W\d_]+|\d|[^\w\s]+", CORPUS):
        symbols = [letters[b] for b in word.encode()]
        words[(*symbols[:-1], symbols[-1] + "</w>")] += 1
    learnt = []
    for _ in range(merges):
        pairs = Counter()
        for word, count in words.items():
            for pair in zip(word, word[1:]):
                pairs[pair] += count
        best = max(sorted(pairs), key=pairs.get)
        learnt.append(best)
        merged = Counter()
        for word, count in words.items():
            symbols, i = [], 0
            while i < len(word):
                pair = word[i : i + 2] == best
                symbols.append("".join(best) if pair else word[i])
                i += 2 if pair else 1
            merged[tuple(symbols)] += count
        words = merged
    symbols = list(letters.values())
    vocabulary = symbols + [s + "</w>" for s in symbols] + ["".join(pair) for pair in learnt] + [START, END]
    return {token: i for i, token in enumerate(vocabulary)}, learnt


def tokenizers(root):
    vocabulary, merges = train(120)
    folder = emptied(root / "clip_tokenizer")

    def dump(name, value):
        write_json(folder / name, value, ensure_ascii=False)

    def token(content, **more):
        return {"content": content, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False} | more

    dump("vocab.json", vocabulary)
    lines = ["#version: 0.2"] + [" ".join(pair) for pair in merges]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    named = {"bos_token": token(START), "eos_token": token(END), "unk_token": token(END)}
    dump("special_tokens_map.json", named | {"pad_token": END})
    marked = {name: {"__type": "AddedToken"} | value for name, value in named.items()}
    settings = {
        "add_prefix_space": False,
        "do_lower_case": True,
        "errors": "replace",
        "model_max_length": 77,
        "name_or_path": "somewhere",
        "pad_token": END,
        "special_tokens_map_file": "./special_tokens_map.json",
        "tokenizer_class": "CLIPTokenizer",
    }
    dump("tokenizer_config.json", settings | marked)
    prompts(folder)

    saved = emptied(root / "clip_tokenizer_saved")
    CLIPTokenizer.from_pretrained(folder, pad_token="!").save_pretrained(saved)
    prompts(saved)


def prompts(folder):
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    cases = []
    for length in (77, 8):
        texts = PROMPTS if length == 77 else PROMPTS[:9]
        ids = tokenizer(texts, padding="max_length", max_length=length, truncation=True).input_ids
        cases += [{"text": text, "length": length, "ids": row} for text, row in zip(texts, ids)]
    lines = ",\n".join(json.dumps(case) for case in cases)
    (folder / "prompts.json").write_text(f"[\n{lines}\n]\n")
    print(folder.name, len(tokenizer), "tokens,", len(cases), "prompts")


if __name__ == "__main__":
    root = destination()
    models(root)
    tokenizers(root)
