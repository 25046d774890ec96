# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""
Which code a residual gets: the nearest, found exactly, or in training Sinkhorn's, which uses all codes about equally.

Imports only torch: the same file is the Hub's remote code.
"""

import torch
import torch.nn.functional as F


# Scores of rows and codes are gone through in blocks of so many bytes. On a CPU they stay in its cache.
BLOCK_BYTES = {"cpu": 2**21, "other": 2**28}
CHUNK_NUMEL = 2**22  # numbers of the rows whose shortlists are made at once
NUM_GROUPS = 256  # of codes: a row's nearest codes are looked for in the groups whose best code is near
MAX_NEAR_GROUPS = 64  # a row that has more is compared with all codes
# Sums of Sinkhorn's that lie in this range lose nothing to numbers below float32's range.
SINKHORN_RANGE = (1e-15, 1e15)


def is_distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def squared_distances(
    residuals: torch.Tensor, codebook: torch.Tensor, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Squared Euclidean distances of shape `(batch_size, codebook_size)`, in the dtype of `residuals`."""
    codebook = codebook.to(residuals)
    # One product, [-2r, |r|^2, 1] [w, 1, |w|^2]: adding the norms afterwards would go through the memory again.
    ones = residuals.new_ones
    rows = torch.cat([-2 * residuals, residuals.pow(2).sum(1, keepdim=True), ones(len(residuals), 1)], dim=1)
    columns = torch.cat([codebook, ones(len(codebook), 1), codebook.pow(2).sum(1, keepdim=True)], dim=1)
    return torch.mm(rows, columns.T, out=out)


