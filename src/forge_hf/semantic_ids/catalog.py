# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Items and their semantic IDs, found from either side, saved as safetensors and JSON."""

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from huggingface_hub import CommitInfo
from safetensors.torch import save_file

from ..checks import check_type
from ..errors import CorruptCatalogError, DuplicateItemError, InvalidCodesError, UnknownItemError
from ..hub import find_files, push_folder, write_then_rename
from .collisions import CandidateFunction, resolve_collisions
from .item_ids import as_id_array, name_first, refuse_surrogates
from .item_sid import item_sid_columns, read_item_sid
from .layout import SemanticIdLayout, row_keys
from .quality import codes_quality
from .serialization import (
    CODES_FILE,
    CONFIG_FILE,
    FORMAT_VERSION,
    REMEDY,
    pack_ids,
    read_config,
    read_tensors,
    unpack_ids,
)


if TYPE_CHECKING:
    from datasets import Dataset


__all__ = ["SemanticIdCatalog"]

_DERIVED = ("keep", "suffix")  # strategies whose codes show what the item tokenizer's were


class SemanticIdCatalog:
    """
    The semantic ID of every item.

    Args:
        item_ids (`Sequence[str]` or `Sequence[int]`):
            Ids of the items, all `str` or all `int`, each once. They are kept as given.
        codes (`torch.Tensor`, `np.ndarray` or nested `list` of shape `(num_items, num_levels)`):
            Codes of each item, counted from 0 in each level.
        layout ([`SemanticIdLayout`]):
            Layout of the codes.
        on_collision (`str`, *optional*, defaults to `"keep"`):
            How equal codes were dealt with. Only noted here: [`~SemanticIdCatalog.from_codes`] deals with them.
        original_codes (`torch.Tensor`, `np.ndarray` or nested `list` of the shape of `codes`, *optional*):
            The codes that the item tokenizer gave, where `codes` aren't those and `on_collision` is neither `"keep"`
            nor `"suffix"`.

    Raises:
        [`InvalidCodesError`]: `codes` don't fit `layout` or `item_ids`, or are empty.
        [`DuplicateItemError`]: An item id occurs more than once.
        `ValueError`: Item ids are neither all `str` nor all `int`, or aren't Unicode.
        `TypeError`: `layout` or `on_collision` is of another class.

    Example:

    ```python
    >>> from forge_hf.semantic_ids import SemanticIdCatalog

    >>> catalog = SemanticIdCatalog.from_codes(
    ...     ["shirt", "shoe", "sock"], [[1, 2], [0, 3], [1, 2]], codebook_sizes=[4, 4], on_collision="suffix"
    ... )
    >>> catalog.codes_for(["sock"])
    tensor([[1, 2, 1]])
    >>> catalog.items_for([[1, 2, 0], [3, 3, 0]])
    [['shirt'], []]
    ```
    """

    def __init__(
        self,
        item_ids: Sequence[str] | Sequence[int],
        codes: torch.Tensor | np.ndarray | Sequence,
        layout: SemanticIdLayout,
        on_collision: str = "keep",
        original_codes: torch.Tensor | np.ndarray | Sequence | None = None,
    ):
        check_type("layout", layout, SemanticIdLayout)
        check_type("on_collision", on_collision, str)
        self.layout = layout
        self.on_collision = on_collision
        self._original_codes = None
        self._ids = as_id_array(item_ids)
        if self._ids.dtype == object:
            refuse_surrogates(self._ids)
        self.codes = layout.validate(codes).cpu()
        if self.codes.ndim != 2 or len(self.codes) == 0 or len(self.codes) != len(self._ids):
            raise InvalidCodesError(
                f"`codes` must be of shape (num_items, {layout.num_levels}) with one row for each of the "
                f"{len(self._ids)} `item_ids` and at least one item, got {tuple(self.codes.shape)}."
            )
        if on_collision == "suffix" and layout.num_levels < 2:
            raise InvalidCodesError(f"`on_collision='suffix'` takes two levels or more, got {layout.num_levels}.")
        if original_codes is not None:
            self._original_codes = layout.validate(original_codes).cpu()
            if self._original_codes.shape != self.codes.shape or on_collision in _DERIVED:
                raise InvalidCodesError(
                    f"`original_codes` must have the shape {tuple(self.codes.shape)} of `codes`, and are for other "
                    f"strategies than {_DERIVED}, got {tuple(self._original_codes.shape)} and {on_collision!r}."
                )
        self._refuse_duplicates()

    @classmethod
    def from_codes(
        cls,
        item_ids: Sequence[str] | Sequence[int],
        codes: torch.Tensor | np.ndarray | Sequence,
        *,
        codebook_sizes: Sequence[int],
        on_collision: str = "suffix",
        capacity: int = 5,
        seed: int = 0,
        candidates: CandidateFunction | None = None,
    ) -> "SemanticIdCatalog":
        """
        Makes a catalog of the codes that an item tokenizer gave.

        Args:
            item_ids (`Sequence[str]` or `Sequence[int]`):
                Ids of the items, all `str` or all `int`, each once.
            codes (`torch.Tensor`, `np.ndarray` or nested `list` of shape `(num_items, num_levels)`):
                Codes of each item, counted from 0 in each level.
            codebook_sizes (`Sequence[int]`):
                Number of codes of each level.
            on_collision (`str`, *optional*, defaults to `"suffix"`):
                What becomes of items with equal codes. `"suffix"` appends TIGER's level that numbers them in the order
                of `item_ids`, `"keep"` lets a semantic ID name several items. `"knn"` and `"random"` are FORGE's: a
                semantic ID names up to `capacity` items, and what is over moves to other codes of the last level, the
                nearest with room or random ones ([`~semantic_ids.collisions.move_to_nearest`],
                [`~semantic_ids.collisions.move_to_random`]).
            capacity (`int`, *optional*, defaults to 5):
                The most items of a semantic ID, for `"knn"` and `"random"`.
            seed (`int`, *optional*, defaults to 0):
                Seed of who stays and, for `"random"`, of where the others go.
            candidates (`Callable`, *optional*):
                For `"knn"`, the nearest codes of the last level: given row numbers of `codes`, an int64 tensor of
                shape `(n,)`, it returns codes and distances of shape `(n, C)`. Of an RQ-VAE these are
                `candidates` and `candidate_distances` of `model.encode(embeddings[rows], num_candidates=200)`.

        Returns:
            [`SemanticIdCatalog`]. Its [`~SemanticIdCatalog.original_codes`] are `codes`.

        Raises:
            [`InvalidCodesError`]: `codes` don't fit `codebook_sizes` or `item_ids`.
            [`DuplicateItemError`]: An item id occurs more than once.
            [`CapacityError`]: Items find no room at this `capacity`. The message says how many, and what would do.
            `ValueError`: `on_collision` isn't one of the strategies, or `"knn"` lacks `candidates`.

        Example:

        ```python
        >>> from forge_hf.semantic_ids import SemanticIdCatalog

        >>> codes = [[1, 2], [0, 3], [1, 2]]
        >>> catalog = SemanticIdCatalog.from_codes(
        ...     ["shirt", "shoe", "sock"], codes, codebook_sizes=[4, 4], on_collision="random", capacity=1
        ... )
        >>> catalog.original_codes[2], len(catalog.codes.unique(dim=0))
        (tensor([1, 2]), 3)
        ```
        """
        catalog = cls(item_ids, codes, SemanticIdLayout(codebook_sizes))
        original = catalog.codes
        resolved, layout = resolve_collisions(original, catalog.layout, on_collision, capacity, seed, candidates)
        catalog.codes, catalog.layout, catalog.on_collision = resolved, layout, on_collision
        if on_collision not in _DERIVED and not torch.equal(resolved, original):
            catalog._original_codes = original
        return catalog

    def __len__(self) -> int:
        return len(self._ids)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(num_items={len(self)}, codebook_sizes={list(self.layout.codebook_sizes)}, "
            f"on_collision={self.on_collision!r}, fingerprint={self.fingerprint!r})"
        )

    @cached_property
    def item_ids(self) -> list[str] | list[int]:
        """Ids of the items, in the order of [`~SemanticIdCatalog.codes`]."""
        return self._ids.tolist()

    @property
    def original_codes(self) -> torch.Tensor:
        """
        The codes that the item tokenizer gave, before equal ones were dealt with: `codes` without the level that
        `"suffix"` appended, the codes from which `"knn"` and `"random"` moved items away, else `codes` themselves.
        They count from 0 in each level, within the first `codebook_sizes` of the layout.
        """
        if self._original_codes is not None:
            return self._original_codes
        return self.codes[:, :-1] if self.on_collision == "suffix" else self.codes

    @cached_property
    def fingerprint(self) -> str:
        """
        Hash of the layout and of every item's codes, 32 hexadecimal digits. It doesn't depend on the order of the
        items or on the machine, and tells the item ids `1` and `"1"` apart.
        """
        return self._hash(self.codes)

    def _hash(self, codes: torch.Tensor) -> str:
        order = self._id_order
        parts = {"codes": np.ascontiguousarray(codes.numpy()[order], dtype="<i4"), **pack_ids(self._ids[order])}
        header = {"codebook_sizes": list(self.layout.codebook_sizes), "num_items": len(self), "parts": sorted(parts)}
        digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
        for name in sorted(parts):
            digest.update(parts[name].data)
        return digest.hexdigest()[:32]

    def indices_for(self, item_ids: Sequence[str] | Sequence[int]) -> torch.Tensor:
        """
        Finds the rows of items.

        Args:
            item_ids (`Sequence[str]` or `Sequence[int]` of length `n`):
                Ids to look up, repeated or not.

        Returns:
            `torch.Tensor` of dtype int64 and shape `(n,)`: rows of [`~SemanticIdCatalog.codes`].

        Raises:
            [`UnknownItemError`]: An id isn't in the catalog.
        """
        try:
            wanted = as_id_array(item_ids)
        except ValueError as error:
            raise UnknownItemError(str(error)) from error
        if len(wanted) == 0:
            return torch.empty(0, dtype=torch.int64)
        if wanted.dtype != self._ids.dtype:
            kind, other = ("str", "int") if self._ids.dtype == object else ("int", "str")
            raise UnknownItemError(
                f"`item_ids` of this catalog are {kind}, got {other} such as {name_first(wanted[:1].tolist())}. "
                "Convert them first."
            )
        if wanted.dtype == object:
            rows = np.fromiter((self._row_of.get(item, -1) for item in wanted), dtype=np.int64, count=len(wanted))
        else:
            at = np.searchsorted(self._sorted_ids, wanted).clip(max=len(self) - 1)
            rows = np.where(self._sorted_ids[at] == wanted, self._id_order[at], -1)
        if (rows < 0).any():
            unknown = list(dict.fromkeys(wanted[rows < 0].tolist()))
            raise UnknownItemError(
                f"`item_ids` or a history names {len(unknown)} items that aren't in the catalog of {len(self)}: "
                f"{name_first(unknown)}. Leave them out, or encode them and make a catalog that has them."
            )
        return torch.from_numpy(rows)

    def codes_for(self, item_ids: Sequence[str] | Sequence[int]) -> torch.Tensor:
        """
        Finds the semantic IDs of items.

        Args:
            item_ids (`Sequence[str]` or `Sequence[int]` of length `n`):
                Ids to look up, repeated or not.

        Returns:
            `torch.Tensor` of dtype int64 and shape `(n, num_levels)`.

        Raises:
            [`UnknownItemError`]: An id isn't in the catalog.
        """
        return self.codes[self.indices_for(item_ids)]

    def items_for(self, codes: torch.Tensor | np.ndarray | Sequence) -> list[list[str]] | list[list[int]]:
        """
        Finds the items of semantic IDs.

        Args:
            codes (`torch.Tensor`, `np.ndarray` or nested `list` of shape `(n, num_levels)`):
                Semantic IDs, counted from 0 in each level.

        Returns:
            `list` of `n` lists of item ids, each in the order of the catalog, and empty where no item has the codes.

        Raises:
            [`InvalidCodesError`]: `codes` aren't codes of the layout.
        """
        codes = self.layout.validate(codes)
        if codes.ndim != 2:
            raise InvalidCodesError(
                f"`codes` must be of shape (n, {self.layout.num_levels}), got {tuple(codes.shape)}."
            )
        wanted = row_keys(codes)
        order, keys = self._sorted_codes
        first, last = np.searchsorted(keys, wanted, side="left"), np.searchsorted(keys, wanted, side="right")
        return [self._ids[order[start:stop]].tolist() for start, stop in zip(first, last, strict=True)]

    def save_pretrained(self, save_directory: str | os.PathLike) -> None:
        """
        Saves the catalog as `semantic_ids.safetensors` and `semantic_ids.json`.

        Args:
            save_directory (`str` or `os.PathLike`):
                Folder to write to, made if there is none. A model and a tokenizer may live in it too.
        """
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: torch.from_numpy(part) for name, part in pack_ids(self._ids).items()}
        tensors["codes"] = self.codes.to(torch.int32).contiguous()
        config = {
            "format_version": FORMAT_VERSION,
            **self.layout.to_dict(),
            "num_items": len(self),
            "item_id_type": "str" if self._ids.dtype == object else "int",
            "on_collision": self.on_collision,
            "fingerprint": self.fingerprint,
            "quality": self.quality,
        }
        if self._original_codes is not None:
            tensors["original_codes"] = self._original_codes.to(torch.int32).contiguous()
            config["original_fingerprint"] = self._hash(self._original_codes)
        text = json.dumps(config, indent=2) + "\n"
        # The JSON goes last: it holds the fingerprint, so a save that was cut short is noticed at the next load.
        write_then_rename(folder / CODES_FILE, lambda path: save_file(tensors, path, metadata={"format": "pt"}))
        write_then_rename(folder / CONFIG_FILE, lambda path: path.write_text(text, encoding="utf-8"))

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike | None = None,
        local_files_only: bool = False,
    ) -> "SemanticIdCatalog":
        """
        Loads a catalog, and checks that it is whole.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`):
                A folder that [`~SemanticIdCatalog.save_pretrained`] wrote, or the id of a repository on the Hub.
            revision (`str`, *optional*):
                Branch, tag or commit of the repository.
            token (`str` or `bool`, *optional*):
                Token of the Hub, by default the one that `hf auth login` stored.
            cache_dir (`str` or `os.PathLike`, *optional*):
                Folder to keep downloads in.
            local_files_only (`bool`, *optional*, defaults to `False`):
                Whether to look into the cache only.

        Returns:
            [`SemanticIdCatalog`]

        Raises:
            [`CorruptCatalogError`]: A file is truncated, altered, or of an unknown format.
            `FileNotFoundError`: There is no catalog.
            [`HubError`]: The Hub can't be reached, or refuses.
        """
        config_file, codes_file = find_files(
            pretrained_model_name_or_path,
            (CONFIG_FILE, CODES_FILE),
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
        )
        config = read_config(config_file)
        tensors = read_tensors(codes_file, config)
        try:
            ids = unpack_ids(tensors)
            layout, original = SemanticIdLayout.from_dict(config), tensors.get("original_codes")
            catalog = cls(ids, tensors["codes"], layout, config["on_collision"], original)
        except (ValueError, IndexError) as error:
            reason = str(error).rstrip(".")
            raise CorruptCatalogError(
                f"{codes_file} doesn't hold what {config_file} says: {reason}. {REMEDY}"
            ) from error
        if catalog.fingerprint != config["fingerprint"]:
            raise CorruptCatalogError(
                f"{codes_file} has the fingerprint {catalog.fingerprint}, but {config_file} says "
                f"{config['fingerprint']}: one of the two was altered or belongs to another catalog. {REMEDY}"
            )
        if original is not None and catalog._hash(catalog._original_codes) != config["original_fingerprint"]:
            raise CorruptCatalogError(f"{codes_file} holds other original codes than {config_file} says. {REMEDY}")
        catalog.quality = config["quality"]
        return catalog

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        commit_message: str = "Upload semantic IDs",
        overwrite_card: bool = False,
    ) -> CommitInfo:
        """
        Uploads the catalog to the Hub, in one commit. A repository without a card gets one.

        Args:
            repo_id (`str`):
                Id of the repository, made if there is none.
            private (`bool`, *optional*):
                Whether a repository that has to be made is private. By default as the organization has it.
            token (`str` or `bool`, *optional*):
                Token of the Hub, by default the one that `hf auth login` stored.
            revision (`str`, *optional*):
                Branch to commit to, made if there is none.
            commit_message (`str`, *optional*, defaults to `"Upload semantic IDs"`):
                Message of the commit.
            overwrite_card (`bool`, *optional*, defaults to `False`):
                Whether to replace a card that somebody wrote in the repository.

        Returns:
            `huggingface_hub.CommitInfo`

        Raises:
            [`FingerprintMismatchError`]: The repository holds a model that was trained on another catalog.
            [`HubError`]: The Hub can't be reached, or refuses.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return push_folder(
                folder,
                repo_id,
                private=private,
                token=token,
                revision=revision,
                commit_message=commit_message,
                overwrite_card=overwrite_card,
            )

    def to_dataset(self) -> "Dataset":
        """
        The catalog as a `datasets.Dataset` with the columns of AL-GR's Item-SID: `item_id`, `codebook_lv1`,
        `codebook_lv2`, ..., with codes counted from 0 in each level.

        Returns:
            `datasets.Dataset`
        """
        from datasets import Dataset

        columns = zip(item_sid_columns(self.layout.num_levels), self.codes.numpy().T, strict=True)
        return Dataset.from_dict({"item_id": self.item_ids, **dict(columns)})

    @classmethod
    def from_dataset(
        cls, dataset: "Dataset", *, codebook_sizes: Sequence[int], on_collision: str = "keep", **options
    ) -> "SemanticIdCatalog":
        """
        The inverse of [`~SemanticIdCatalog.to_dataset`], which also takes the files of AL-GR's Item-SID as
        [`read_item_sids`] reads them.

        Rows without codes, which those files have, are left out; one warning says how many.

        Args:
            dataset (`datasets.Dataset`):
                Items, with the columns `item_id` (or `base62_string`, as AL-GR has it), `codebook_lv1`,
                `codebook_lv2`, ... Other columns are left alone.
            codebook_sizes (`Sequence[int]`):
                Number of codes of each level. The dataset must have as many `codebook_lv` columns.
            on_collision (`str`, *optional*, defaults to `"keep"`):
                As in [`~SemanticIdCatalog.from_codes`].
            **options:
                `capacity`, `seed` and `candidates` of [`~SemanticIdCatalog.from_codes`]. Rows that `candidates` is
                asked for count the items that have codes.

        Returns:
            [`SemanticIdCatalog`]

        Raises:
            [`InvalidCodesError`]: A column is missing, a code isn't an integer, or no row has codes.

        Example:

        ```python
        >>> import tempfile
        >>> from pathlib import Path
        >>> from forge_hf import SemanticIdCatalog
        >>> from forge_hf.data import read_item_sids

        >>> path = Path(tempfile.mkdtemp()) / "tiny_item_sid_final.csv"
        >>> _ = path.write_text("base62_string,codebook_lv1,codebook_lv2\\nNA,0,3\\n1e5,1,2\\n")
        >>> dataset = read_item_sids(path)  # load_dataset("csv", ...) would take the item NA for a missing value
        >>> SemanticIdCatalog.from_dataset(dataset, codebook_sizes=[4, 4]).item_ids
        ['NA', '1e5']

        >>> from huggingface_hub import hf_hub_download

        >>> file = "item_info/tiny_item_sid_final.csv"
        >>> path = hf_hub_download("AL-GR/AL-GR-Tiny", file, repo_type="dataset")  # doctest: +SKIP
        >>> SemanticIdCatalog.from_dataset(read_item_sids(path), codebook_sizes=[8192] * 3)  # doctest: +SKIP
        ```
        """
        ids, codes = read_item_sid(dataset, SemanticIdLayout(codebook_sizes).num_levels)
        return cls.from_codes(ids, codes, codebook_sizes=codebook_sizes, on_collision=on_collision, **options)

    @cached_property
    def quality(self) -> dict[str, Any]:
        """
        What the catalog's card states, saved beside the codes. By default what codes alone tell;
        `catalog.quality = semantic_id_quality(catalog, ...).to_dict()` puts all that was measured in its place.
        """
        original = self.original_codes
        return codes_quality(original, self.codes, self.layout.codebook_sizes[: original.shape[1]])

    def _refuse_duplicates(self) -> None:
        if self._ids.dtype == object:
            if len(self._row_of) == len(self):
                return
            repeated = [item for row, item in enumerate(self._ids) if self._row_of[item] != row]
        else:
            again = self._sorted_ids[1:] == self._sorted_ids[:-1]
            if not again.any():
                return
            repeated = self._sorted_ids[1:][again].tolist()
        repeated = list(dict.fromkeys(repeated))
        raise DuplicateItemError(
            f"`item_ids` must be unique, but {len(repeated)} occur more than once: {name_first(repeated)}. "
            "Keep one row an item."
        )

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {item: row for row, item in enumerate(self._ids)}

    @cached_property
    def _id_order(self) -> np.ndarray:
        if self._ids.dtype == object:
            # Code points sort as UTF-8 bytes do, so the order is the same on every machine.
            return np.array(sorted(range(len(self)), key=self._ids.__getitem__), dtype=np.int64)
        return np.argsort(self._ids, kind="stable")

    @cached_property
    def _sorted_ids(self) -> np.ndarray:
        return self._ids[self._id_order]

    @cached_property
    def _sorted_codes(self) -> tuple[np.ndarray, np.ndarray]:
        keys = row_keys(self.codes)
        order = np.argsort(keys, kind="stable")
        return order, keys[order]
