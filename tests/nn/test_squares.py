import pytest
import torch

from fovea.nn.squares import average_squares


def by_hand(tokens, mask, cameras, grid, side):
    rows, columns = grid
    values, kept = [], []
    for camera in range(cameras):
        for row in range(0, rows, side):
            for column in range(0, columns, side):
                places = [
                    camera * rows * columns + (row + i) * columns + column + j
                    for i in range(side)
                    for j in range(side)
                ]
                real = [place for place in places if mask[place]]
                values.append(tokens[real].mean(0) if real else torch.zeros(tokens.shape[1]))
                kept.append(bool(real))
    return torch.stack(values), torch.tensor(kept)


@pytest.mark.parametrize(("side", "grid"), [(2, (4, 6)), (3, (3, 6)), (1, (2, 3))])
def test_mean_of_the_real_patches_of_every_square(side, grid):
    torch.manual_seed(0)
    count = 2 * grid[0] * grid[1]
    tokens, mask = torch.randn(3, count, 5), torch.rand(3, count) > 0.6
    mask[0, : count // 2] = False  # a camera that is missing
    dirty = tokens.masked_fill(~mask[..., None], float("nan"))
    pooled, real = average_squares(dirty, mask, grid=grid, side=side)
    for row in range(3):
        expected, kept = by_hand(tokens[row], mask[row], 2, grid, side)
        assert torch.equal(real[row], kept)
        torch.testing.assert_close(pooled[row], expected)
    whole, none = average_squares(tokens, None, grid=grid, side=side)
    everywhere, _ = average_squares(tokens, torch.ones_like(mask), grid=grid, side=side)
    assert none is None
    torch.testing.assert_close(whole, everywhere)
