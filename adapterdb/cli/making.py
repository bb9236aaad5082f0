"""How deltas are to be made: options of ``adb ingest``, and ``adb cluster``."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import TYPE_CHECKING, Any, Literal

import click

from adapterdb.cli.options import NAMESPACE, WHERE
from adapterdb.cli.output import print_json, print_report
from adapterdb.cli.settings import Settings, shared
from adapterdb.errors import InvalidInput

if TYPE_CHECKING:
    from adapterdb.ingest.clusters import ClusterOptions

RECIPE = click.option(
    "--recipe",
    metavar="NAME|FILE",
    help="How deltas are made: see 'adb recipes'. Default: the home's own.",
)
CLUSTERS = click.option(
    "--clusters",
    metavar="N|auto",
    help="One delta for each of N clusters of passages instead of one for each passage.",
)
REPRESENTATIVE = click.option(
    "--representative",
    metavar="WHICH",
    help="Passages a cluster's delta is made from: centroid, sample, sample=N, or all.",
)
_RECIPE_OPTIONS = (
    RECIPE,
    click.option(
        "--weighting",
        type=click.Choice(["uniform", "salient", "tfidf", "camels"]),
        help="How much each token of a passage counts. Default: as the recipe says.",
    ),
    CLUSTERS,
    REPRESENTATIVE,
)


def making(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that say how deltas are made."""
    return reduce(lambda made, option: option(made), reversed(_RECIPE_OPTIONS), function)


def parse_clusters(
    clusters: str | None, representative: str | None, usual: str = "centroid"
) -> ClusterOptions | None:
    """The options that were written, or None for none.

    Raises:
        InvalidInput: for anything else; or a representative without clusters.
    """
    from adapterdb.ingest.clusters import ClusterOptions

    if clusters is None:
        if representative is not None:
            raise InvalidInput("--representative is of --clusters; give that too")
        return None
    if clusters != "auto" and not clusters.isdecimal():
        raise InvalidInput(f"--clusters {clusters!r} is neither a whole number nor auto")
    count = None if clusters == "auto" else int(clusters)
    which, _, some = (representative or usual).partition("=")
    if some and (which != "sample" or not some.isdecimal()):
        raise InvalidInput(
            f"--representative {representative!r} is not one of centroid, sample, sample=N, all"
        )
    given = {"sample": int(some)} if some else {}
    return ClusterOptions(count, which, **given)  # type: ignore[arg-type]  # it checks the word


@click.command()
@click.argument("clusters", metavar="N|auto", default="auto")
@click.option(
    "--by",
    type=click.Choice(["deltas", "text"]),
    default="deltas",
    help="What passages are compared by. Default: deltas.",
)
@REPRESENTATIVE
@RECIPE
@WHERE
@NAMESPACE
@shared
def cluster(
    settings: Settings,
    clusters: str,
    by: Literal["deltas", "text"],
    representative: str | None,
    recipe: str | None,
    where: str | None,
    namespace: str,
) -> None:
    """Give stored passages one delta for each cluster of them.

    Documents get a new version whose deltas are those of their clusters, made from all of a
    cluster's passages unless --representative says otherwise; 'adb rollback' brings a document's
    own deltas back. Deleting a document whose text a cluster's delta was made from takes that
    delta from the whole cluster, until the documents are ingested again.

    Example:
      adb cluster 12
      adb cluster auto --by text --representative sample=3
    """
    options = parse_clusters(clusters, representative, "all")
    with settings.open() as db:
        done = db.cluster(options, by=by, namespace=namespace, where=where, recipe=recipe)
    print_json(done) if settings.json else print_report(done)
