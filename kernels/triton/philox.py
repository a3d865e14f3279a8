"""The random streams of `wsfast.reference.philox`, the same bits, drawn on the device."""

import torch
import triton
import triton.language as tl

INIT, ORDER, AUGMENT, SAMPLE = 0, 1, 2, 4
BLOCK = 1024


@triton.jit
def _word(index, c1, task, repeat, k0, k1):
    """Words number `index` of a stream: four a block."""
    c0 = (index // 4).to(tl.uint32)
    zero = c0 * 0
    a, b, c, d = tl.philox_impl(c0, zero + c1, zero + task, zero + repeat, k0, k1, 10)
    which = index % 4
    return tl.where(which == 0, a, tl.where(which == 1, b, tl.where(which == 2, c, d)))


@triton.jit(do_not_specialize=["item", "HIGH", "ROWS", "COLUMNS"])
def _initial_kernel(out_ptr, jobs_ptr, key_ptr, bound, item, HIGH, ROWS, COLUMNS, PADDED: tl.constexpr,
                    RB: tl.constexpr, CB: tl.constexpr):  # fmt: skip
    """A program draws [RB, CB] of a network's [HIGH, PADDED].

    Rows and columns of one long run, at // PADDED and at % PADDED, Triton 3.7.1 compiles wrongly for 128 columns.
    """
    across: tl.constexpr = PADDED // CB
    tiles = tl.cdiv(HIGH, RB) * across  # of a network, in one axis with the networks: the second axis ends at 65,535
    net, tile = (tl.program_id(0) // tiles).to(tl.int64), tl.program_id(0) % tiles
    row, column = tile // across * RB + tl.arange(0, RB)[:, None], tile % across * CB + tl.arange(0, CB)[None, :]
    inside = (row < ROWS) & (column < COLUMNS)
    task, repeat = tl.load(jobs_ptr + 2 * net).to(tl.uint32), tl.load(jobs_ptr + 2 * net + 1).to(tl.uint32)
    k0, k1 = tl.load(key_ptr).to(tl.uint32), tl.load(key_ptr + 1).to(tl.uint32)
    draw = _word(row * COLUMNS + column, item.to(tl.uint32), task, repeat, k0, k1)
    unit = (draw >> 8).to(tl.int32).to(tl.float32) * (2.0**-23) - 1.0  # exact: 24 bits
    out = out_ptr + net * HIGH * PADDED + row * PADDED + column
    tl.store(out, tl.where(inside, unit * bound, 0.0), mask=row < HIGH)


@triton.jit(do_not_specialize=["c1", "N"])
def _words_kernel(out_ptr, jobs_ptr, key_ptr, c1, N, BLOCK: tl.constexpr):
    net = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    task, repeat = tl.load(jobs_ptr + 2 * net).to(tl.uint32), tl.load(jobs_ptr + 2 * net + 1).to(tl.uint32)
    k0, k1 = tl.load(key_ptr).to(tl.uint32), tl.load(key_ptr + 1).to(tl.uint32)
    draw = _word(at, c1.to(tl.uint32), task, repeat, k0, k1)
    tl.store(out_ptr + net * N + at, draw.to(tl.int64), mask=at < N)


def key(seed, device):
    """The two key words of a seed: int64 [2]."""
    return torch.tensor([seed & 0xFFFFFFFF, seed >> 32], dtype=torch.int64, device=device)


def initial_weight(out, rows, columns, bound, item, jobs, key):
    """Fill out float32 [N, rows padded, columns padded] with each network's draws of U[-bound, bound), zeros around."""
    n, high, wide = out.shape
    across = min(BLOCK, wide & -wide)  # the largest power of two that divides it
    down = BLOCK // across
    grid = (n * triton.cdiv(high, down) * (wide // across),)
    _initial_kernel[grid](out, jobs, key, bound, item, high, rows, columns, wide, down, across)


def words(n, purpose, item, jobs, key):
    """The first n words of every network's stream: int64 [N, n], 0 .. 2^32 - 1. jobs int64 [N, 2]: task and repeat."""
    out = torch.zeros(len(jobs), n, dtype=torch.int64, device=jobs.device)  # aot's launches draw nothing: valid even so
    _words_kernel[len(jobs), triton.cdiv(n, BLOCK)](out, jobs, key, (purpose << 24) + item, n, BLOCK)
    return out


def batch_order(n, counts, epoch, jobs, key):
    """The order in which each network visits its counts[i] <= n samples: int64 [N, n], -1 past its own."""
    keys = words(n, ORDER, epoch, jobs, key) << 31 | torch.arange(n, device=jobs.device)
    keys = keys.masked_fill(torch.arange(n, device=jobs.device) >= counts[:, None], torch.iinfo(torch.int64).max)
    order = torch.sort(keys, dim=1).values & 0x7FFFFFFF
    return order.masked_fill(torch.arange(n, device=jobs.device) >= counts[:, None], -1)


def sample(sizes, n, epoch, jobs, key):
    """n draws of a class and a member of it, sizes int64 [N, classes]: two int64 [N, n]."""
    draw = words(2 * n, SAMPLE, epoch, jobs, key).view(len(jobs), n, 2)
    chosen = draw[..., 0] * sizes.shape[1] >> 32
    return chosen, draw[..., 1] * sizes.gather(1, chosen) >> 32


def augmentation(n, pad, epoch, jobs, key):
    """Each sample's crop and mirroring, packed: int32 [N, n], dy + 2^8 dx + 2^16 flip."""
    draw = words(4 * n, AUGMENT, epoch, jobs, key).view(len(jobs), n, 4)
    shift = draw[..., :2] * (2 * pad + 1) >> 32
    return (shift[..., 0] | shift[..., 1] << 8 | (draw[..., 2] & 1) << 16).int()
