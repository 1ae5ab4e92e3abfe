"""What every test shares: Hypothesis profiles and the folder of real data."""

import os
import random
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parent.parent

# A failure prints a blob that replays it; wall-clock deadlines only fail on busy machines.
settings.register_profile(
    "ci",
    deadline=None,
    max_examples=25,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("thorough", settings.get_profile("ci"), max_examples=2000)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--thorough",
        action="store_true",
        help="80 times the Hypothesis examples, and more forks",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    # Shells start background jobs with SIGINT ignored, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    thorough = config.getoption("--thorough")
    settings.load_profile("thorough" if thorough else "ci")
    if getattr(config.option, "dist", "no") == "load":  # of -n: what files share is made once
        config.option.dist = "loadfile"
    if config.option.hypothesis_seed is None:  # xdist hands the choice to its workers
        # The suite is the same on every machine; the search for what is new is thorough's.
        config.option.hypothesis_seed = random.SystemRandom().randrange(2**32) if thorough else 0


def pytest_report_header(config: pytest.Config) -> str:
    return f"replay this run: pytest --hypothesis-seed={config.option.hypothesis_seed}"


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Networks with no seed of their own start alike, whichever tests ran before."""
    torch = sys.modules.get("torch")
    if torch is not None:
        # torch.manual_seed takes milliseconds where CUDA has not started: it keeps a stack trace.
        torch.default_generator.manual_seed(0)
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed_all(0)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder with the real data sets, house_price/ and mnist/ among them."""
    folder = Path(os.environ.get("IMMUCOND_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("real data absent: set IMMUCOND_DATA")
    return folder
