"""A run: the same bits after a kill, honest controls, the same noise for everybody."""

import numpy as np
import pytest
import torch
from toy_graft import Columns

from fovea.errors import FoveaError
from fovea.grafting.runs import run_cell
from fovea.grafting.scores import derangement, per_sample, sample_noise
from fovea.grafting.tokens import PooledEncoder, StoredTokens, store_tokens
from fovea.grafting.training import flow_time, masked_mean
from fovea.grafting.wrapper import Graft, pool


class Killed(Exception):
    """Stands for a kill."""


@pytest.fixture
def calls(backbone, samples, make_job, monkeypatch):
    """Runs a cell of one update; what its graft was handed and what it made of that, call by call."""

    def run(vision, kind="graft"):
        noted, original = [], Graft.__call__

        def note(self, tokens):
            made = original(self, tokens)
            noted.append((tokens.clone(), made.detach().clone()))
            return made

        with monkeypatch.context() as patch:
            patch.setattr(Graft, "__call__", note)
            run_cell(backbone, samples, make_job(kind, steps=1, vision=vision))
        return noted

    return run


@pytest.mark.parametrize("kind", ["graft", "lora"])
def test_a_killed_run_goes_on_and_gives_the_same_bits(kind, backbone, samples, make_job):
    job, updates = make_job(kind, steps=6, save_every=2), []
    whole = run_cell(backbone, samples, job)

    def tick() -> None:
        updates.append(1)
        if len(updates) == 5:
            raise Killed

    with pytest.raises(Killed):
        run_cell(backbone, samples, job, tick)
    assert job.state.is_file()
    updates.clear()
    again = run_cell(backbone, samples, job, lambda: updates.append(1))
    assert len(updates) == 6
    assert {**again, "seconds": 0} == {**whole, "seconds": 0}
    assert not job.state.exists()


def test_a_damaged_saved_state_is_named(backbone, samples, make_job):
    job = make_job("graft")
    job.state.write_bytes(b"nonsense")
    with pytest.raises(FoveaError, match=r"cannot go on from .*delete it"):
        run_cell(backbone, samples, job)


def test_tokens_are_computed_once_per_frame_whatever_the_runs(samples, encoder, tmp_path):
    for _ in range(2):
        place = store_tokens(
            encoder, samples.frames, {4, 2}, tmp_path, root=tmp_path, workers=1, progress=False
        )
    assert encoder.seen == 2 * len(samples.frames) + 1  # two cameras, and the black picture
    store, rows = StoredTokens(place), np.array([3, 0, 3])
    episode = samples.frames.episodes[0]
    pictures = torch.from_numpy(samples.frames.frames(episode.index, samples.frames.cameras[1])).permute(
        0, 3, 1, 2
    )
    for side in (4, 2):
        expected = pool(encoder.encode_image(pictures[rows]).values, encoder.grid, side)
        found = store.read(rows, side)
        assert len(found) == 2
        assert torch.allclose(found[1], expected, atol=1e-3)
    assert store.blank(3, 2)[0].shape == (3, 4, 4)


def test_a_grid_finer_than_the_encoders_own_loses_nothing(encoder):
    pictures = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    pooled = PooledEncoder(encoder, [16, 8, 3])
    assert pooled.parts == [3, 8]
    assert torch.equal(pooled.encode_image(pictures).values[:, 9:], encoder.encode_image(pictures).values)


def test_the_controls_do_what_they_say(backbone, samples, make_job):
    records = {
        v: run_cell(backbone, samples, make_job("graft", vision=v))
        for v in ("pictures", "shuffled", "zero_image")
    }
    blank = run_cell(backbone, samples, make_job("native", vision="zero_embedding"))
    assert records["pictures"]["shuffled"] is not None
    assert records["shuffled"]["shuffled"] is None
    assert records["pictures"]["scores"]["mse"] != records["pictures"]["shuffled"]["mse"]
    assert records["pictures"]["scores"]["zero_action"] == blank["scores"]["zero_action"]
    assert blank["trained"] == 0
    assert blank["losses"] == []


def rows(tokens):
    return sorted(torch.cat(tokens).flatten(1).tolist())


def test_shuffled_pictures_are_those_of_other_samples_of_the_update(calls):
    own, other = ([tokens for tokens, _ in calls(vision)[:2]] for vision in ("pictures", "shuffled"))
    for mine, theirs in zip(own, other, strict=True):  # cameras
        assert not torch.equal(mine, theirs)
        assert rows([mine]) == rows([theirs])


