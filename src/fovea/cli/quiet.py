"""Keep other libraries' start-up chatter out of a user's terminal; errors still come through.

Non-obvious: worker processes inherit the environment, not filters set in Python, so PYTHONWARNINGS carries
them too. An explicit setting of the user's wins.
"""

import logging
import os
import warnings

NOISE = {
    "PYTHONWARNINGS": "ignore::SyntaxWarning,ignore::DeprecationWarning,ignore::FutureWarning",
    "TOKENIZERS_PARALLELISM": "false",
    "GYM_DISABLE_WARNINGS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "WANDB_SILENT": "true",
}


class _Macros(logging.Filter):
    """Drops robosuite's advice, given at every import, to set up a private macro file."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "macro" not in record.getMessage()


def silence() -> None:
    """Install the filters; cheap, safe to call more than once."""
    for name, value in NOISE.items():
        os.environ.setdefault(name, value)
    for category in (SyntaxWarning, DeprecationWarning, FutureWarning):
        warnings.simplefilter("ignore", category)
    logger = logging.getLogger("robosuite_logs")
    if not any(isinstance(f, _Macros) for f in logger.filters):
        logger.addFilter(_Macros())
    import av

    av.logging.set_libav_level(av.logging.ERROR)  # x264's statistics; LeRobot lets them through
