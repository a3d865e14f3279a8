"""Chain factors, Grams, N x N kernels and heads on one GPU; arguments and results as `wsfast.reference.gram`.

Factors are float32 tensors on the device. The N x N kernel streams: one tile of G for all networks at a time, its dot
products added to K in float64, next tile. Tile shapes follow from d and r, so a network's bits do not depend on N; what
free memory decides is only how many networks are taken at once.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from .chunks import free_memory
from .grams import _dots_kernel, _gram_kernel, _pair_kernel, _tile_kernel
from .heads import _head_gradient_kernel, _head_kernel
from .mlp import default_precision, hip
from .products import _norm_kernel, _product_kernel, _unit_kernel
from .tiles import side, tiles

PRECISIONS = ("tf32x3", "tf32", "ieee")
SCRATCH = 2**30  # bytes that the tiles of all networks take at most
STEP = 128  # networks at once are a multiple: a run's addresses stay aligned
LAUNCH = 2**15  # networks at once at most: pairs are numbered in a grid of under 2^31 programs
GROUP = 1024  # networks whose share of a gradient is summed together


def device() -> torch.device:
    """Where arrays go: the GPU, or the CPU under Triton's interpreter."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def host(x: Any) -> np.ndarray:
    """Factors, or any tensor, as a NumPy array; what lies on the CPU is not copied."""
    return x.cpu().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)


def _tensor(x: Any) -> torch.Tensor:
    """float32 and contiguous on the device, a tensor on its own; it begins aligned, as kernels are compiled for."""
    if not isinstance(x, torch.Tensor):
        x = torch.from_numpy(np.ascontiguousarray(x, np.float32)).to(device())
    x = x.float().contiguous()
    return x.clone() if x.data_ptr() % 16 else x


def _factors(op: str, x: Any) -> torch.Tensor:
    x = _tensor(x)
    if x.ndim != 3 or 0 in x.shape:
        raise ValueError(f"{op}: factors must be [N, d, r] with no empty axis, got {list(x.shape)}")
    return x


