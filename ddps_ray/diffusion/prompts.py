"""Class names to text embeddings, each prompt encoded once."""

import torch
from torch import Tensor
from transformers import CLIPTokenizer

from ddps_ray.diffusion.checkpoint import Checkpoint


class Prompts:
    """Text embeddings of the class prompts and of the null prompt (paper, below Eq. 5)."""

    def __init__(self, checkpoint: Checkpoint, template: str, null_prompt: str) -> None:
        """Encodes the null prompt; class prompts follow as they are asked for."""
        self._checkpoint, self._template = checkpoint, template
        self._known: dict[str, Tensor] = {}
        self.null_LD = self._encode(null_prompt)

    def of(self, class_text: str) -> Tensor:
        """Embedding of a class's prompt, L×D."""
        if class_text not in self._known:
            self._known[class_text] = self._encode(self._template.replace("{}", class_text))
        return self._known[class_text]

    @torch.inference_mode()
    def _encode(self, prompt: str) -> Tensor:
        tokenizer, encoder = self._checkpoint.tokenizer, self._checkpoint.text_encoder
        length = longest(tokenizer, encoder.config.max_position_embeddings)
        tokens = tokenizer(prompt, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        words: Tensor = encoder(tokens.input_ids.to(self._checkpoint.device)).last_hidden_state[0]
        return words


def longest(tokenizer: CLIPTokenizer, positions: int) -> int:
    """Tokens of a prompt that a text encoder reads, its begin and end included; the rest is cut off.

    Args:
        tokenizer: Of the checkpoint.
        positions: The encoder's own limit, `max_position_embeddings`.
    """
    return min(int(tokenizer.model_max_length), positions)
