"""A two-layer GRU's whole run in one program: one name after the other, the weights changed in place.

Shapes: H padded hidden units, a power of two of at least 16; padded weights and units are zero and stay so. Gates come
in the order r, z, n, as in `wsfast.reference.gru`. A square matrix [3, H, H] is three tiles in the program's registers
for as long as a pass over a name's letters takes, so it is read once a pass, and once more where it is changed. The
tiles leave a thread few registers, and a vector beside a tile is copied to many threads; everything else goes through
memory, with a barrier between who writes and who reads. Sums run in a fixed order.

A network's memory, every place in it one address plus a constant: U, b, c of layer 1; W, U, b, c of layer 2; the linear
layer [H, CLASSES], its bias (-inf past the last class); W of layer 1 [V, 3, H]; then its scratch, a row a letter, one
more at the end. A row has ROW x H numbers: both layers' states that the letter finds; r, z, n, h_{t-1} U_n + c_n of
layer 1 and of layer 2; the gradients at x_t W + b and h_{t-1} U_n + c_n (in layer 2 x_t W itself before); the gradient
at the state that the letter finds.

letters int32: of all names one after another, FIRST more where a name begins; starts int32 [names + 1]; labels int32.
"""

import triton
import triton.language as tl

FIRST = tl.constexpr(256)
STATE, GATES, GRADIENT, CARRIED, ROW = (tl.constexpr(i) for i in (0, 2, 10, 14, 15))


@triton.jit
def _logistic(x):
    e = tl.exp(-tl.abs(x))
    return tl.where(x >= 0, 1.0, e) / (1.0 + e)


@triton.jit
def _tanh(x):
    """To 1e-7 of its value; near zero Cephes' tanhf polynomial, where 1 - e would cancel."""
    square = x * x
    p = -5.70498872745e-3 * square + 2.06390887954e-2
    p = p * square - 5.37397155531e-2
    p = p * square + 1.33314422036e-1
    p = p * square - 3.33332819422e-1
    e = tl.exp(-2.0 * tl.abs(x))
    far = (1.0 - e) / (1.0 + e)
    return tl.where(tl.abs(x) < 0.625, p * square * x + x, tl.where(x >= 0, far, -far))


@triton.jit
def _gates(ptr, H: tl.constexpr):
    """One row of a matrix, or a bias [3, H]: r, z, n, each [H]."""
    at = ptr + tl.arange(0, H)
    return tl.load(at), tl.load(at + H), tl.load(at + 2 * H)


@triton.jit
def _subtract(ptr, d_r, d_z, d_n, lr, H: tl.constexpr):
    """The step of one row of a matrix, or of a bias."""
    at = ptr + tl.arange(0, H)
    tl.store(at, tl.load(at) - lr * d_r)
    tl.store(at + H, tl.load(at + H) - lr * d_z)
    tl.store(at + 2 * H, tl.load(at + 2 * H) - lr * d_n)


@triton.jit
def _square(ptr, H: tl.constexpr):
    return (ptr + tl.arange(0, H) * H)[:, None] + tl.arange(0, H)[None, :]


@triton.jit
def _tiles(ptr, H: tl.constexpr):
    """The three tiles of a matrix [3, H, H]."""
    at = _square(ptr, H)
    return tl.load(at), tl.load(at + H * H), tl.load(at + 2 * H * H)


@triton.jit
def _product(h, w, out_ptr, H: tl.constexpr):
    """out [3, H] = h W."""
    at = out_ptr + tl.arange(0, H)
    h = h[:, None]
    tl.store(at, tl.sum(h * w[0], axis=0))
    tl.store(at + H, tl.sum(h * w[1], axis=0))
    tl.store(at + 2 * H, tl.sum(h * w[2], axis=0))


@triton.jit
def _product_back(d_ptr, w, out_ptr, H: tl.constexpr, NEW: tl.constexpr):
    """out [H] = W d; d [4, H], of which row NEW belongs to the third gate."""
    at = d_ptr + tl.arange(0, H)
    d_r, d_z, d_n = tl.load(at)[None, :], tl.load(at + H)[None, :], tl.load(at + NEW * H)[None, :]
    both = tl.fma(d_z, w[1], d_r * w[0])
    tl.store(out_ptr + tl.arange(0, H), tl.sum(tl.fma(d_n, w[2], both), axis=1))


