"""Progress bars keep off what a command prints."""

from fovea.progress import progress_bar


def test_what_is_said_beside_a_bar_goes_to_standard_error(capsys):
    for visible in (True, False):
        with progress_bar(visible=visible) as bar:
            bar.console.print("a worker died")
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("a worker died") == 2
