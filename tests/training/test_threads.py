import torch
from toy_training import run, toy_source


def test_training_uses_the_threads_it_is_told_to_and_gives_them_back(tmp_path):
    before, during = torch.get_num_threads(), []

    class Watching(type(toy_source())):
        def batch(self, windows):
            during.append(torch.get_num_threads())
            return super().batch(windows)

    source = toy_source(source_class=Watching)
    run(tmp_path, steps=2, threads=before + 1, source=source)
    assert set(during) == {before + 1}
    assert torch.get_num_threads() == before