@triton.jit
def _descend_gate(w_ptr, x_ptr, d_ptr, T, lr, H: tl.constexpr):
    """One tile of W -= lr x^T d; x and d [H] of T rows of scratch."""
    units, at = tl.arange(0, H), _square(w_ptr, H)
    w = tl.load(at)
    total = w * 0.0  # zeros laid out as W is: else the compiler moves the whole sum to other threads at the end
    for t in range(T):
        x = tl.load(x_ptr + t * (ROW * H) + units)
        total += x[:, None] * tl.load(d_ptr + t * (ROW * H) + units)[None, :]
    tl.store(at, w - lr * total)


@triton.jit
def _descend(w_ptr, x_ptr, d_ptr, T, lr, H: tl.constexpr, NEW: tl.constexpr):
    """W -= lr x^T d, NEW as in _product_back. The sum needs the registers: W is read again, but rounded only once."""
    _descend_gate(w_ptr, x_ptr, d_ptr, T, lr, H)
    _descend_gate(w_ptr + H * H, x_ptr, d_ptr + H, T, lr, H)
    _descend_gate(w_ptr + 2 * H * H, x_ptr, d_ptr + NEW * H, T, lr, H)


@triton.jit
def _recur(row_ptr, letters_ptr, w_ptr, u, bias_ptr, T, H: tl.constexpr, LAYER: tl.constexpr):
    """States and gates of a layer; x_t W is row x_t of W in layer 0, what _show left in layer 1. bias [6, H]: b, c."""
    units = tl.arange(0, H)
    tl.store(row_ptr + (STATE + LAYER) * H + units, tl.zeros((H,), tl.float32))
    tl.debug_barrier()
    for t in range(T):
        code, row = tl.load(letters_ptr + t), row_ptr + t * (ROW * H)
        before = row + (STATE + LAYER) * H + units
        at = row + (GATES + 4 * LAYER) * H
        _product(tl.load(before, mask=code < FIRST, other=0.0), u, at, H)
        tl.debug_barrier()
        s_r, s_z, s_n = _gates(at, H)
        b_r, b_z, b_n = _gates(bias_ptr, H)
        c_r, c_z, c_n = _gates(bias_ptr + 3 * H, H)
        if LAYER == 0:
            x_r, x_z, x_n = _gates(w_ptr + (code & (FIRST - 1)) * (3 * H), H)
        else:
            x_r, x_z, x_n = _gates(row + GRADIENT * H, H)
        r = _logistic(x_r + b_r + (s_r + c_r))
        z = _logistic(x_z + b_z + (s_z + c_z))
        m = s_n + c_n
        n = _tanh(x_n + b_n + r * m)
        h = n + z * (tl.load(before, mask=code < FIRST, other=0.0) - n)
        tl.debug_barrier()
        tl.store(before + ROW * H, h)
        at += units
        tl.store(at, r)
        tl.store(at + H, z)
        tl.store(at + 2 * H, n)
        tl.store(at + 3 * H, m)
        tl.debug_barrier()


@triton.jit
def _forward(row_ptr, letters_ptr, w1_ptr, p_ptr, T, H: tl.constexpr):
    """Both layers; returns U of the second, for the way back."""
    _recur(row_ptr, letters_ptr, w1_ptr, _tiles(p_ptr, H), p_ptr + 3 * H * H, T, H, 0)
    w = _tiles(p_ptr + 3 * H * (H + 2), H)
    for t in range(T):
        row = row_ptr + t * (ROW * H)
        _product(tl.load(row + ROW * H + tl.arange(0, H)), w, row + GRADIENT * H, H)
    tl.debug_barrier()
    u = _tiles(p_ptr + 3 * H * (2 * H + 2), H)
    _recur(row_ptr, letters_ptr, w1_ptr, u, p_ptr + 3 * H * (3 * H + 2), T, H, 1)
    return u