def test_shuffled_pictures_are_scored_as_a_graft_is_that_was_trained_on_its_own(calls):
    own, other = ([tokens for tokens, _ in calls(vision)[2:]] for vision in ("pictures", "shuffled"))
    as_trained, shuffled = own[: len(other)], own[len(other) :]
    assert all(map(torch.equal, shuffled, other))
    assert not any(map(torch.equal, shuffled, as_trained))
    assert rows(shuffled) == rows(as_trained)


def test_a_zero_image_is_black_in_training_and_scoring(calls):
    black = calls("zero_image")
    assert len(black) > 2
    assert not any(tokens[..., 0].any() for tokens, _ in black)  # brightness


def test_a_zero_embedding_is_all_that_the_language_model_gets(calls):
    blank = calls("zero_embedding", "native")
    assert blank
    assert not any(made.any() for _, made in blank)


def test_a_fresh_graft_speaks_as_loud_as_the_native_tower(calls):
    native, fresh = (
        torch.cat([made for _, made in noted]).square().mean().sqrt().item()
        for noted in (calls("pictures", "native"), calls("pictures")[:2])
    )
    assert fresh == pytest.approx(native, rel=0.3)


def test_pooling_changes_the_number_of_tokens_the_policy_gets(backbone, samples, make_job):
    coarse, fine = (run_cell(backbone, samples, make_job("graft", side=side)) for side in (1, 2))
    assert coarse["trained"] == fine["trained"]
    assert coarse["scores"]["mse"] != fine["scores"]["mse"]


def test_scores_do_not_depend_on_the_batch(backbone, samples, make_job):
    from dataclasses import replace

    job = make_job("native")
    one, many = (
        run_cell(backbone, samples, replace(job, scoring=replace(job.scoring, batch_size=size)))
        for size in (1, 6)
    )
    for metric in ("mse", "mse_real", "flow"):
        assert one["scores"][metric] == pytest.approx(many["scores"][metric], rel=1e-4, abs=1e-6)


def test_padding_and_padded_dimensions_do_not_count():
    errors, is_pad = torch.ones(2, 3, 4), torch.tensor([[False, False, True], [False, True, True]])
    errors[is_pad] = 1e6
    assert per_sample(errors, is_pad).tolist() == [1.0, 1.0]
    assert masked_mean(errors, is_pad).item() == 1.0


def test_noise_belongs_to_the_sample_and_times_are_stratified():
    shape = torch.Size([4, 8])
    assert torch.equal(sample_noise(0, 7, 3, shape)[0], sample_noise(0, 7, 3, shape)[0])
    assert not torch.equal(sample_noise(0, 7, 3, shape)[0], sample_noise(0, 8, 3, shape)[0])
    edges = flow_time(torch.linspace(0, 1, 5))
    for number in range(20):
        times = sample_noise(0, number, 4, shape)[1]
        assert ((edges[:-1] <= times) & (times <= edges[1:])).all()


def test_times_follow_the_policies_own_distribution():
    times = flow_time(torch.rand(20000, generator=torch.Generator().manual_seed(0)))
    assert times.mean().item() == pytest.approx(0.6 * 0.999 + 0.001, abs=0.01)  # of Beta(1.5, 1): 1.5 / 2.5
    assert times.min() >= 0.001
    assert times.max() <= 1.0


def test_a_derangement_leaves_nobody_in_place():
    for count in (2, 3, 10, 101):
        for seed in range(20):
            order = derangement(count, np.random.default_rng(seed))
            assert sorted(order) == list(range(count))
            assert (order != np.arange(count)).all()
    with pytest.raises(FoveaError, match="at least 2 samples to shuffle"):
        derangement(1, np.random.default_rng(0))


def test_an_encoder_whose_tokens_are_not_finite_is_refused(samples, tmp_path):
    class Broken(Columns):
        def encode_image(self, images):
            tokens = super().encode_image(images)
            tokens.values[0, 0, 0] = float("nan")
            return tokens

    with pytest.raises(FoveaError, match="columns gave NaN"):
        store_tokens(
            Broken().freeze(), samples.frames, {4}, tmp_path, root=tmp_path, workers=1, progress=False
        )