@torch.no_grad()
def nearest_codes(residuals: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    r"""
    The nearest code of each row, of shape `(batch_size,)`; the lowest of those that are equally near.

    The answer is that of distances in the dtype of `residuals`, up to its rounding: exact for float64. It is found by
    a shortlist for each row from products of bfloat16 numbers, which few rows share with more than a handful of codes
    and which surely has the nearest, and by distances to the codes on it.

    What surely means: let `r` and `w` be a row and a code, less the mean code and over a power of two so that the
    longest code has a length `W` of about 1. Codes are compared by `|w|^2 - 2 r.w`. It is computed of `a`, which is
    `-2 r` in bfloat16, of `b`, which is `w` in bfloat16, and of `|w|^2` in three parts. Products of such numbers are
    exact, whatever precision a device takes float32 products in, and by Cauchy's inequality

        |a.b - (-2 r.w)| <= |a + 2 r| W + |a| max|b - w|,

    norms that are at hand. Summing up `D + 3` products in float32, in whatever order, adds at most `D + 3` times its
    rounding (Higham, Accuracy and Stability of Numerical Algorithms, eq. 3.4; more is allowed for), which gives a
    bound `e`. The nearest code's score is no more than `2 e` above the best that was computed, but for the rounding of
    the scores themselves.
    """
    chunks = residuals.split(max(1, CHUNK_NUMEL // residuals.shape[1]))
    return torch.cat([_nearest_codes(chunk, codebook) for chunk in chunks])


def _nearest_codes(residuals: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    codes, rows, near = _shortlists(residuals, codebook)
    if len(rows) > 0:
        scores, errors = _scores_of_pairs(residuals, codebook, rows, near)
        best = scores.new_full((len(residuals),), torch.inf).scatter_reduce_(0, rows, scores + errors, "amin")
        near = near.where(scores - errors <= best[rows], len(codebook))
        codes.scatter_reduce_(0, rows, near, "amin")
    crowded = (codes < 0).nonzero()[:, 0]
    if len(crowded) > 0:
        codes[crowded] = _nearest_of_all_codes(residuals[crowded], codebook)
    return codes


def nearest_candidates(
    residuals: torch.Tensor, codebook: torch.Tensor, codes: torch.Tensor, num_candidates: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The `num_candidates` nearest codes of each row and their squared distances, both of shape
    `(batch_size, num_candidates)`: first the row's own of `codes`, then the others by their float32 distance, and the
    lower code where that is equal.
    """
    candidates, distances = [], []
    numbers = torch.arange(len(codebook), device=residuals.device)
    blocks = _row_blocks(residuals, len(codebook))
    for rows, own in zip(blocks, codes.split(len(blocks[0])), strict=True):
        block = squared_distances(rows, codebook).clamp_(min=0).float()
        # The bits of floats that aren't negative are ordered as the floats are. The code makes each key distinct.
        keys = block.view(torch.int32).long().bitwise_left_shift_(32).bitwise_or_(numbers)
        keys.scatter_(1, own[:, None], own[:, None] - 2**32)
        nearest = keys.topk(num_candidates, dim=1, largest=False, sorted=True).values & (2**32 - 1)
        candidates.append(nearest)
        distances.append(block.gather(1, nearest))
    return torch.cat(candidates), torch.cat(distances)


def sinkhorn_assignment(distances: torch.Tensor, epsilon: float, num_iterations: int) -> torch.Tensor:
    """
    Codes of shape `(batch_size,)` that use all codes of a level about equally within the batch, which under
    `torch.distributed` is that of all processes together.

    FORGE's form: costs are standardized over the whole matrix, `Q = exp(-cost / epsilon)` is normalized over items and
    then over codes, `num_iterations` times, and each item takes its largest entry. (FORGE standardizes the costs of
    each process by themselves.)
    """
    codes = _sinkhorn_by_scaling_(distances.clone(), epsilon, num_iterations)
    return _sinkhorn_on_logarithms(distances, epsilon, num_iterations) if codes is None else codes


def balanced_codes(
    residuals: torch.Tensor, codebook: torch.Tensor, epsilon: float, num_iterations: int, out: torch.Tensor
) -> torch.Tensor:
    """[`sinkhorn_assignment`] by the distances of `residuals` to `codebook`, in the memory of `out`."""
    distances = squared_distances(residuals, codebook, out=out)
    codes = _sinkhorn_by_scaling_(distances, epsilon, num_iterations)
    if codes is None:
        distances = squared_distances(residuals, codebook, out=out)
        codes = _sinkhorn_on_logarithms(distances, epsilon, num_iterations)
    return codes


def _block_bytes(like: torch.Tensor) -> int:
    return BLOCK_BYTES["cpu" if like.device.type == "cpu" else "other"]


def _row_blocks(rows: torch.Tensor, num_columns: int) -> tuple[torch.Tensor, ...]:
    return rows.split(max(1, _block_bytes(rows) // (num_columns * rows.element_size())))


def _argmax(rows: torch.Tensor) -> torch.Tensor:
    """`rows.argmax(dim=1)`, by the largest of each of some groups of columns: much faster on a CPU."""
    size = rows.shape[1]
    group_size = next(size_ for size_ in (128, 64, 32, 16, 8, 4, 2, 1) if size % size_ == 0)
    groups = rows.view(len(rows), -1, group_size)
    best = groups.amax(dim=2).argmax(dim=1)
    return best * group_size + groups[torch.arange(len(rows), device=rows.device), best].argmax(dim=1)


def _product_dtype(device: torch.device) -> torch.dtype:
    """What bfloat16 numbers are multiplied in. Where there is no instruction for it, bfloat16 would be slower."""
    native = device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return torch.bfloat16 if native else torch.float32


def _shortlists(residuals: torch.Tensor, codebook: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """
    Codes of shape `(batch_size,)` as far as they are certain. Those of other rows are the size of the codebook where
    the row is in the pairs of rows and near codes that come with them, and -1 where there are too many near codes.
    """
    (size, dim), dtype = codebook.shape, _product_dtype(residuals.device)
    num_groups = min(NUM_GROUPS, size)
    group_size = -(-size // num_groups)

    # Code `k` is in group `k % num_groups`. Groups are filled up with codes that are infinitely long.
    center = codebook.to(residuals).mean(dim=0)
    weight = codebook.to(residuals) - center
    lengths = weight.norm(dim=1)
    scale = torch.exp2(-lengths.max().clamp(min=torch.finfo(weight.dtype).tiny).log2().floor())
    weight, lengths = weight * scale, lengths * scale
    columns = weight.new_zeros(group_size * num_groups, dim + 3, dtype=torch.bfloat16)
    columns[:size, :dim] = weight
    left = lengths.square()
    for part in range(dim, dim + 3):
        columns[:size, part] = left
        left = left - columns[:size, part]
    columns[size:, dim] = torch.inf
    weight_error = (columns[:size, :dim] - weight).norm(dim=1).max()
    longest = lengths.max()

    rows = (residuals - center).mul_(-2 * scale)
    factors = F.pad(rows.bfloat16(), (0, 3), value=1.0)
    rows_error, rows_length = (factors[:, :dim] - rows).norm(dim=1), rows.norm(dim=1)
    errors = 1.01 * (rows_error * longest + (rows_length + rows_error) * weight_error)
    errors += (dim + 8) * 2.0**-22 * longest * (rows_length + longest)
    rounding = 1.01 * torch.finfo(dtype).eps / 2

    columns, factors, errors = columns.to(dtype).T, factors.to(dtype), errors.float()
    blocks = _row_blocks(factors, columns.shape[1])
    memory = columns.new_empty(len(blocks[0]), columns.shape[1])
    pairs, start = [], 0
    for block in blocks:
        scores = torch.mm(block, columns, out=memory[: len(block)]).view(-1, group_size, num_groups)
        group_bests = scores.amin(dim=1)
        best = group_bests.amin(dim=1).float()
        limits = best + rounding * best.abs() + 2 * errors[start : start + len(block)]
        limits += rounding * limits.abs()
        near = group_bests <= limits[:, None]
        near &= near.sum(dim=1, keepdim=True) <= MAX_NEAR_GROUPS
        numbers, groups = near.nonzero(as_tuple=True)
        group_scores = scores[numbers, :, groups]
        which, places = (group_scores <= limits[numbers, None]).nonzero(as_tuple=True)
        pairs.append((numbers[which] + start, places * num_groups + groups[which]))
        start += len(block)
    numbers, near = (torch.cat(part) for part in zip(*pairs, strict=True))

    counts = torch.bincount(numbers, minlength=len(residuals))
    counts[~(rows_length < 2.0**60)] = 0  # scores may have overflown; a NaN is not less either
    single = counts[numbers] == 1
    codes = torch.full_like(counts, size).masked_fill_(counts == 0, -1)
    codes[numbers[single]] = near[single]
    several = counts[numbers] > 1
    return codes, numbers[several], near[several]


def _scores_of_pairs(
    residuals: torch.Tensor, codebook: torch.Tensor, rows: torch.Tensor, near: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each pair `|w|^2 - 2 r.w`, and by how much it may be off. A row may be in many pairs: they go in blocks."""
    block_size = max(1, _block_bytes(residuals) // (residuals.shape[1] * residuals.element_size()))
    scores, errors = [], []
    for some_rows, some_near in zip(rows.split(block_size), near.split(block_size), strict=True):
        # Of pairs, not by a matrix product: the same numbers in the same order give the same sum.
        own, other = residuals[some_rows], codebook[some_near].to(residuals)
        scores.append((other * (other - 2 * own)).sum(dim=1))
        errors.append(_score_errors(own, other))
    return torch.cat(scores), torch.cat(errors)


def _score_errors(residuals: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """By how much `|w|^2 - 2 r.w` may be off, summed up in the dtype of the two, of shape `(..., dim)`."""
    lengths = codes.norm(dim=-1)
    rounding = (codes.shape[-1] + 4) * torch.finfo(codes.dtype).eps
    return rounding * lengths * (lengths + residuals.norm(dim=-1))


def _nearest_of_all_codes(residuals: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    codebook = codebook.to(residuals)
    squares = codebook.pow(2).sum(1)
    codes = []
    for rows in _row_blocks(residuals, len(codebook)):
        scores = torch.addmm(squares, rows, codebook.T, alpha=-2)
        errors = _score_errors(rows[:, None], codebook)
        best = (scores + errors).amin(dim=1, keepdim=True)
        codes.append((scores.sub_(errors) <= best).byte().argmax(dim=1))  # the first of them
    return torch.cat(codes)


def _sum_over_processes(values: torch.Tensor) -> torch.Tensor:
    if is_distributed():
        torch.distributed.all_reduce(values)
    return values


def _largest_over_processes(values: torch.Tensor) -> torch.Tensor:
    if is_distributed():
        torch.distributed.all_reduce(values, op=torch.distributed.ReduceOp.MAX)
    return values


def _standard_deviation(blocks: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Of all entries of all processes."""
    count = sum(block.numel() for block in blocks)
    total = _sum_over_processes(torch.stack([sum(block.sum() for block in blocks), blocks[0].new_tensor(count)]))
    mean = total[0] / total[1]
    squares = sum(torch.linalg.vector_norm(block - mean).square() for block in blocks)
    return (_sum_over_processes(squares) / total[1]).sqrt().clamp(min=1e-12)


def _sinkhorn_by_scaling_(distances: torch.Tensor, epsilon: float, num_iterations: int) -> torch.Tensor | None:
    """
    Overwrites `distances`. `None` where float32's range might not do.

    Normalizing never changes `Q` but by a factor for each item and each code, so that `Q` stays as it is and only the
    factors move. Of these only the codes' need to be carried. What is exponentiated are the costs less the least of
    each code, and then less the least of each item: each item and each code has an entry of 1 then, and entries that
    underflow are beyond notice. The codes' offset leaves with the first normalization, the items' weights it.
    """
    blocks = _row_blocks(distances, distances.shape[1])
    scale = -1 / (epsilon * _standard_deviation(blocks))
    least = torch.stack([block.amin(dim=0) for block in blocks]).amin(dim=0)
    least = -_largest_over_processes(-least)
    sums = torch.zeros_like(least)
    for block in blocks:
        block.sub_(least)
        offsets = block.amin(dim=1, keepdim=True)
        block.sub_(offsets).mul_(scale).exp_()
        sums.addmv_(block.T, (offsets[:, 0] * scale).exp())
    history = [_sum_over_processes(sums)]
    for _ in range(num_iterations - 1):
        factors, sums = 1 / history[-1], torch.zeros_like(least)
        for block in blocks:
            sums.addmv_(block.T, 1 / (block @ factors))
        history.append(_sum_over_processes(sums))
    low, high = torch.stack(history).aminmax()
    if not (low > SINKHORN_RANGE[0] and high < SINKHORN_RANGE[1]):  # the same on all processes
        return None
    factors = 1 / history[-1]
    return torch.cat([_argmax(block.mul_(factors)) for block in blocks])


def _sinkhorn_on_logarithms(distances: torch.Tensor, epsilon: float, num_iterations: int) -> torch.Tensor:
    log_q = distances / (-epsilon * _standard_deviation((distances,)))
    for _ in range(num_iterations):
        largest = _largest_over_processes(log_q.amax(dim=0))
        log_q = log_q - largest - _sum_over_processes((log_q - largest).exp().sum(dim=0)).log()
        log_q = log_q - log_q.logsumexp(dim=1, keepdim=True)
    return log_q.argmax(dim=1)
