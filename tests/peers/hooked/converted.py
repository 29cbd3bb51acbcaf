"""The embedded model as a classic HookedTransformer."""

from __future__ import annotations

from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights

from tests.peers.embedded import theirs


def converted(**processing: bool) -> HookedTransformer:
    """The same weights; `processing` is what `load_and_process_state_dict` folds and centres."""
    module, _ = theirs()
    config = module.config
    made = HookedTransformer(
        HookedTransformerConfig(
            n_layers=config.n_layer,
            d_model=config.n_embd,
            n_ctx=config.n_positions,
            d_head=config.n_embd // config.n_head,
            n_heads=config.n_head,
            d_mlp=config.n_inner or 4 * config.n_embd,
            d_vocab=config.vocab_size,
            act_fn=config.activation_function,
            eps=config.layer_norm_epsilon,
            normalization_type="LN",
        )
    )
    made.load_and_process_state_dict(convert_gpt2_weights(module, made.cfg), **processing)
    return made
