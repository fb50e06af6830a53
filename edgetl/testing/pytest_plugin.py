"""pytest runs the gate: one test for every variant and check of a bundle.

::

    pytest --edgetl-bundle flowers.edgetl --edgetl-data photos/ --edgetl-gate gate.toml

    flowers.edgetl::onnx.int8::works PASSED
    flowers.edgetl::onnx.int8::top1_agreement PASSED

An undecided check is skipped with its reason. Without ``--edgetl-data``, or where neither torch nor kept answers of
the original are, the golden samples of the bundle are run, and the ids end with ``[golden]``. Nothing is added without
``--edgetl-bundle``. For tests of one's own there are the fixtures ``edgetl_bundle``, ``edgetl_session`` and
``assert_parity``.

pytest imports this module at every start: what is heavy is imported when it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from edgetl.testing.bundle_checks import BundleChecks
    from edgetl.verify.report import Parity
    from edgetl_runtime.bundle import Bundle
    from edgetl_runtime.manifest import Preprocess
    from edgetl_runtime.session import Session

__all__ = [
    "CheckItem",
    "ChecksOfBundle",
    "ChecksOfVariant",
    "assert_parity",
    "edgetl_bundle",
    "edgetl_session",
    "parity_assertion",
    "pytest_addoption",
    "pytest_collection_modifyitems",
    "pytest_configure",
    "pytest_report_header",
]

_CHECKS = pytest.StashKey["BundleChecks | None"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--edgetl-bundle``, ``--edgetl-data``, ``--edgetl-gate``."""
    group = parser.getgroup("edgetl", "verification of an edgetl bundle")
    group.addoption("--edgetl-bundle", metavar="BUNDLE", help="run a test for every variant and check of this bundle")
    group.addoption("--edgetl-data", metavar="DIR", help="labelled photos (default: the bundle's golden samples)")
    group.addoption("--edgetl-gate", metavar="FILE.toml", help="limits (default: decisions must not fall apart)")


def pytest_configure(config: pytest.Config) -> None:
    """Open the bundle and the gate that are named, so that what is wrong with them ends the run with one message."""
    config.stash[_CHECKS] = None
    given = {name: config.getoption(f"--edgetl-{name}") for name in ("bundle", "data", "gate")}
    if given["bundle"] is None:
        for name in ("data", "gate"):
            if given[name] is not None:
                raise pytest.UsageError(f"--edgetl-{name} needs --edgetl-bundle BUNDLE")
        return
    from edgetl.testing.bundle_checks import BundleChecks
    from edgetl_runtime.errors import EdgetlError

    data, gate = (None if given[name] is None else Path(given[name]) for name in ("data", "gate"))
    try:
        config.stash[_CHECKS] = BundleChecks(Path(given["bundle"]), data, gate)
    except EdgetlError as error:
        raise pytest.UsageError(str(error)) from None