@triton.jit
def _unroll(row_ptr, u, u_ptr, T, lr, H: tl.constexpr, LAYER: tl.constexpr):
    """Back through one layer, and the step of U, b and c.

    The first row's CARRIED holds the gradient at the last h, later what each step passes back; in layer 0 that of row
    t + 1, the gradient at h_t from above, comes on top.
    """
    units = tl.arange(0, H)
    kept = tl.zeros((H,), tl.float32)
    for back in range(T):
        row = row_ptr + (T - 1 - back) * (ROW * H)
        d = kept + tl.load(row_ptr + CARRIED * H + units)
        if LAYER == 0:
            d += tl.load(row + (ROW + CARRIED) * H + units)
        r, z, n = _gates(row + (GATES + 4 * LAYER) * H, H)
        m = tl.load(row + (GATES + 4 * LAYER + 3) * H + units)
        kept = d * z
        d_n = d * (1 - z) * (1 - n * n)
        at = row + GRADIENT * H + units
        tl.store(at, d_n * m * r * (1 - r))
        tl.store(at + H, d * (tl.load(row + (STATE + LAYER) * H + units) - n) * z * (1 - z))
        tl.store(at + 2 * H, d_n)
        tl.store(at + 3 * H, d_n * r)
        tl.debug_barrier()
        _product_back(row + GRADIENT * H, u, row_ptr + CARRIED * H, H, 3)
        tl.debug_barrier()
    _descend(u_ptr, row_ptr + (STATE + LAYER) * H, row_ptr + GRADIENT * H, T, lr, H, 3)
    nothing = tl.zeros((H,), tl.float32)
    s_r, s_z, s_n, s_m = nothing, nothing, nothing, nothing
    for t in range(T):
        row = row_ptr + t * (ROW * H) + GRADIENT * H
        d_r, d_z, d_n = _gates(row, H)
        s_r += d_r
        s_z += d_z
        s_n += d_n
        s_m += tl.load(row + 3 * H + units)
    _subtract(u_ptr + 3 * H * H, s_r, s_z, s_n, lr, H)
    _subtract(u_ptr + 3 * H * (H + 1), s_r, s_z, s_m, lr, H)


@triton.jit
def _classify(h_ptr, fc_ptr, label, H: tl.constexpr, CLASSES: tl.constexpr):
    """(loss, whether the first of the largest logits is the label's, gradient at the logits [CLASSES], h [H], fc)."""
    classes = tl.arange(0, CLASSES)
    h = tl.load(h_ptr + tl.arange(0, H))
    fc = tl.load(fc_ptr + tl.arange(0, H)[:, None] * CLASSES + classes[None, :])  # [H, CLASSES]
    logits = tl.sum(h[:, None] * fc, axis=0) + tl.load(fc_ptr + H * CLASSES + classes)
    top = tl.max(logits, axis=0)
    e = tl.exp(logits - top)
    norm = tl.sum(e, axis=0)
    loss = tl.log(norm) + top - tl.sum(tl.where(classes == label, logits, 0.0), axis=0)
    hit = (tl.argmax(logits, axis=0) == label).to(tl.int32)
    return loss, hit, e / norm - (classes == label).to(tl.float32), h, fc


@triton.jit
def _parts(memory_ptr, R, V: tl.constexpr, H: tl.constexpr, CLASSES: tl.constexpr):
    """Where this program's network starts: its parameters, linear layer, W of layer 1, scratch of R rows."""
    fc = 3 * H * (3 * H + 4)
    w1 = fc + (H + 1) * CLASSES
    rows = w1 + V * 3 * H
    p_ptr = memory_ptr + tl.program_id(0).to(tl.int64) * (rows + R * (ROW * H))
    return p_ptr, p_ptr + fc, p_ptr + w1, p_ptr + rows


