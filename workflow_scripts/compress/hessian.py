"""The layer-wise problem's Hessian H = 2 X X^T: accumulation over calibration tokens, damping, factorisation."""

import torch

from workflow_scripts.compress.settings import CompressionError

TILE = 128  # columns of X per product: only blocks on and above H's diagonal are computed


class Hessian:
    """H = (2 / n) sum over n sequences of X X^T for inputs X (in_features, tokens), float32."""

    def __init__(self, columns: int, device: torch.device | str = "cpu"):
        self.total = torch.zeros(columns, columns, device=device)
        self.sequences = 0
        self.tokens = 0

    def add_batch(self, x: torch.Tensor) -> None:
        """Add the inputs x (sequences, tokens, in_features) of one linear."""
        sequences = x.shape[0] if x.dim() > 2 else 1
        x = x.reshape(-1, x.shape[-1]).to(self.total.dtype)
        for start in range(0, x.shape[1], TILE):
            stop = start + TILE
            self.total[start:stop, start:].addmm_(x[:, start:stop].T, x[:, start:])
        self.sequences += sequences
        self.tokens += x.shape[0]

    def matrix(self) -> torch.Tensor:
        """H, symmetric. Raises CompressionError if no token or a non-finite one was seen."""
        if not self.tokens:
            raise CompressionError("no calibration token reached this linear; calibrate on more text")
        upper = torch.triu(self.total) * (2 / self.sequences)
        if not torch.isfinite(upper).all():
            raise CompressionError(
                "its inputs hold NaN or infinite activations; check the model and its precision"
            )
        return upper + torch.triu(upper, 1).T


def inverse_factor(H: torch.Tensor, damping: float) -> tuple[torch.Tensor, float]:
    """U, the upper Cholesky factor of (H + damping mean(diag H) I)^-1 = U^T U, and the damping really used.

    One factorisation, one triangular inverse: with P the reversal of rows, P H P = L L^T gives
    U = (P L P)^-1. A factorisation that fails is retried with growing damping up to 1; then it is an error.
    """
    diagonal = H.diagonal()
    attempt = damping
    while attempt <= max(1.0, damping):
        damped = H.flip(0, 1)
        damped.diagonal().add_(attempt * diagonal.mean())
        L, failed = torch.linalg.cholesky_ex(damped)
        del damped  # each of these is as large as H, which may be most of a job's memory
        if not failed:
            L = L.flip(0, 1)
            U = invert_upper(L)
            if torch.isfinite(U).all():
                return U, attempt
        attempt = max(2 * attempt, 1e-4)
    raise CompressionError(
        f"Cholesky of H failed with damping {damping:g} and at every doubling up to 1 (mean diagonal "
        f"{diagonal.mean().item():.3g}); calibrate on more or other text"
    )


def invert_upper(R: torch.Tensor) -> torch.Tensor:
    """Inverse of an upper triangular R (n, n), by halves; n^3 / 3 operations, a solve for the identity takes n^3.

    [A B; 0 D]^-1 = [A^-1, -A^-1 B D^-1; 0, D^-1].
    """
    inverse = torch.zeros_like(R)
    _invert_upper(R, inverse)
    return inverse


def _invert_upper(R: torch.Tensor, inverse: torch.Tensor) -> None:
    if (n := len(R)) <= TILE:
        inverse.copy_(
            torch.linalg.solve_triangular(R, torch.eye(n, dtype=R.dtype, device=R.device), upper=True)
        )
        return
    half = n // 2
    _invert_upper(R[:half, :half], inverse[:half, :half])
    _invert_upper(R[half:, half:], inverse[half:, half:])
    off = torch.linalg.solve_triangular(R[:half, :half], R[:half, half:], upper=True)
    inverse[:half, half:] = torch.linalg.solve_triangular(R[half:, half:], off, upper=True, left=False).neg_()


def reconstruction_error(weight: torch.Tensor, compressed: torch.Tensor, H: torch.Tensor | None) -> float:
    """tr((W - Q) H (W - Q)^T) / tr(W H W^T) = ||WX - QX||^2 / ||WX||^2, with H = None for the identity."""
    lost, whole = output_square(weight - compressed, H), output_square(weight, H)
    return (lost / whole).item() if whole > 0 else float(lost > 0)


def output_square(A: torch.Tensor, H: torch.Tensor | None) -> torch.Tensor:
    """tr(A H A^T) in float64, from the blocks on and above H's diagonal; ||A||^2 if H is None.

    It is never negative: H's products are float32, so the sum of a degenerate text may round to less than 0.
    """
    if H is None:
        return A.square().sum(dtype=torch.float64)
    total = torch.zeros((), dtype=torch.float64, device=A.device)
    for start in range(0, len(H), TILE):
        stop = start + TILE
        block = A[:, start:stop]
        total += ((block @ H[start:stop, start:stop]) * block).sum(dtype=torch.float64)
        if stop < len(H):
            total += 2 * ((block @ H[start:stop, stop:]) * A[:, stop:]).sum(dtype=torch.float64)
    return total.clamp(min=0)