def pytest_report_header(config: pytest.Config) -> list[str]:
    """What is verified, and on which images."""
    checks = config.stash[_CHECKS]
    return [] if checks is None else [_shown(f"{checks.description}; the first test verifies it")]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add the tests of the bundle; first, so that ``-k`` and the like see them."""
    checks = config.stash[_CHECKS]
    if checks is not None:
        name = _shown(checks.path.name)
        bundle = ChecksOfBundle.from_parent(session, name=name, nodeid=name)
        items.extend(item for variant in bundle.collect() for item in variant.collect())


class ChecksOfBundle(pytest.Collector):
    """All tests of the bundle."""

    def collect(self) -> Iterable[ChecksOfVariant]:
        """One collector for every variant."""
        for variant in _checks(self.config).names():
            found: ChecksOfVariant = ChecksOfVariant.from_parent(self, name=_shown(variant), variant=variant)
            yield found


class ChecksOfVariant(pytest.Collector):
    """The tests of one variant."""

    def __init__(self, *, variant: str, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.variant = variant

    def collect(self) -> Iterable[CheckItem]:
        """One test for every check."""
        checks = _checks(self.config)
        ending = f"[{checks.label}]" if checks.label else ""
        for what in checks.names()[self.variant]:
            item: CheckItem = CheckItem.from_parent(
                self, name=_shown(f"{what}{ending}"), what=what, variant=self.variant
            )
            if self.config.pluginmanager.hasplugin("xdist"):
                # With --dist loadgroup one process verifies them all.
                item.add_marker(pytest.mark.xdist_group("edgetl"))
            yield item


class CheckItem(pytest.Item):
    """One check of one variant."""

    def __init__(self, *, what: str, variant: str, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.what, self.variant = what, variant

    def runtest(self) -> None:
        """Pass, fail or skip as the verification says."""
        from edgetl.testing.bundle_checks import GateError
        from edgetl_runtime.errors import EdgetlError

        try:
            outcome = _checks(self.config).outcome(self.variant, self.what)
        except EdgetlError as error:
            raise GateError(str(error)) from None
        if outcome.kind == "skipped":
            pytest.skip(_shown(outcome.why))
        if outcome.kind == "failed":
            raise GateError(_shown(outcome.why))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """A failed check is its message, without a trace."""
        from edgetl.testing.bundle_checks import GateError

        return str(excinfo.value) if isinstance(excinfo.value, GateError) else super().repr_failure(excinfo)

    def reportinfo(self) -> tuple[Path, None, str]:
        """What stands above a failure; not the end of the id, in which pytest would take dots for classes."""
        checks = _checks(self.config)
        return checks.path, None, _shown(f"{self.variant}: {self.name} of {checks.path.name}")


@pytest.fixture(scope="session")
def edgetl_bundle(pytestconfig: pytest.Config) -> Bundle:
    """The bundle of ``--edgetl-bundle``, open; a test that asks for it is skipped without one."""
    checks = pytestconfig.stash[_CHECKS]
    if checks is None:
        pytest.skip("no bundle: pytest --edgetl-bundle BUNDLE")
    return checks.bundle


@pytest.fixture(scope="session")
def edgetl_session(edgetl_bundle: Bundle) -> Iterator[Callable[..., Session]]:
    """``edgetl_session("onnx.int8", threads=1)`` loads a variant of the bundle; it is closed when the tests end.

    Options are those of `edgetl_runtime.bundle.Bundle.session`.
    """
    opened: dict[tuple[str, str], Session] = {}
    with ExitStack() as stack:

        def session(variant_id: str, **options: Any) -> Session:
            key = (variant_id, repr(sorted(options.items())))
            if key not in opened:
                opened[key] = stack.enter_context(edgetl_bundle.session(variant_id, **options))
            return opened[key]

        yield session


def assert_parity(
    session_a: Session,
    session_b: Session,
    samples: Sequence[Any],
    *,
    top1_agreement: float | None = 0.99,
    sqnr_db: float | None = None,
    spec: Preprocess | None = None,
) -> Parity:
    """As in `edgetl.testing.bundle_checks`; as a fixture, ``spec`` is by default that of ``--edgetl-bundle``."""
    __tracebackhide__ = True
    from edgetl.testing.bundle_checks import assert_parity as compare

    return compare(session_a, session_b, samples, top1_agreement=top1_agreement, sqnr_db=sqnr_db, spec=spec)


@pytest.fixture(name="assert_parity")
def parity_assertion(pytestconfig: pytest.Config) -> Callable[..., Parity]:
    """``assert_parity(session_a, session_b, samples, top1_agreement=0.99, sqnr_db=20)`` fails when b is not like a.

    Samples are tensors as the sessions take them, or images in any form when there is a bundle or a ``spec``.
    """
    checks = pytestconfig.stash[_CHECKS]
    default = None if checks is None else checks.bundle.manifest.preprocess

    def check(session_a: Session, session_b: Session, samples: Sequence[Any], **options: Any) -> Parity:
        __tracebackhide__ = True
        return assert_parity(session_a, session_b, samples, **{"spec": default, **options})

    return check


def _checks(config: pytest.Config) -> BundleChecks:
    checks = config.stash[_CHECKS]
    assert checks is not None
    return checks


def _shown(text: str) -> str:
    """Names and reasons for the terminal (see `edgetl_runtime.escaping`)."""
    from edgetl_runtime.escaping import printable

    return printable(text, keep="\n")