@triton.jit(do_not_specialize=["first", "last", "S", "R"])
def _train_gru_kernel(letters_ptr, starts_ptr, labels_ptr, drawn_ptr, loss_ptr, memory_ptr, lr, first, last, S, R,
                      V: tl.constexpr, H: tl.constexpr, CLASSES: tl.constexpr):  # fmt: skip
    """Steps first .. last - 1 of an epoch of S; drawn int32, the names, and loss [networks, S]."""
    p_ptr, linear_ptr, w1_ptr, row_ptr = _parts(memory_ptr, R, V, H, CLASSES)
    w2_ptr, u2_ptr = p_ptr + 3 * H * (H + 2), p_ptr + 3 * H * (2 * H + 2)
    table = tl.program_id(0).to(tl.int64) * S
    units, classes = tl.arange(0, H), tl.arange(0, CLASSES)
    for step in range(first, last):
        name = tl.load(drawn_ptr + table + step)
        start = tl.load(starts_ptr + name)
        T = tl.load(starts_ptr + name + 1) - start
        u2 = _forward(row_ptr, letters_ptr + start, w1_ptr, p_ptr, T, H)
        last_h = row_ptr + T * (ROW * H) + (STATE + 1) * H
        fc_ptr = linear_ptr + (name >> 31) * 64  # plus 0: its addresses, made before the loop, would spill
        loss, _, gradient, h, fc = _classify(last_h, fc_ptr, tl.load(labels_ptr + name), H, CLASSES)
        tl.debug_barrier()  # everyone has read the bias
        tl.store(loss_ptr + table + step, loss)
        # rounded products: else the compiler joins each to the sum's first addition, in every lane with another one
        tl.store(row_ptr + CARRIED * H + units, tl.sum(tl.fma(fc, gradient[None, :], tl.zeros_like(fc)), axis=1))
        tl.store(fc_ptr + units[:, None] * CLASSES + classes[None, :], fc - (lr * h)[:, None] * gradient[None, :])
        fc_b = fc_ptr + H * CLASSES + classes
        tl.store(fc_b, tl.load(fc_b) - lr * gradient)
        tl.debug_barrier()
        _unroll(row_ptr, u2, u2_ptr, T, lr, H, 1)
        w2 = _tiles(w2_ptr, H)
        for t in range(T):
            row = row_ptr + t * (ROW * H)
            _product_back(row + GRADIENT * H, w2, row + (ROW + CARRIED) * H, H, 2)
        tl.debug_barrier()  # everyone has W of layer 2 in registers
        _descend(w2_ptr, row_ptr + ROW * H, row_ptr + GRADIENT * H, T, lr, H, 2)
        tl.store(row_ptr + CARRIED * H + units, tl.zeros((H,), tl.float32))
        tl.debug_barrier()
        _unroll(row_ptr, _tiles(p_ptr, H), p_ptr, T, lr, H, 0)
        for t in range(T):
            d_r, d_z, d_n = _gates(row_ptr + t * (ROW * H) + GRADIENT * H, H)
            letter = tl.load(letters_ptr + start + t) & (FIRST - 1)
            _subtract(w1_ptr + letter * (3 * H), d_r, d_z, d_n, lr, H)
            tl.debug_barrier()  # the same letter may come again


@triton.jit(do_not_specialize=["R"])
def _show_gru_kernel(letters_ptr, starts_ptr, labels_ptr, splits_ptr, loss_ptr, hits_ptr, memory_ptr, R,
                     NAMES: tl.constexpr, V: tl.constexpr, H: tl.constexpr, CLASSES: tl.constexpr):  # fmt: skip
    """Summed loss float64 and hits int32 [networks] of the names splits [networks, 2]: from, to; NAMES at a time."""
    p_ptr, fc_ptr, w1_ptr, row_ptr = _parts(memory_ptr, R, V, H, CLASSES)
    net = tl.program_id(0)
    begin, end = tl.load(splits_ptr + 2 * net), tl.load(splits_ptr + 2 * net + 1)
    total, hits = tl.zeros((), tl.float64), tl.zeros((), tl.int32)
    for some in range(begin, end, NAMES):
        until = tl.minimum(some + NAMES, end)
        start = tl.load(starts_ptr + some)
        T = tl.load(starts_ptr + until) - start
        _forward(row_ptr, letters_ptr + start, w1_ptr, p_ptr, T, H)
        for name in range(some, until):
            last_h = row_ptr + (tl.load(starts_ptr + name + 1) - start) * (ROW * H) + (STATE + 1) * H
            loss, hit, _, _, _ = _classify(last_h, fc_ptr, tl.load(labels_ptr + name), H, CLASSES)
            total += loss.to(tl.float64)
            hits += hit
        tl.debug_barrier()
    tl.store(loss_ptr + net, total)
    tl.store(hits_ptr + net, hits)