def _precision(op: str, precision: str | None) -> str:
    precision = precision or default_precision()
    if precision not in PRECISIONS:
        raise ValueError(f"{op}: precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    return precision


def _options(kernel: str, rows: int, columns: int, depth: int) -> dict[str, Any]:
    return tiles(kernel, rows, columns, depth, hip()).options()


def _inverse_norms(w: torch.Tensor) -> torch.Tensor:
    """1 / ||row|| of weights [N, H, W]: [N, H]."""
    n, H, W = w.shape
    inverse, options = torch.empty(n, H, device=w.device), _options("norm", H, W, 0)
    _norm_kernel[n, -(-H // options["BM"])](w, inverse, H=H, W=W, **options)
    return inverse


def chain_factor(
    weights: list[Any], row_normalize: bool = False, column_normalize: bool = False, *, precision: str | None = None
) -> torch.Tensor:
    """As `wsfast.reference.gram.chain_factor`, of NumPy arrays or tensors: float32 [N, d, r] on the device.

    A plain chain 1 of an aligned float32 tensor on the device is a view of it. precision: "tf32x3" (float32-grade, the
    default on NVIDIA), "ieee" (the default on AMD) or "tf32". ValueError for another.
    """
    precision = _precision("chain_factor", precision)
    tensors = [_tensor(w) for w in weights]
    n, normalize = len(tensors[0]), row_normalize and len(tensors) > 1
    x = tensors[0].reshape(n, -1, tensors[0].shape[-1])
    left = _inverse_norms(x) if normalize else x
    for layer, w in enumerate(tensors[1:], 1):
        matrix = w.reshape(n, w.shape[1], -1)
        H, K, W = x.shape[1], matrix.shape[1], matrix.shape[2]
        y, options = torch.empty(n, H, W, device=x.device), _options("product", H, W, K)
        inner = _inverse_norms(matrix) if normalize else matrix
        _product_kernel[n, -(-H // options["BM"]), -(-W // options["BN"])](
            x, matrix, left, inner, y, H=H, K=K, W=W, LEFT=normalize and layer == 1, INNER=normalize,
            PRECISION=precision, **options)  # fmt: skip
        x = y.reshape(n, -1, w.shape[-1])
    if column_normalize:
        H, W = x.shape[1:]
        unit, options = torch.empty_like(x), _options("unit", H, W, 0)
        _unit_kernel[n, -(-W // options["BN"])](x, unit, H=H, W=W, **options)
        x = unit
    return x


def chain_gram(x: Any, *, precision: str | None = None) -> torch.Tensor:
    """As `wsfast.reference.gram.chain_gram`: float32 [N, d, d] on the device, exactly symmetric; precision as
    chain_factor."""
    precision, x = _precision("chain_gram", precision), _factors("chain_gram", x)
    n, D, R = x.shape
    g, options = torch.empty(n, D, D, device=x.device), _options("gram", D, D, R)
    count = -(-D // options["T"])
    _gram_kernel[n, count, count](x, g, D=D, R=R, PRECISION=precision, **options)
    return g


def _exponents(x: torch.Tensor) -> torch.Tensor:
    """Each network's power of two, int64 [N], that brings its largest number near 1, so that no product overflows; 0
    where a number is not finite."""
    low, high = torch.aminmax(x.flatten(1), dim=1)
    largest = torch.maximum(high, -low)
    return -torch.frexp(torch.where(largest.isfinite(), largest, 1.0))[1].long().clamp(-127, 126)


def _power(exponents: torch.Tensor) -> torch.Tensor:
    """2 to the exponents, float64, exactly (torch.ldexp goes through pow)."""
    return (exponents + 1023 << 52).view(torch.float64)


class _Side:
    """Factors and the powers of two they are multiplied by inside the kernels."""

    def __init__(self, x: torch.Tensor, exponents: torch.Tensor) -> None:
        self.x, self.exponents = x, exponents
        self.scale = _power(exponents).float()

    def __len__(self) -> int:
        return len(self.x)

    def runs(self, size: int) -> Iterator[tuple[slice, "_Side"]]:
        for first in range(0, len(self), size):
            part = slice(first, first + size)
            yield part, _Side(self.x[part], self.exponents[part])


def _squares(x: _Side, precision: str) -> torch.Tensor:
    """||X_i^T X_i||_F^2 of the scaled factors: float64 [N]."""
    n, D, R = x.x.shape
    out, options = torch.empty(n, dtype=torch.float64, device=x.x.device), _options("pair", R, R, D)
    _pair_kernel[n,](x.x, x.x, x.scale, x.scale, out, n, n, D=D, RA=R, RB=R, TILES=-(-R // options["T"]), LOWER=False,
                     OWN=True, PRECISION=precision, **options)  # fmt: skip
    return out


def near_one(x: Any) -> Any:
    """The factors themselves: the kernels scale them as they multiply."""
    return x


def gram_norm(x: Any, *, precision: str | None = None) -> np.ndarray:
    """As `wsfast.reference.gram.gram_norm`: float64 [N]; precision as chain_factor."""
    precision, factors = _precision("gram_norm", precision), _factors("gram_norm", x)
    exponents = _exponents(factors)
    return host(_squares(_Side(factors, exponents), precision).sqrt() * _power(-2 * exponents))


def _factorised(a: _Side, b: _Side, kernel: torch.Tensor, lower: bool, precision: str) -> None:
    D, RA, RB = *a.x.shape[1:], b.x.shape[2]
    options = _options("pair", max(RA, RB), max(RA, RB), D)
    _pair_kernel[len(a) * len(b),](
        a.x, b.x, a.scale, b.scale, kernel, len(b), kernel.stride(0), D=D, RA=RA, RB=RB,
        TILES=-(-max(RA, RB) // options["T"]), LOWER=lower, OWN=False, PRECISION=precision, **options)  # fmt: skip


def _tile_of_all(x: torch.Tensor, scale: torch.Tensor, p: int, q: int, out: torch.Tensor, precision: str) -> None:
    n, D, R = x.shape
    _tile_kernel[n,](x, scale, out, p, q, D=D, R=R, PRECISION=precision, **_options("tile", D, D, R))


def _lower_tiles(D: int) -> Iterator[tuple[int, int]]:
    """(p, q), q <= p, of the tiles of a Gram."""
    count = -(-D // _options("tile", D, D, 0)["T"])
    return ((p, q) for p in range(count) for q in range(p + 1))


def _packed(a: _Side, b: _Side, kernel: torch.Tensor, lower: bool, precision: str) -> None:
    D, length = a.x.shape[1], _options("tile", a.x.shape[1], 0, 0)["T"] ** 2
    first = torch.empty(len(a), length, device=a.x.device)
    second = first if lower else torch.empty(len(b), length, device=a.x.device)
    options = _options("dots", 0, 0, length)
    for p, q in _lower_tiles(D):
        _tile_of_all(a.x, a.scale, p, q, first, precision)
        if not lower:
            _tile_of_all(b.x, b.scale, p, q, second, precision)
        _dots_kernel[-(-len(a) // options["BM"]), -(-len(b) // options["BN"])](
            first, second, kernel, len(a), len(b), kernel.stride(0), 1 if p == q else 2, LENGTH=length, LOWER=lower,
            PRECISION=precision, **options)  # fmt: skip


def _at_once(D: int, where: torch.device) -> int:
    """How many networks' tiles are held together, for each side of K: what SCRATCH and half the free memory hold."""
    free = free_memory(where) if where.type == "cuda" else 2 * SCRATCH
    network = 4 * _options("tile", D, D, 0)["T"] ** 2
    return min(LAUNCH, max(1, min(SCRATCH, free // 2) // (2 * network * STEP)) * STEP)


def chain_kernel(
    a: Any, b: Any = None, form: str = "packed", cosine: bool = False, *, precision: str | None = None
) -> np.ndarray:
    """As `wsfast.reference.gram.chain_kernel`: float64 [Na, Nb], of factors on the device or on the host.

    An entry's bits depend on its two networks alone, whichever comes first. Beside the factors and K the device holds
    tiles of at most 1 GiB, or half the free memory where that is less: more networks than they allow are taken run by
    run; at the end, a copy of K. precision as chain_factor. ValueError for another form, or where the factors differ
    in d.
    """
    precision, symmetric = _precision("chain_kernel", precision), b is None
    if form not in ("packed", "factorised"):
        raise ValueError(f"chain_kernel: form must be packed or factorised, got {form!r}")
    x = _factors("chain_kernel", a)
    y = x if symmetric else _factors("chain_kernel", b)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"chain_kernel: factors must have one d, got {list(x.shape)} and {list(y.shape)}")
    one = _Side(x, _exponents(x))
    two = one if symmetric else _Side(y, _exponents(y))
    kernel = torch.zeros(len(one), len(two), dtype=torch.float64, device=x.device)
    fill, size = _packed if form == "packed" else _factorised, _at_once(x.shape[1], x.device)
    for rows, left in one.runs(size):
        for columns, right in two.runs(size):
            if not symmetric or columns.start <= rows.start:
                fill(left, right, kernel[rows, columns], symmetric and rows == columns, precision)
    if symmetric:
        kernel.tril_()
        kernel += kernel.tril(-1).T
    if cosine:
        norms = [_squares(s, precision).sqrt() for s in ([one] if symmetric else [one, two])]
        scale = torch.outer(norms[0], norms[-1])
        kernel /= torch.where(scale == 0, 1.0, scale)
    else:
        kernel *= _power(-2 * one.exponents)[:, None]
        kernel *= _power(-2 * two.exponents)
    return host(kernel)


def head(x: Any, a: Any, *, precision: str | None = None) -> np.ndarray:
    """As `wsfast.reference.gram.head`, [N, d, r], [C, d, d] -> float64 [N, C]; no G leaves the processor.

    precision as chain_factor. ValueError where the sizes differ.
    """
    precision, x, a = _precision("head", precision), _factors("head", x), _tensor(a)
    n, D, R = x.shape
    if a.shape[1:] != (D, D):
        raise ValueError(f"head: weights must be [C, {D}, {D}] for factors {list(x.shape)}, got {list(a.shape)}")
    C, options = len(a), _options("head", D, D, R)
    count = -(-D // options["T"])
    parts = torch.empty(n, count, C, dtype=torch.float64, device=x.device)
    _head_kernel[n, count](x, a, parts, C, D=D, R=R, CLASSES=side(C, 2**20), PRECISION=precision, **options)
    total = parts[:, 0].clone()
    for p in range(1, count):  # one order, whatever N
        total += parts[:, p]
    return host(total)


def head_gradient(x: Any, g: Any, *, precision: str | None = None) -> np.ndarray:
    """As `wsfast.reference.gram.head_gradient`, [N, d, r], [N, C] -> float32 [C, d, d], summed in the order of the
    networks; one tile of G of 1,024 networks is held. precision as chain_factor. ValueError where the sizes differ.
    """
    precision, x, g = _precision("head_gradient", precision), _factors("head_gradient", x), _tensor(g)
    n, D, _ = x.shape
    if g.ndim != 2 or len(g) != n:
        raise ValueError(f"head_gradient: g must be [{n}, C] for factors {list(x.shape)}, got {list(g.shape)}")
    C, T = g.shape[1], _options("tile", D, D, 0)["T"]
    out, ones = torch.zeros(C, D, D, device=x.device), torch.ones(n, device=x.device)
    scratch, options = torch.empty(min(n, GROUP), T * T, device=x.device), _options("head_gradient", C, 0, 0)
    for p, q in _lower_tiles(D):
        for first in range(0, n, GROUP):
            part = slice(first, first + GROUP)
            _tile_of_all(x[part], ones[part], p, q, scratch, precision)
            _head_gradient_kernel[T * T // options["BQ"], -(-C // options["BC"])](
                g[part], scratch, out, len(x[part]), C, p, q, D=D, T=T, PRECISION=precision, **options)  # fmt: skip
    return host(out)
