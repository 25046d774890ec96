# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""What every item tokenizer must do, as a mixin: a test class sets `model_class` and `get_config` and inherits all."""

import copy

import pytest
import torch
from transformers import AutoConfig, AutoModel


class ItemTokenizerTesterMixin:
    """Set `model_class`, and `get_config()` returning a tiny config with an `input_dim`."""

    model_class = None
    lost_weight = "encoder"  # how the name of some weight begins
    num_items = 300

    def get_config(self):
        raise NotImplementedError

    @pytest.fixture
    def model(self):
        torch.manual_seed(0)
        return self.randomize(self.model_class(self.get_config())).eval()

    @pytest.fixture
    def embeddings(self):
        return torch.randn(self.num_items, self.get_config().input_dim, generator=torch.Generator().manual_seed(1))

    @staticmethod
    def randomize(model):
        """Moves every parameter and floating buffer off its initial value, so that a lost one is noticed."""
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for tensor in model.state_dict().values():
                if tensor.is_floating_point():
                    tensor.add_(0.3 * torch.rand(tensor.shape, generator=generator))
                else:
                    tensor.fill_(1)
        return model

    def assert_same_state(self, model, other):
        state, other_state = model.state_dict(), other.state_dict()
        assert state.keys() == other_state.keys()
        for name, tensor in state.items():
            assert tensor.dtype == other_state[name].dtype, name
            assert torch.equal(tensor, other_state[name]), name

    def test_save_load(self, model, embeddings, tmp_path):
        model.save_pretrained(tmp_path)
        loaded, info = self.model_class.from_pretrained(tmp_path, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"]
        self.assert_same_state(model, loaded)
        assert torch.equal(model.encode(embeddings).codes, loaded.encode(embeddings).codes)
        assert torch.equal(
            model.decode(model.encode(embeddings).codes), loaded.decode(loaded.encode(embeddings).codes)
        )

    def test_auto_classes(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        config = AutoConfig.from_pretrained(tmp_path)
        assert type(config) is type(model.config)
        assert config.to_diff_dict() == {**model.config.to_diff_dict(), "architectures": config.architectures}
        loaded = AutoModel.from_pretrained(tmp_path)
        assert type(loaded) is self.model_class
        self.assert_same_state(model, loaded)

    def test_all_buffers_are_persistent(self, model):
        # from_pretrained builds on the meta device, where any other buffer comes back as garbage memory.
        assert {name for name, _ in model.named_buffers()} <= model.state_dict().keys()

    def test_missing_weights_are_initialized_and_others_survive(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        state = model.state_dict()
        lost = next(name for name in state if name.startswith(self.lost_weight))
        kept = {name: tensor for name, tensor in state.items() if name != lost}
        loaded = self.model_class.from_pretrained(None, config=model.config, state_dict=kept)
        for name, tensor in loaded.state_dict().items():
            assert tensor.isfinite().all() and (name == lost or torch.equal(tensor, state[name])), name

    @pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
    def test_half_precision_load_keeps_weights_and_codes(self, model, embeddings, tmp_path, dtype):
        model.save_pretrained(tmp_path)
        loaded = self.model_class.from_pretrained(tmp_path, dtype=dtype)
        self.assert_same_state(model, loaded)
        assert torch.equal(model.encode(embeddings).codes, loaded.encode(embeddings).codes)
        loaded.save_pretrained(tmp_path / "again")  # the config now says half precision
        again = self.model_class.from_pretrained(tmp_path / "again")
        self.assert_same_state(model, again)

    def test_tuple_equals_dict(self, model, embeddings):
        output, values = model(embeddings), model(embeddings, return_dict=False)
        assert isinstance(values, tuple)
        for expected, value in zip(output.to_tuple(), values, strict=True):
            assert torch.equal(expected, value)

    def test_encode_is_deterministic_and_leaves_the_model_alone(self, model, embeddings):
        before = copy.deepcopy(model)
        first = model.encode(embeddings)
        model.train()
        assert torch.equal(first.codes, model.encode(embeddings).codes)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(first.codes, model.encode(embeddings).codes)
        assert model.training
        self.assert_same_state(before, model)

    def test_evaluation_forward_uses_the_codes_of_encode(self, model, embeddings):
        assert torch.equal(model(embeddings).codes, model.encode(embeddings).codes)

    def test_code_types_and_shapes(self, model, embeddings):
        config = model.config
        codes = model.encode(embeddings).codes
        assert codes.dtype == torch.int64
        assert codes.shape == (self.num_items, len(config.codebook_sizes))
        assert (codes >= 0).all() and (codes < torch.tensor(list(config.codebook_sizes))).all()
        for levels in range(1, codes.shape[1] + 1):
            assert model.decode(codes[:, :levels]).shape == embeddings.shape

    def test_bad_embeddings(self, model, embeddings):
        with pytest.raises(ValueError, match="at least one row"):
            model.encode(embeddings[:0])
        with pytest.raises(ValueError, match=f", {model.config.input_dim}"):
            model.encode(embeddings[:, 1:])
        with pytest.raises(ValueError, match="`embeddings`"):
            model.encode(embeddings[0])
        embeddings[[3, 17], 1] = torch.tensor([float("nan"), float("-inf")])
        with pytest.raises(ValueError, match="2 rows.*: 3, 17"):
            model.encode(embeddings)

    def test_bad_codes(self, model, embeddings):
        codes = model.encode(embeddings).codes
        with pytest.raises(ValueError, match="`codes`"):
            model.decode(codes[:, :0])
        with pytest.raises(ValueError, match="`codes`"):
            model.decode(torch.cat([codes, codes], dim=1))
        with pytest.raises(ValueError, match="integers"):
            model.decode(codes.float())
        for wrong in (-1, model.config.codebook_sizes[-1]):
            codes[5, -1] = wrong
            with pytest.raises(ValueError, match=f"the first is {wrong} in row 5, level {codes.shape[1] - 1}"):
                model.decode(codes)
