"""Orthogonal matching pursuit for many vectors at once with one dictionary."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mergecore_tokensurgeon.machine import screening_dtype

if TYPE_CHECKING:
    from torch import Tensor

CANDIDATES = 8
"""Number of atoms per vector that pass the screening and are compared in float32."""
BLOCK = 256
"""Number of atoms in a screening block. The screening first finds the best blocks, then the best atoms in them."""
NEGLIGIBLE = 1e-5
"""Residuals below this share of a vector's norm are rounding errors."""


class Dictionary:
    """Atoms to build vectors from: a float32 matrix of shape (atoms, dimensions), not normalized."""

    def __init__(self, atoms: Tensor) -> None:
        import torch

        self.atoms = atoms
        # Pad with zeros to a whole number of blocks.
        self._screen = torch.zeros(-(-len(atoms) // BLOCK) * BLOCK, atoms.shape[1], dtype=screening_dtype())
        self._screen[: len(atoms)] = atoms

    def __len__(self) -> int:
        return len(self.atoms)

    def best(self, residual: Tensor, tried: Tensor) -> Tensor:
        """Return the index of the untried atom with the largest |⟨residual, atom⟩|, of shape (vectors,).

        The product with all atoms is computed in `screening_dtype`, and the few best ones again in float32.
        """
        import torch

        scores = (residual.to(self._screen.dtype) @ self._screen.T).abs_()
        scores.scatter_(1, tried, -1.0)[:, len(self) :] = -1.0
        blocks = scores.view(len(scores), -1, BLOCK)
        chosen = blocks.amax(2).topk(min(CANDIDATES, blocks.shape[1]), dim=1).indices
        found = blocks.gather(1, chosen[..., None].expand(-1, -1, BLOCK)).flatten(1)
        places = found.topk(min(CANDIDATES, len(self)), dim=1).indices
        short = (chosen.gather(1, places // BLOCK) * BLOCK + places % BLOCK).clamp_(max=len(self) - 1)
        exact = torch.bmm(self.atoms[short], residual[..., None])[..., 0].abs_()
        exact.masked_fill_(found.gather(1, places) < 0, -1.0)
        return short.gather(1, exact.argmax(1, keepdim=True))[:, 0]


def pursue(dictionary: Dictionary, vectors: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Write each vector as a sum of `count` atoms, picked greedily (orthogonal matching pursuit, Pati et al. 1993).

    Each step picks the atom with the largest |⟨residual, atom⟩|. The residual is the vector minus its projection onto
    all atoms picked so far, computed with an orthonormal basis.

    Args:
        dictionary: The atoms.
        vectors: Float32 tensor of shape (vectors, dimensions).
        count: Maximum number of atoms to pick.

    Returns:
        The indices of the atoms and their least-squares coefficients (0 if fewer suffice), both (vectors, count).
    """
    import torch

    count = min(count, len(dictionary), vectors.shape[1])
    picked = torch.zeros(len(vectors), count, dtype=torch.int64)
    used = torch.zeros(len(vectors), count, dtype=torch.bool)
    basis = torch.zeros(len(vectors), count, vectors.shape[1])
    residual, floor = vectors.clone(), NEGLIGIBLE * vectors.norm(dim=1)
    for step in range(count):
        picked[:, step] = best = dictionary.best(residual, picked[:, :step])
        atom = dictionary.atoms[best]
        new = _without(_without(atom, basis[:, :step]), basis[:, :step])  # twice is enough for orthogonality
        length = new.norm(dim=1)
        used[:, step] = (length > NEGLIGIBLE**0.5 * atom.norm(dim=1)) & (residual.norm(dim=1) > floor)
        basis[:, step] = new / length.clamp(min=torch.finfo(new.dtype).tiny)[:, None] * used[:, step, None]
        residual = _without(residual, basis[:, step : step + 1])
    return picked, _coefficients(dictionary.atoms[picked], basis, vectors, used)


def _without(vectors: Tensor, basis: Tensor) -> Tensor:
    """Return each vector minus its projection onto its own orthonormal basis (vectors, basis, dimensions)."""
    import torch

    coordinates = torch.bmm(basis, vectors[..., None]).transpose(1, 2)
    return vectors - torch.bmm(coordinates, basis)[:, 0]


def _coefficients(atoms: Tensor, basis: Tensor, vectors: Tensor, used: Tensor) -> Tensor:
    """Solve R c = Qᵀ x by back substitution, where the atoms are Q R. Unused atoms have the coefficient 0."""
    import torch

    triangle = torch.bmm(basis, (atoms * used[..., None]).transpose(1, 2)).triu_()
    triangle += torch.diag_embed((~used).to(triangle.dtype))
    right = torch.bmm(basis, vectors[..., None])
    return torch.linalg.solve_triangular(triangle, right, upper=True)[..., 0] * used
